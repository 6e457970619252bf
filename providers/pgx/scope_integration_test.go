package pgx

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

func TestTrap18ScopeDoesNotLeakInATransaction(t *testing.T) {
	const show = "select current_setting('app.x', true) || '|' || current_setting('app.y', true) || '|' || current_setting('statement_timeout')"
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0]
	defer c.Release()
	inner, err := c.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tx := inner.(*Tx)
	run := func(pairs ...string) {
		t.Helper()
		if err := tx.Run(t.Context(), scoped(providers.CallExec, "select 1", nil, pairs...)); err != nil {
			t.Fatal(err)
		}
	}
	shown := func(want string, pairs ...string) {
		t.Helper()
		call := scoped(providers.CallQuery, show, nil, pairs...)
		if err := tx.Run(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		var got string
		if err := providers.FirstRow(call.Rows).Scan(&got); err != nil || got != want {
			t.Errorf("%q, want %q (%v)", got, want, err)
		}
	}
	run("app.x", "1", "app.y", "1")
	shown("2||5s", "app.x", "2", "statement_timeout", "5000")
	shown("||0")
	run("APP.X", "3")
	shown("4||0", "app.x", "4", "app.y", "")
	run("app.x", "5")
	shown("||0") // through Run without a scope

	for name, next := range map[string]func(){
		"query row": func() { _ = value[string](t, tx, show) },
		"query":     func() { rows, _ := tx.Query(t.Context(), show); rows.Close() },
		"exec":      func() { mustExec(t, tx, show) },
		"batch": func() {
			b := &pgx.Batch{}
			b.Queue(show).QueryRow(func(row pgx.Row) error {
				var got string
				if err := row.Scan(&got); err != nil || got != "||0" {
					t.Errorf("batch: %q %v", got, err)
				}
				return nil
			})
			if err := tx.SendBatch(t.Context(), b).Close(); err != nil {
				t.Error(err)
			}
		},
		"copy": func() {
			mustExec(t, tx, "create temp table seen (x text default current_setting('app.x'), n int)")
			run("app.x", "6")
			if _, err := tx.CopyFrom(t.Context(), pgx.Identifier{"seen"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}})); err != nil {
				t.Error(err)
			}
			if got := value[string](t, tx, "select x from seen"); got != "" {
				t.Errorf("copy: %q", got)
			}
		},
		"prepare": func() {
			if _, err := tx.Prepare(t.Context(), "p", "select 1"); err != nil {
				t.Error(err)
			}
		},
	} {
		run("app.x", "1", "statement_timeout", "5000")
		next()
		if got := value[string](t, tx, show); got != "||0" {
			t.Errorf("after %s: %q", name, got)
		}
	}
	// A call that fails before anything ran may have set something, or not.
	if err := tx.Run(t.Context(), scoped(providers.CallExec, "select 1", []any{pgx.QueryExecModeExec}, "app.x", "7")); err == nil {
		t.Error("not refused")
	}
	if got := value[string](t, tx, show); got != "||0" {
		t.Errorf("after a refusal: %q", got)
	}
	run("app.x", "8")
	mustCommit(t, tx)
	if got := value[string](t, c, show); got != "||0" {
		t.Errorf("after the commit: %q", got)
	}
}

// A limit of the last call's time is not one of COMMIT.
func TestTrap18LimitDoesNotHitCommit(t *testing.T) {
	w, dsn := newWire(t, pgtest.NewDB(t))
	p := balanced(t, providers.Config{DSN: dsn})
	mustExec(t, p, `create table t (n int);
		create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.3); return null; end $$;
		create constraint trigger slow after insert on t deferrable initially deferred for each row execute function slow()`)
	tx := begin(t, p, providers.TxOptions{})
	if err := tx.Run(t.Context(), scoped(providers.CallExec, "insert into t values (1)", nil, "statement_timeout", "200")); err != nil {
		t.Fatal(err)
	}
	if n := w.count(func() { mustCommit(t, tx) }); n != 1 {
		t.Errorf("%d round trips", n)
	}
	if n := rowsIn(t, p); n != 1 {
		t.Errorf("%d rows", n)
	}
	if s := p.Stats(); s.Resets != 0 {
		t.Errorf("%d resets of a session that is clean", s.Resets)
	}
}

func TestTrap18ScopeThatCannotBeEnded(t *testing.T) {
	w, dsn := newWire(t, pgtest.NewDB(t))
	p := balanced(t, providers.Config{DSN: dsn})
	tx := begin(t, p, providers.TxOptions{})
	if err := tx.Run(t.Context(), scoped(providers.CallExec, "select 1", nil, "app.x", "1")); err != nil {
		t.Fatal(err)
	}
	w.on("", cutBefore)
	if _, err := tx.Exec(t.Context(), "select 1"); err == nil {
		t.Error("it ran in the scope of another call")
	}
	if err := tx.Rollback(t.Context()); providers.OutcomeOf(err) != providers.OutcomeRolledBack {
		t.Errorf("%v", err)
	}
}

