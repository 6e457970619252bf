package providertest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

var transactionTests = []test{
	{name: "CommitAndRollback", run: testCommitAndRollback},
	{name: "AfterItsEnd", run: testAfterItsEnd},
	{name: "Options", run: testTxOptions},
	{name: "InvalidOptions", run: testInvalidOptions},
	{name: "CommitOfAFailedTransaction", run: testCommitOfFailed},
	{name: "CommitThatFails", run: testCommitThatFails},
	{name: "CommitWithADeadContext", run: testCommitDead},
	{name: "RollbackWithADeadContext", run: testRollbackDead},
	{name: "DeadContextSparesTheTransaction", run: testDeadContextInTx},
	{name: "ContextOfBegin", run: testContextOfBegin},
	{name: "ConcurrentUse", run: testConcurrentUse},
	{name: "OpenRows", run: testOpenRows},
	{name: "RollbackUnderOpenRows", run: testRollbackUnderRows},
	{name: "RollbackUnderAStatement", run: testRollbackUnderStatement},
	{name: "OnAConnection", run: testTxOnConn},
	{name: "EndedInSQL", run: testTxEndedInSQL},
}

func testCommitAndRollback(t *testing.T, s suite) {
	p := s.open(t, 2)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	if traces(t, tx) != 1 || traces(t, p) != 0 {
		t.Error("before the commit only the transaction sees its row")
	}
	commit(t, tx)
	tx = begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (2)")
	rollback(t, tx)
	if n := value[int](t, p, "select sum(n) from t"); n != 1 {
		t.Errorf("%d", n)
	}
}

// everyUse uses a transaction in each way there is, but for its end.
func everyUse(ctx context.Context, tx providers.Tx) map[string]error {
	used := map[string]error{}
	for name, call := range everyCall {
		used[name] = call(ctx, tx, "select 'x'")
	}
	_, used["savepoint"] = tx.Savepoint(ctx, "")
	return used
}

func testAfterItsEnd(t *testing.T, s suite) {
	p := s.open(t, 1)
	for _, end := range []func(testing.TB, providers.Tx){commit, rollback} {
		tx := begin(t, p, providers.TxOptions{})
		sp := savepoint(t, tx, "")
		end(t, tx)
		for _, tx := range []providers.Tx{tx, sp} {
			used := everyUse(t.Context(), tx)
			used["commit"], used["rollback"] = tx.Commit(t.Context()), tx.Rollback(t.Context())
			for what, err := range used {
				if !errors.Is(err, pgx.ErrTxClosed) {
					t.Errorf("%s: %v", what, err)
				}
			}
		}
	}
}

func testTxOptions(t *testing.T, s suite) {
	p := s.open(t, 1)
	for _, tc := range []struct {
		opts                            providers.TxOptions
		isolation, readOnly, deferrable string
	}{
		{providers.TxOptions{}, "read committed", "off", "off"},
		{providers.TxOptions{Isolation: providers.ReadCommitted}, "read committed", "off", "off"},
		{providers.TxOptions{Isolation: providers.RepeatableRead}, "repeatable read", "off", "off"},
		{providers.TxOptions{Access: providers.ReadOnly}, "read committed", "on", "off"},
		{providers.TxOptions{Isolation: providers.Serializable, Access: providers.ReadWrite}, "serializable", "off", "off"},
		{providers.TxOptions{Isolation: providers.Serializable, Access: providers.ReadOnly, Deferrable: true}, "serializable", "on", "on"},
	} {
		tx := begin(t, p, tc.opts)
		got := value[string](t, tx, `select current_setting('transaction_isolation') || ',' ||
			current_setting('transaction_read_only') || ',' || current_setting('transaction_deferrable')`)
		if want := tc.isolation + "," + tc.readOnly + "," + tc.deferrable; got != want {
			t.Errorf("%+v: %s", tc.opts, got)
		}
		rollback(t, tx)
	}
	// The access mode is left to the server unless asked for: an explicit one
	// would fail on a standby.
	c := acquire(t, p)
	defer c.Release()
	outer := begin(t, c, providers.TxOptions{})
	mustExec(t, outer, "set local default_transaction_read_only = on") // ends with the transaction
	rollback(t, outer)
	if !s.keepsSessions() {
		return
	}
	mustExec(t, c, "set default_transaction_read_only = on")
	tx := begin(t, c, providers.TxOptions{})
	if got := value[string](t, tx, "show transaction_read_only"); got != "on" {
		t.Errorf("Begin overrode the server's default: read only is %s", got)
	}
	rollback(t, tx)
}

