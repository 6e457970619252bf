package pgx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// accounts is a table whose constraint is checked at the end of a transaction.
const accounts = `create table t (n int); create table d (n int unique deferrable initially deferred)`

// txResult returns what a TxError says, or fails.
func txResult(t testing.TB, err error) *providers.TxError {
	t.Helper()
	var tx *providers.TxError
	if !errors.As(err, &tx) {
		t.Fatalf("not a TxError: %v", err)
	}
	return tx
}

func TestCommitAndRollbackOutcomes(t *testing.T) {
	cases := map[string]struct {
		work   string
		end    func(ctx context.Context, tx *Tx) error
		result providers.Outcome
		is     error
		code   string
		rows   int
	}{
		"commit":   {"insert into t values (1)", func(ctx context.Context, tx *Tx) error { return tx.Commit(ctx) }, providers.OutcomeCommitted, nil, "", 1},
		"rollback": {"insert into t values (1)", func(ctx context.Context, tx *Tx) error { return tx.Rollback(ctx) }, providers.OutcomeCommitted, nil, "", 0},
		"deferred constraint": {
			"insert into t values (1); insert into d values (1), (1)",
			func(ctx context.Context, tx *Tx) error { return tx.Commit(ctx) }, providers.OutcomeRolledBack, nil, "23505", 0,
		},
		"after a failed statement": {
			"insert into t values (1)", func(ctx context.Context, tx *Tx) error {
				_, _ = tx.Exec(ctx, "select 1/0")
				return tx.Commit(ctx)
			}, providers.OutcomeRolledBack, pgx.ErrTxCommitRollback, "", 0,
		},
		"commit with a dead context": {
			"insert into t values (1)", func(_ context.Context, tx *Tx) error { return tx.Commit(ended()) },
			providers.OutcomeRolledBack, context.Canceled, "", 0,
		},
		"rollback with a dead context": {
			"insert into t values (1)", func(_ context.Context, tx *Tx) error { return tx.Rollback(ended()) },
			providers.OutcomeCommitted, nil, "", 0,
		},
		"commit after a scoped call": {
			"select 1", func(ctx context.Context, tx *Tx) error {
				if err := tx.Run(ctx, scoped(providers.CallExec, "insert into t values (1)", nil, "statement_timeout", "5000")); err != nil {
					return err
				}
				return tx.Commit(ctx)
			}, providers.OutcomeCommitted, nil, "", 1,
		},
		"failed commit after a scoped call": {
			"insert into d values (1)", func(ctx context.Context, tx *Tx) error {
				if err := tx.Run(ctx, scoped(providers.CallExec, "insert into d values (1)", nil, "lock_timeout", "5000")); err != nil {
					return err
				}
				return tx.Commit(ctx)
			}, providers.OutcomeRolledBack, nil, "23505", 0,
		},
		"failed scoped call": {
			"insert into t values (1)", func(ctx context.Context, tx *Tx) error {
				_ = tx.Run(ctx, scoped(providers.CallExec, "select 1/0", nil, "statement_timeout", "5000"))
				return tx.Commit(ctx)
			}, providers.OutcomeRolledBack, pgx.ErrTxCommitRollback, "", 0,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := balanced(t, providers.Config{})
			mustExec(t, p, accounts)
			for _, onConn := range []bool{false, true} {
				mustExec(t, p, "truncate t, d")
				var tx *Tx
				var c providers.Conn
				if onConn {
					c = acquireN(t, p, 1)[0]
					inner, err := c.Begin(t.Context(), providers.TxOptions{})
					if err != nil {
						t.Fatal(err)
					}
					tx = inner.(*Tx)
				} else {
					tx = begin(t, p, providers.TxOptions{})
				}
				mustExec(t, tx, tc.work)
				err := tc.end(t.Context(), tx)
				if providers.OutcomeOf(err) != tc.result {
					t.Errorf("outcome %s of %v", providers.OutcomeOf(err), err)
				}
				if err != nil {
					result := txResult(t, err)
					var pg *providers.PGError
					if result.Operation != "commit" || tc.is != nil && !errors.Is(err, tc.is) ||
						tc.code != "" && (!errors.As(err, &pg) || pg.Code != tc.code) {
						t.Errorf("%+v", result)
					}
				}
				if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
					t.Errorf("after the end: %v", err)
				}
				if err := tx.Commit(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
					t.Errorf("after the end: %v", err)
				}
				if c != nil {
					mustExec(t, c, "select 1") // the borrower's still
					c.Release()
				}
				if n := rowsIn(t, p); n != tc.rows {
					t.Errorf("%d rows", n)
				}
			}
			if s := p.Stats(); s.Connects != 1 {
				t.Errorf("%d connections made", s.Connects)
			}
		})
	}
}