func TestTrap18ScopeIsOneRoundTrip(t *testing.T) {
	w, dsn := newWire(t, pgtest.NewDB(t))
	onEach(t, providers.Config{DSN: dsn}, "", func(t *testing.T, _ *Pool, q runner) {
		query := func() {
			call := scoped(providers.CallQuery, "select current_setting('statement_timeout') || $1::text", []any{"!"}, "statement_timeout", "1234")
			if err := q.Run(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			var got string
			if err := providers.FirstRow(call.Rows).Scan(&got); err != nil || got != "1234ms!" {
				t.Errorf("%q %v", got, err)
			}
		}
		exec := func() {
			call := scoped(providers.CallExec, "select $1::int", []any{1}, "statement_timeout", "1234")
			if err := q.Run(t.Context(), call); err != nil || call.Tag.RowsAffected() != 1 {
				t.Errorf("%s %v", call.Tag, err)
			}
		}
		query() // prepares
		exec()
		if n := w.count(query); n != 1 {
			t.Errorf("query: %d round trips", n)
		}
		if n := w.count(exec); n != 1 {
			t.Errorf("exec: %d round trips", n)
		}
		if got := value[string](t, q, "select current_setting('statement_timeout')"); got != "0" {
			t.Errorf("the setting is still there: %s", got)
		}
	})
}

func TestTrap18SaysWhichLimitFired(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, _ *Pool, q runner) {
		run := func(ctx context.Context, limit string, kind providers.CallKind) error {
			call := scoped(kind, "select pg_sleep(60)", nil, "statement_timeout", limit)
			err := q.Run(ctx, call)
			if kind == providers.CallQuery && err == nil {
				call.Rows.Close()
				err = call.Rows.Err()
			}
			return err
		}
		if tx, ok := q.(*Tx); ok {
			sp := savepoint(t, tx, "")
			defer func() { _ = sp.Rollback(t.Context()) }()
			q = sp
		}
		for _, kind := range []providers.CallKind{providers.CallExec, providers.CallQuery} {
			err := run(t.Context(), "20", kind)
			var limit *providers.TimeoutError
			if !errors.As(err, &limit) || limit.Limit != "statement_timeout" || limit.Operation != kind.String() || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", kind, err)
			}
			if providers.OutcomeOf(err) != providers.OutcomeRolledBack {
				t.Errorf("outcome %s", providers.OutcomeOf(err))
			}
			if tx, ok := q.(*Tx); ok {
				mustRollback(t, tx)
				sp := savepoint(t, tx.root, "")
				q = sp
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			err = run(ctx, "60000", kind)
			cancel()
			if !errors.As(err, &limit) || limit.Limit != "context deadline" || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", kind, err)
			}
			if tx, ok := q.(*Tx); ok {
				mustRollback(t, tx)
				q = savepoint(t, tx.root, "")
			}
		}
		if got := value[string](t, q, "select current_setting('statement_timeout')"); got != "0" {
			t.Errorf("the setting is still there: %s", got)
		}
	})
}

func TestTrap18ServersOwnLimits(t *testing.T) {
	p := balanced(t, providers.Config{StatementTimeout: 20 * time.Millisecond, Pool: providers.PoolStrategy{MaxSize: 2}})
	_, err := p.Exec(t.Context(), "select pg_sleep(60)")
	var limit *providers.TimeoutError
	if !errors.As(err, &limit) || limit.Limit != "statement_timeout" {
		t.Errorf("%v", err)
	}
	p = balanced(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 2}}) // where nothing else ends
	mustExec(t, p, "create table t ()")
	holder := begin(t, p, providers.TxOptions{})
	mustExec(t, holder, "lock t")
	_, err = p.Exec(t.Context(), "set lock_timeout = 10; lock t")
	if !errors.As(err, &limit) || limit.Limit != "lock_timeout" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	_, err = p.Exec(t.Context(), "begin; lock t nowait")
	if errors.As(err, &limit) && errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nowait is no limit of time: %v", err)
	}
	mustRollback(t, holder)
}

func TestScopeOfASearchPath(t *testing.T) {
	const query = "select v from things"
	onEach(t, providers.Config{}, `
		create schema a; create table a.things (v text); insert into a.things values ('a');
		create schema b; create table b.things (v int); insert into b.things values (7)`,
		func(t *testing.T, _ *Pool, q runner) {
			for range 2 {
				call := scoped(providers.CallQuery, query, nil, "search_path", "a")
				if err := q.Run(t.Context(), call); err != nil {
					t.Fatal(err)
				}
				var v string
				if err := providers.FirstRow(call.Rows).Scan(&v); err != nil || v != "a" {
					t.Errorf("%q %v", v, err)
				}
				exec := scoped(providers.CallExec, "update things set v = v where v = $1", []any{"a"}, "search_path", "a")
				if err := q.Run(t.Context(), exec); err != nil || exec.Tag.RowsAffected() != 1 {
					t.Errorf("%s %v", exec.Tag, err)
				}
			}
		})
}