func testInvalidOptions(t *testing.T, s suite) {
	p := s.open(t, 1)
	c := acquire(t, p)
	defer c.Release()
	for _, on := range []beginner{p, c} {
		for _, opts := range []providers.TxOptions{
			{Isolation: "serializable; drop table t"}, {Access: "none"}, {Deferrable: true}, {Timeout: -1},
		} {
			var bad *providers.ConfigError
			if _, err := on.Begin(t.Context(), opts); !errors.As(err, &bad) {
				t.Errorf("%+v: %v", opts, err)
			}
		}
	}
}

// The server answers COMMIT with ROLLBACK when a statement had failed.
func testCommitOfFailed(t *testing.T, s suite) {
	for name, fail := range map[string]func(t *testing.T, tx providers.Tx){
		"exec": func(t *testing.T, tx providers.Tx) { _ = execError(t, tx, "select 1 / 0") },
		"row":  func(t *testing.T, tx providers.Tx) { _ = tx.QueryRow(t.Context(), "select 1 / 0").Scan(new(int)) },
		"rows": func(t *testing.T, tx providers.Tx) {
			_ = queryError(t.Context(), tx, "select 1 / (500 - n) from generate_series(1, 999) n")
		},
		"call":       func(t *testing.T, tx providers.Tx) { _ = runExec(t, tx, "select 1 / 0", "app.x", "1") },
		"setting":    func(t *testing.T, tx providers.Tx) { _ = runExec(t, tx, "select 1", "no_such_setting", "1") },
		"rows ended": closeRowsThatFail,
	} {
		t.Run(name, func(t *testing.T) {
			p := s.open(t, 1)
			mustExec(t, p, table)
			tx := begin(t, p, providers.TxOptions{})
			mustExec(t, tx, "insert into t values (1)")
			fail(t, tx)
			err := tx.Commit(t.Context())
			if got := txError(t, err); got.Result != providers.OutcomeRolledBack || got.Operation != "commit" || !errors.Is(err, pgx.ErrTxCommitRollback) {
				t.Errorf("%+v", got)
			}
			if n := traces(t, p); n != 0 {
				t.Errorf("%d rows", n)
			}
		})
	}
}

// closeRowsThatFail closes rows of which a later one, not yet read, fails.
func closeRowsThatFail(t *testing.T, tx providers.Tx) {
	rows, err := tx.Query(t.Context(), "select 1 / (5000 - n) from generate_series(1, 9999) n")
	if err != nil || !rows.Next() {
		t.Fatal("no row", err)
	}
	rows.Close()
	wantCode(t, "closed early", rows.Err(), "22012")
}

func testCommitThatFails(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table+"; create table u (n int unique deferrable initially deferred)")
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	mustExec(t, tx, "insert into u values (1), (1)")
	err := tx.Commit(t.Context())
	wantCode(t, "commit", err, "23505")
	if got := txError(t, err); got.Result != providers.OutcomeRolledBack || got.Operation != "commit" {
		t.Errorf("%+v", got)
	}
	if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Error(err)
	}
	if n := traces(t, p); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func testCommitDead(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	err := tx.Commit(ended())
	if got := txError(t, err); got.Result != providers.OutcomeRolledBack || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v", got)
	}
	wantNoDoubt(t, "commit", err)
	eventually(t, "the server rolled back", func() bool { return traces(t, p) == 0 })
}