func TestTrap20SafeToRetry(t *testing.T) {
	onEach(t, providers.Config{}, "create table t (n int)", func(t *testing.T, _ *Pool, q runner) {
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		_, err := q.Exec(ctx, "insert into t values (1)")
		if providers.OutcomeOf(err) != providers.OutcomeNotSent || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a context that was done: %v", err)
		}
		var limit *providers.TimeoutError
		if !errors.As(err, &limit) || limit.Limit != "context deadline" {
			t.Errorf("it must not look like something to repeat at once: %v", err)
		}
		if q, ok := q.(interface {
			runner
			providers.Batcher
		}); ok {
			rows, err := q.Query(t.Context(), "select 1")
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			if _, isPool := q.(*Pool); isPool {
				return
			}
			_, err = q.Exec(t.Context(), "insert into t values (1)")
			if !errors.Is(err, providers.ErrConcurrentUse) || pgconn.SafeToRetry(err) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Errorf("a busy connection: %v", err)
			}
		}
	})
}

func TestTrap21ConnectionLostAtCommit(t *testing.T) {
	for name, tc := range map[string]struct {
		verdict verdict
		rows    int
	}{
		// The client cannot tell these two apart.
		"before it reached the server": {cutBefore, 0},
		"before the answer":            {cutAfter, 1},
	} {
		for _, limited := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, limited %t", name, limited), func(t *testing.T) {
				w, dsn := newWire(t, pgtest.NewDB(t))
				p := balanced(t, providers.Config{DSN: dsn})
				mustExec(t, p, accounts)
				tx := begin(t, p, providers.TxOptions{})
				call := scoped(providers.CallExec, "insert into t values (1)", nil)
				if limited {
					call.Scope = []providers.Setting{{Name: "statement_timeout", Value: "9000"}}
				}
				if err := tx.Run(t.Context(), call); err != nil {
					t.Fatal(err)
				}
				commits := 0
				w.on("commit", tc.verdict)
				rule := w.rule
				w.rule = func(kind byte, body []byte) verdict {
					v := rule(kind, body)
					if v != forward {
						commits++
					}
					return v
				}
				err := tx.Commit(t.Context())
				if r := txResult(t, err); r.Result != providers.OutcomeUnknown || pgconn.SafeToRetry(err) || r.Operation != "commit" || r.Attempts != 1 {
					t.Errorf("%+v", r)
				}
				w.mu.Lock()
				if commits != 1 {
					t.Errorf("%d commits sent", commits)
				}
				w.mu.Unlock()
				w.on("", forward)
				if n := rowsIn(t, p); n != tc.rows {
					t.Errorf("%d rows", n)
				}
			})
		}
	}
}

// pgx calls the error of a connection that it lost while it waited for the answer
// safe to retry, if the statement had no arguments.
func TestTrap20ConnectionLostBehindAStatement(t *testing.T) {
	for name, use := range map[string]func(ctx context.Context, q runner) error{
		"exec": func(ctx context.Context, q runner) error {
			_, err := q.Exec(ctx, "insert into t values (1)")
			return err
		},
		"exec args": func(ctx context.Context, q runner) error {
			_, err := q.Exec(ctx, "insert into t values ($1)", 1)
			return err
		},
		"query": func(ctx context.Context, q runner) error {
			rows, err := q.Query(ctx, "insert into t values (1) returning n")
			if err == nil {
				rows.Close()
				err = rows.Err()
			}
			return err
		},
		"query row": func(ctx context.Context, q runner) error {
			var n int
			return q.QueryRow(ctx, "insert into t values ($1) returning n", 1).Scan(&n)
		},
		"simple": func(ctx context.Context, q runner) error {
			rows, err := q.Query(ctx, "insert into t values ($1) returning n", pgx.QueryExecModeSimpleProtocol, 1)
			if err == nil {
				rows.Close()
				err = rows.Err()
			}
			return err
		},
		"scoped": func(ctx context.Context, q runner) error {
			return q.Run(ctx, scoped(providers.CallExec, "insert into t values ($1)", []any{1}, "app.x", "1"))
		},
		"batch": func(ctx context.Context, q runner) error {
			b := &pgx.Batch{}
			b.Queue("insert into t values ($1)", 1)
			return q.(providers.Batcher).SendBatch(ctx, b).Close()
		},
		"copy": func(ctx context.Context, q runner) error {
			_, err := q.(providers.Copier).CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}}))
			return err
		},
	} {
		for what, loss := range map[string]verdict{"the statement": cutBefore, "its answer": cutAfter} {
			t.Run(name+", lost "+what, func(t *testing.T) {
				w, dsn := newWire(t, pgtest.NewDB(t))
				p := balanced(t, providers.Config{DSN: dsn})
				mustExec(t, p, "create table t (n int)")
				if err := use(t.Context(), p); err != nil { // prepares
					t.Fatal(err)
				}
				sent := 0
				w.mu.Lock()
				w.rule = func(kind byte, body []byte) verdict {
					// What ends a statement: its simple query, its Sync or its data.
					if kind == 'S' || kind == 'c' || kind == 'Q' && !strings.Contains(string(body), "copy") {
						sent++
						return loss
					}
					return forward
				}
				w.mu.Unlock()
				err := use(t.Context(), p)
				w.on("", forward)
				if providers.OutcomeOf(err) != providers.OutcomeUnknown || pgconn.SafeToRetry(err) || errors.As(err, new(*providers.TimeoutError)) {
					t.Errorf("outcome %s of %v", providers.OutcomeOf(err), err)
				}
				if sent != 1 {
					t.Errorf("sent %d times", sent)
				}
			})
		}
	}
}