func TestScopeThatHasToComeFirstFails(t *testing.T) {
	const query = "insert into things values ('x') returning v"
	w, dsn := newWire(t, pgtest.NewDB(t))
	onEach(t, providers.Config{DSN: dsn}, "create schema if not exists a; create table if not exists a.things (v text)",
		func(t *testing.T, p *Pool, q runner) {
			for _, kind := range []providers.CallKind{providers.CallExec, providers.CallQuery} {
				for name, tc := range map[string]struct {
					lost, timeout, code string
				}{
					"a setting": {timeout: "nonsense", code: "22023"},
					"begin":     {lost: "begin", timeout: "0"},
					"commit":    {lost: "commit", timeout: "0"},
					"rollback":  {lost: "rollback", timeout: "nonsense", code: "22023"},
				} {
					if _, ok := q.(*Pool); !ok && tc.lost != "" {
						continue
					}
					p.Reset() // so that nothing is prepared
					if tc.lost != "" {
						w.on(tc.lost, cutBefore)
					}
					call := scoped(kind, query, nil, "search_path", "a", "statement_timeout", tc.timeout)
					err := q.Run(t.Context(), call)
					if kind == providers.CallQuery && err == nil {
						for call.Rows.Next() {
						}
						err = call.Rows.Err()
					}
					w.on("", forward)
					var pg *providers.PGError
					if err == nil || errors.As(err, &pg) != (tc.code != "") || pg != nil && pg.Code != tc.code {
						t.Errorf("%s: %v", name, err)
					}
					if tx, ok := q.(*Tx); ok {
						mustRollback(t, tx)
						return
					}
					if n := value[int](t, q, "select count(*) from a.things"); n != 0 {
						t.Errorf("%s: %d rows", name, n)
					}
				}
			}
		})
}

func TestScopeValuesAreData(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, _ *Pool, q runner) {
		evil := `'); drop table x; -- "$1`
		call := scoped(providers.CallQuery, "select current_setting('app.x'), current_setting('app.y')", nil, "app.x", evil, "app.y", "")
		if err := q.Run(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		var x, y string
		if err := providers.FirstRow(call.Rows).Scan(&x, &y); err != nil || x != evil || y != "" {
			t.Errorf("%q %q %v", x, y, err)
		}
	})
}

func TestScopeDoesNotDirtyTheSession(t *testing.T) {
	p := balanced(t, providers.Config{})
	for range 3 {
		call := scoped(providers.CallQuery, "select 1", nil, "app.x", "1")
		if err := p.Run(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		call.Rows.Close()
		if err := p.Run(t.Context(), scoped(providers.CallExec, "select 1", nil, "app.x", "1")); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.Stats().Resets; n != 0 {
		t.Errorf("%d resets, each a round trip, of what ended by itself", n)
	}
	// What the user's own statement leaves behind still counts.
	if err := p.Run(t.Context(), scoped(providers.CallExec, "set app.leak = '1'", nil, "app.x", "1")); err != nil {
		t.Fatal(err)
	}
	call := scoped(providers.CallQuery, "select set_config('app.leak', '2', false)", nil, "app.x", "1")
	if err := p.Run(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	call.Rows.Close()
	if n := p.Stats().Resets; n != 2 {
		t.Errorf("%d resets", n)
	}
}

func TestTrap34FailedSettingAbortsWhatIsBehindIt(t *testing.T) {
	for _, mode := range []string{"", "&default_query_exec_mode=exec", "&default_query_exec_mode=simple_protocol", "&default_query_exec_mode=cache_describe"} {
		t.Run(mode, func(t *testing.T) {
			dsn := pgtest.NewDB(t)
			onEach(t, providers.Config{DSN: dsn + mode}, "create table if not exists t (n int)", func(t *testing.T, p *Pool, q runner) {
				for _, kind := range []providers.CallKind{providers.CallExec, providers.CallQuery} {
					call := scoped(kind, "insert into t values ($1) returning n", []any{1}, "app.x", "1", "statement_timeout", "nonsense")
					err := q.Run(t.Context(), call)
					if kind == providers.CallQuery && err == nil {
						for call.Rows.Next() {
							t.Error("a row of a statement that must not run")
						}
						err = call.Rows.Err()
					}
					var pg *providers.PGError
					if !errors.As(err, &pg) || pg.Code != "22023" {
						t.Errorf("%s: %v", kind, err)
					}
					if tx, ok := q.(*Tx); ok {
						if _, err := tx.Exec(t.Context(), "select 1"); err == nil {
							t.Error("the transaction must be aborted")
						}
						mustRollback(t, tx)
						break
					}
				}
				if c, ok := q.(*Conn); ok {
					c.Release()
				}
				if n := value[int](t, p, "select count(*) from t"); n != 0 {
					t.Errorf("%d rows inserted behind a setting that failed", n)
				}
			})
		})
	}
}