func testRollbackDead(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	if err := tx.Rollback(ended()); err != nil {
		t.Errorf("a transaction whose context is dead is just the one to roll back: %v", err)
	}
	if n := traces(t, p); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func testDeadContextInTx(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	for what, err := range everyUse(ended(), tx) {
		wantOutcome(t, what, err, providers.OutcomeNotSent)
	}
	commit(t, tx)
	if n := traces(t, p); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// The context of Begin is that of Begin, not of the transaction.
func testContextOfBegin(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	ctx, cancel := context.WithCancel(t.Context())
	tx, err := p.Begin(ctx, providers.TxOptions{})
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "insert into t values (1)")
	commit(t, tx)
	if n := traces(t, p); n != 1 {
		t.Errorf("%d rows", n)
	}
}

func testConcurrentUse(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	var done, refused int
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 25 {
				_, err := tx.Exec(t.Context(), "insert into t values ($1)", 1)
				mu.Lock()
				switch {
				case err == nil:
					done++
				case errors.Is(err, providers.ErrConcurrentUse) && providers.OutcomeOf(err) == providers.OutcomeNotSent:
					refused++
				default:
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if done == 0 || done+refused != 200 {
		t.Errorf("%d done, %d refused", done, refused)
	}
	commit(t, tx)
	if n := traces(t, p); n != done {
		t.Errorf("%d rows of %d inserts", n, done)
	}
}

func testOpenRows(t *testing.T, s suite) {
	p := s.open(t, 1)
	tx := begin(t, p, providers.TxOptions{})
	sp := savepoint(t, tx, "")
	rows, err := tx.Query(t.Context(), "select generate_series(1, 3)")
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []providers.Tx{tx, sp} {
		used := everyUse(t.Context(), other)
		used["commit"] = other.Commit(t.Context())
		for what, err := range used {
			if !errors.Is(err, providers.ErrConcurrentUse) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	n := 0
	for rows.Next() {
		n++
	}
	if n != 3 || rows.Err() != nil {
		t.Errorf("the rows were disturbed: %d, %v", n, rows.Err())
	}
	commit(t, sp)
	commit(t, tx)
}

func testRollbackUnderRows(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	rows, err := tx.Query(t.Context(), "insert into t select generate_series(1, 3) returning n")
	if err != nil || !rows.Next() {
		t.Fatal("no row", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	rows.Close()
	if _, err := tx.Exec(t.Context(), "select 1"); !errors.Is(err, pgx.ErrTxClosed) {
		t.Error(err)
	}
	eventually(t, "the server rolled back", func() bool { return traces(t, p) == 0 })
}

func testRollbackUnderStatement(t *testing.T, s suite) {
	p := s.open(t, 2)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	pid := value[int](t, tx, "select pg_backend_pid()")
	var other sync.WaitGroup
	var err error
	other.Go(func() { _, err = tx.Exec(t.Context(), "select pg_sleep(60)") })
	eventually(t, "the statement runs", func() bool {
		return value[bool](t, p, "select state = 'active' and query like '%pg_sleep%' from pg_stat_activity where pid = $1", pid)
	})
	if err := tx.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	other.Wait()
	if err == nil {
		t.Error("the statement went on")
	}
	if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Error(err)
	}
	eventually(t, "the server rolled back", func() bool {
		// A pooler in between keeps the server's session until its statement is over.
		return traces(t, p) == 0 && (!s.keepsSessions() || value[int](t, p, "select count(*) from pg_locks where pid = $1", pid) == 0)
	})
}

func testTxOnConn(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	c := acquire(t, p)
	tx := begin(t, c, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	_, err := c.Begin(t.Context(), providers.TxOptions{})
	if got := txError(t, err); got.Result != providers.OutcomeNotSent || got.Operation != "begin" {
		t.Errorf("a second transaction, whose end would be the first's: %+v", got)
	}
	rows, err := tx.Query(t.Context(), "select generate_series(1, 3)")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "select 1"); !errors.Is(err, providers.ErrConcurrentUse) {
		t.Errorf("the connection is its transaction's: %v", err)
	}
	rows.Close()
	commit(t, tx)
	tx = begin(t, c, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (2)")
	c.Release()
	if _, err := tx.Exec(t.Context(), "insert into t values (3)"); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("the connection is somebody else's: %v", err)
	}
	if n := value[int](t, p, "select sum(n) from t"); n != 1 {
		t.Errorf("the release did not roll back: %d", n)
	}
}

// A transaction that SQL ends itself must not reach the next borrower, and what
// Commit then says must be true.
func testTxEndedInSQL(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	mustExec(t, tx, "rollback; begin")
	mustExec(t, tx, "insert into t values (2)")
	commit(t, tx)
	mustExec(t, p, "begin; insert into t values (4)") // and nobody ends it
	if n := value[int](t, p, "select sum(n) from t"); n != 2 {
		t.Errorf("%d: a transaction that was left open reached the next borrower", n)
	}
}
