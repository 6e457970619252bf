package providertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// startTests are about transactions that begin with a statement.
var startTests = []test{
	{name: "Ends", run: testStartEnds},
	{name: "Fails", run: testStartFails},
	{name: "Options", run: testStartOptions},
	{name: "Refuses", run: testStartRefuses},
	{name: "Scope", run: testStartInScope},
	{name: "Loss", run: testLossAtStart},
}

// starter opens a pool of one connection with the table, if it is a Starter.
func (s suite) starter(t *testing.T) (providers.Pool, providers.Starter) {
	t.Helper()
	cfg := s.config(t, 1)
	mustExec(t, s.openWith(t, cfg), "create table t (n int unique)")
	p := s.openWith(t, cfg)
	starter, ok := p.(providers.Starter)
	if !ok {
		t.Skip("its type says that it cannot")
	}
	return p, starter
}

func first(sql string, args ...any) providers.Statement {
	return providers.Statement{SQL: sql, Args: args}
}

func start(t testing.TB, on providers.Starter, opts providers.TxOptions, st providers.Statement) providers.Tx {
	t.Helper()
	tx, err := on.BeginWith(t.Context(), opts, st)
	if err != nil {
		t.Fatalf("BeginWith: %v", err)
	}
	return tx
}

func testStartEnds(t *testing.T, s suite) {
	p, starter := s.starter(t)
	tx := start(t, starter, providers.TxOptions{}, first("insert into t values ($1)", 1))
	mustExec(t, tx, insert, 2)
	if n := traces(t, tx); n != 2 {
		t.Errorf("%d rows in the transaction", n)
	}
	rollback(t, tx)
	if n := traces(t, p); n != 0 {
		t.Errorf("%d rows after the rollback", n)
	}
	tx = start(t, starter, providers.TxOptions{}, first("insert into t values (@n)", pgx.NamedArgs{"n": 3}))
	mustExec(t, savepoint(t, tx, ""), insert, 4)
	commit(t, tx)
	if n := traces(t, p); n != 2 {
		t.Errorf("%d rows after the commit", n)
	}
}

// A statement that fails leaves no transaction, and the pool its only connection.
func testStartFails(t *testing.T, s suite) {
	p, starter := s.starter(t)
	mustExec(t, p, insert, 1)
	for range 2 {
		tx, err := starter.BeginWith(t.Context(), providers.TxOptions{}, first("insert into t values ($1)", 1))
		wantCode(t, "a duplicate", err, "23505")
		if got := txError(t, err); tx != nil || got.Result != providers.OutcomeRolledBack || got.Operation != "begin" {
			t.Errorf("%v, %+v", tx, got)
		}
		_, err = starter.BeginWith(t.Context(), providers.TxOptions{}, first("insert into nothing values (1)"))
		wantCode(t, "no such table", err, "42P01")
		_, err = starter.BeginWith(t.Context(), providers.TxOptions{}, first("insert into t values ($1)", 1, 2))
		if o := providers.OutcomeOf(err); err == nil || o != providers.OutcomeNotSent && o != providers.OutcomeRolledBack {
			t.Errorf("too many arguments: told as %q: %v", o, err)
		}
		_, err = starter.BeginWith(ended(), providers.TxOptions{}, first("insert into t values (2)"))
		wantOutcome(t, "a dead context", err, providers.OutcomeNotSent)
	}
	if n := traces(t, p); n != 1 || p.Stats().InUse != 0 {
		t.Errorf("%d rows, %d in use", n, p.Stats().InUse)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := starter.BeginWith(ctx, providers.TxOptions{}, first("select pg_sleep(60)"))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	mustExec(t, p, "select 1")
}

func testStartOptions(t *testing.T, s suite) {
	p, starter := s.starter(t)
	_, err := starter.BeginWith(t.Context(), providers.TxOptions{Access: providers.ReadOnly}, first("insert into t values (1)"))
	wantCode(t, "read only", err, "25006")
	tx := start(t, starter, providers.TxOptions{Isolation: providers.Serializable}, first("insert into t values (1)"))
	if level := value[string](t, tx, "select current_setting('transaction_isolation')"); level != "serializable" {
		t.Errorf("it is %s", level)
	}
	rollback(t, tx)
	_, err = starter.BeginWith(t.Context(), providers.TxOptions{Isolation: "none"}, first("select 1"))
	var fault *providers.ConfigError
	if !errors.As(err, &fault) {
		t.Errorf("%v", err)
	}
	_, err = starter.BeginWith(t.Context(), providers.TxOptions{Timeout: 50 * time.Millisecond}, first("select pg_sleep(60)"))
	var limit *providers.TimeoutError
	if !errors.As(err, &limit) || limit.Limit != "transaction timeout" {
		t.Errorf("its time counts from the beginning: %v", err)
	}
	tx = start(t, starter, providers.TxOptions{Timeout: 50 * time.Millisecond}, first("insert into t values (1)"))
	eventually(t, "it is rolled back", func() bool { return p.Stats().InUse == 0 })
	if err := tx.Commit(t.Context()); providers.OutcomeOf(err) != providers.OutcomeRolledBack {
		t.Errorf("%v", err)
	}
	if n := traces(t, p); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func testStartRefuses(t *testing.T, s suite) {
	p, starter := s.starter(t)
	for _, sql := range []string{"commit", "begin", "rollback"} {
		tx, err := starter.BeginWith(t.Context(), providers.TxOptions{}, first(sql))
		if err == nil {
			_ = tx.Rollback(t.Context())
		}
		wantOutcome(t, sql, err, providers.OutcomeNotSent)
	}
	mustExec(t, p, "select 1")
}

func testStartInScope(t *testing.T, s suite) {
	p := s.openConfined(t, 1, confineX)
	starter, ok := p.(providers.Starter)
	if !ok {
		return // its type says so
	}
	ctx := in(t.Context(), "a")
	tx, err := starter.BeginWith(ctx, providers.TxOptions{}, first("insert into t (n) values ($1)", 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(in(t.Context(), "b"), "select 1"); !errors.Is(err, providers.ErrOtherScope) {
		t.Errorf("%v", err)
	}
	wantSeen(ctx, t, tx, "a")
	if err := tx.Commit(ctx); err != nil {
		t.Error(err)
	}
	wantRowsOfA(ctx, t, p, 1)
	_, err = starter.BeginWith(t.Context(), providers.TxOptions{}, first("select 1"))
	wantOutcome(t, "no scope", err, providers.OutcomeNotSent)
	if !errors.Is(err, errNoScope) || p.Stats().InUse != 0 {
		t.Errorf("%v, %d in use", err, p.Stats().InUse)
	}
}

// The connection is lost with the statement: nobody has committed it.
func testLossAtStart(t *testing.T, s suite) {
	for _, v := range []verdict{cutBefore, cutAfter} {
		w, p, direct := s.losing(t)
		starter, ok := p.(providers.Starter)
		if !ok {
			return // its type says so
		}
		w.lose("marker", v)
		_, err := starter.BeginWith(t.Context(), providers.TxOptions{}, first(insert, "marker"))
		if err == nil {
			t.Fatal("no error")
		}
		if o := providers.OutcomeOf(err); o != providers.OutcomeRolledBack && o != providers.OutcomeNotSent {
			t.Errorf("COMMIT was not sent, and the outcome is told as %q: %v", o, err)
		}
		settled(t, direct)
		if n := traces(t, direct); n != 0 {
			t.Errorf("%d rows", n)
		}
		commit(t, start(t, starter, providers.TxOptions{}, first(insert, "again")))
	}
}