func TestTrap20ConnectionLostEarlier(t *testing.T) {
	w, dsn := newWire(t, pgtest.NewDB(t))
	p := balanced(t, providers.Config{DSN: dsn})
	c := acquireN(t, p, 1)[0]
	defer c.Release()
	tx, err := c.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.on("select", cutBefore)
	if _, err := tx.Exec(t.Context(), "select 1"); err == nil {
		t.Fatal("not lost")
	}
	for _, q := range []providers.Querier{c, tx} {
		_, err := q.Exec(t.Context(), "select 2")
		if providers.OutcomeOf(err) != providers.OutcomeNotSent || !errors.Is(err, pgconn.ErrConnClosed) {
			t.Errorf("outcome %s of %v", providers.OutcomeOf(err), err)
		}
	}
	if r := txResult(t, tx.Commit(t.Context())); r.Result != providers.OutcomeRolledBack {
		t.Errorf("COMMIT was not sent: %v", r)
	}
}

func TestTrap21ConnectionLostBeforeCommit(t *testing.T) {
	p := balanced(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 2}})
	mustExec(t, p, accounts)
	t.Run("closed by ourselves", func(t *testing.T) {
		tx := begin(t, p, providers.TxOptions{})
		mustExec(t, tx, "insert into t values (1)")
		tx.lease.s.cut()
		err := tx.Commit(t.Context())
		if r := txResult(t, err); r.Result != providers.OutcomeRolledBack {
			t.Errorf("COMMIT never left: %+v", r)
		}
	})
	t.Run("terminated by the server", func(t *testing.T) {
		tx := begin(t, p, providers.TxOptions{})
		mustExec(t, tx, "insert into t values (1)")
		mustExec(t, p, "select pg_terminate_backend($1, 10000)", tx.lease.s.pid)
		err := tx.Commit(t.Context())
		if r := txResult(t, err); r.Result != providers.OutcomeUnknown {
			t.Errorf("a FATAL in the place of the answer tells nothing: %+v", r)
		}
	})
	if n := rowsIn(t, p); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestTrap22ConflictsAreRetryable(t *testing.T) {
	p := balanced(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 2}})
	mustExec(t, p, "create table t (n int); insert into t values (1), (2); alter database "+
		pgx.Identifier{value[string](t, p, "select current_database()")}.Sanitize()+" set deadlock_timeout = '20ms'")
	p.Reset()
	serializable := providers.TxOptions{Isolation: providers.RepeatableRead}
	a, b := begin(t, p, serializable), begin(t, p, serializable)
	mustExec(t, a, "select 1 from t")
	mustExec(t, b, "select 1 from t")
	mustExec(t, a, "update t set n = n + 10 where n = 1")
	mustCommit(t, a)
	_, err := b.Exec(t.Context(), "update t set n = n + 10 where n = 1")
	var pg *providers.PGError
	if !errors.As(err, &pg) || !pg.IsSerializationFailure() || !pg.IsRetryable() || providers.OutcomeOf(err) != providers.OutcomeRolledBack {
		t.Errorf("%v", err)
	}
	mustRollback(t, b)

	a, b = begin(t, p, providers.TxOptions{}), begin(t, p, providers.TxOptions{})
	mustExec(t, a, "select 1 from t where n = 2 for update")
	mustExec(t, b, "select 1 from t where n = 11 for update")
	errs := make(chan error, 2)
	var both sync.WaitGroup
	both.Go(func() {
		_, err := a.Exec(t.Context(), "update t set n = n where n = 11")
		errs <- err
		_ = a.Rollback(t.Context())
	})
	both.Go(func() {
		_, err := b.Exec(t.Context(), "update t set n = n where n = 2")
		errs <- err
		_ = b.Rollback(t.Context())
	})
	both.Wait()
	err = errors.Join(<-errs, <-errs)
	if !errors.As(err, &pg) || !pg.IsDeadlock() || !pg.IsRetryable() {
		t.Errorf("%v", err)
	}
}
