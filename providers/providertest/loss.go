package providertest

import (
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

var lossTests = []test{
	{name: "Statement", run: testLossOfStatement},
	{name: "Commit", run: testLossOfCommit},
	{name: "Transaction", run: testLossInTransaction},
	{name: "Killed", run: testKilled},
	{name: "Recovers", run: testRecovers},
}

// wantHonest takes an error at its word: what it claims of the work must be so.
// It may always say that it does not know.
func wantHonest(t testing.TB, what string, err error, done bool) {
	t.Helper()
	if err == nil {
		if !done {
			t.Errorf("%s: there is no error, and the work is not there", what)
		}
		return
	}
	o := providers.OutcomeOf(err)
	if done && (o == providers.OutcomeNotSent || o == providers.OutcomeRolledBack) {
		t.Errorf("%s: told as %q, and the work is there: %v", what, o, err)
	}
	if !done && o == providers.OutcomeCommitted {
		t.Errorf("%s: told as %q, and the work is not there: %v", what, o, err)
	}
}

// losing opens a pool behind a wire, and another that is not.
func (s suite) losing(t *testing.T) (w *wire, p, direct providers.Pool) {
	t.Helper()
	cfg := s.config(t, 2)
	direct = s.openWith(t, cfg)
	mustExec(t, direct, "create table t (s text)")
	w, cfg.DSN = newWire(t, cfg.DSN)
	return w, s.openWith(t, cfg), direct
}

// settled waits until nobody but direct itself works on the database, so that
// what is there is there to stay.
func settled(t testing.TB, direct providers.Pool) {
	t.Helper()
	eventually(t, "the server is done", func() bool {
		return value[int](t, direct, `select count(*) from pg_stat_activity where datname = current_database()
			and pid <> pg_backend_pid() and (state = 'active' or xact_start is not null)`) == 0
	})
}

const insert = "insert into t values ($1)"

func testLossOfStatement(t *testing.T, s suite) {
	for name, run := range map[string]func(q querier) error{
		"exec":  func(q querier) error { return execError(t, q, insert, "marker") },
		"query": func(q querier) error { return queryError(t.Context(), q, insert+" returning s", "marker") },
		"row":   func(q querier) error { return q.QueryRow(t.Context(), insert+" returning s", "marker").Scan(nil) },
		"call": func(q querier) error {
			return q.Run(t.Context(), scoped(providers.CallExec, insert, []any{"marker"}))
		},
		"scoped call": func(q querier) error {
			return q.Run(t.Context(), scoped(providers.CallExec, insert, []any{"marker"}, "app.x", "1"))
		},
		"scoped query": func(q querier) error {
			call := scoped(providers.CallQuery, insert+" returning s", []any{"marker"}, "app.x", "1")
			if err := q.Run(t.Context(), call); err != nil {
				return err
			}
			return providers.FirstRow(call.Rows).Scan(nil)
		},
		"simple": func(q querier) error { return execError(t, q, "insert into t values ('marker')") },
	} {
		for when, v := range map[string]verdict{"before": cutBefore, "after": cutAfter} {
			t.Run(name+" "+when, func(t *testing.T) {
				w, p, direct := s.losing(t)
				mustExec(t, p, "select 1") // the connection is there
				w.lose("marker", v)
				err := run(p)
				if err == nil || !w.lost() {
					t.Errorf("no error: %v", err)
				}
				settled(t, direct)
				wantHonest(t, name, err, traces(t, direct) == 1)
				if err := run(p); err != nil {
					t.Errorf("the pool is not well again: %v", err)
				}
			})
		}
	}
}

func testLossOfCommit(t *testing.T, s suite) {
	for name, options := range map[string]providers.TxOptions{"plain": {}, "serializable": {Isolation: providers.Serializable}} {
		for when, v := range map[string]verdict{"before": cutBefore, "after": cutAfter} {
			t.Run(name+" "+when, func(t *testing.T) {
				w, p, direct := s.losing(t)
				tx := begin(t, p, options)
				mustExec(t, tx, insert, "x")
				w.lose("commit", v)
				err := tx.Commit(t.Context())
				if _ = txError(t, err); !w.lost() {
					t.Error("nothing was lost")
				}
				settled(t, direct)
				wantHonest(t, "commit", err, traces(t, direct) == 1)
			})
		}
	}
	t.Run("rollback", func(t *testing.T) {
		w, p, direct := s.losing(t)
		tx := begin(t, p, providers.TxOptions{})
		mustExec(t, tx, insert, "x")
		w.lose("rollback", cutBefore)
		if err := tx.Rollback(t.Context()); err != nil && txError(t, err).Result != providers.OutcomeRolledBack {
			t.Error(err)
		}
		settled(t, direct)
		if n := traces(t, direct); n != 0 {
			t.Errorf("%d rows", n)
		}
	})
	t.Run("scope", func(t *testing.T) {
		for _, v := range []verdict{cutBefore, cutAfter} {
			w, p, direct := s.losing(t)
			mustExec(t, p, "select 1")
			w.lose("commit", v) // of a provider that pays a scope with a transaction
			err := runExec(t, p, "insert into t values ('x')", "app.x", "1")
			settled(t, direct)
			wantHonest(t, "a scope's end", err, traces(t, direct) == 1)
		}
	})
}

func testLossInTransaction(t *testing.T, s suite) {
	w, p, direct := s.losing(t)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, insert, "first")
	w.lose("marker", cutAfter)
	if execError(t, tx, insert, "marker") == nil {
		t.Fatal("no error")
	}
	err := execError(t, tx, insert, "third")
	if err == nil {
		t.Error("a statement ran outside the transaction that was lost")
	}
	if got := txError(t, tx.Commit(t.Context())); got.Result != providers.OutcomeRolledBack {
		t.Errorf("COMMIT was not sent: %+v", got)
	}
	settled(t, direct)
	wantHonest(t, "third", err, false)
	if n := traces(t, direct); n != 0 {
		t.Errorf("%d rows", n)
	}
	tx = begin(t, p, providers.TxOptions{})
	sp := savepoint(t, tx, "")
	mustExec(t, sp, insert, "x")
	w.lose("release", cutBefore)
	if err := sp.Commit(t.Context()); txError(t, err).Result != providers.OutcomeRolledBack {
		t.Errorf("%v", err)
	}
	if err := tx.Commit(t.Context()); txError(t, err).Result != providers.OutcomeRolledBack {
		t.Errorf("%v", err)
	}
	settled(t, direct)
	if n := traces(t, direct); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// The server ends the session in the middle of a statement.
func testKilled(t *testing.T, s suite) {
	p := s.open(t, 2)
	mustExec(t, p, table)
	err := execError(t, p, "with i as (insert into t values (1)) select pg_terminate_backend(pg_backend_pid())")
	wantHonest(t, "killed", err, false)
	if err == nil || providers.OutcomeOf(err) == providers.OutcomeNotSent {
		t.Errorf("it was sent: %v", err)
	}
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (2)")
	_ = execError(t, tx, "select pg_terminate_backend(pg_backend_pid())")
	if got := txError(t, tx.Commit(t.Context())); got.Result != providers.OutcomeRolledBack {
		t.Errorf("%+v", got)
	}
	if n := traces(t, p); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// Every connection of the pool is killed while it is idle. The pool comes back
// by itself, and nothing that fails meanwhile is told as what it is not.
func testRecovers(t *testing.T, s suite) {
	cfg := s.config(t, 3)
	cfg.Pool.InitialSize = 3
	p := s.openWith(t, cfg)
	cfg.Pool.InitialSize = 0
	other := s.openWith(t, cfg)
	mustExec(t, p, table)
	mustExec(t, other, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
	good := 0
	for i := 0; good < 20 && i < 100; i++ {
		err := execError(t, p, insert, i)
		wantHonest(t, "insert", err, value[bool](t, other, "select exists (select from t where n = $1)", i))
		if err == nil {
			good++
		}
	}
	if good < 20 {
		t.Errorf("only %d statements succeeded", good)
	}
}
