package pgkeel_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
)

var errMine = errors.New("mine")

// openTable opens a handle on a database with a table t.
func openTable(t testing.TB, options ...pgkeel.Option) *pgkeel.DB {
	t.Helper()
	db := openDB(t, options...)
	mustExec(t, db, "create table t (n int)")
	return db
}

func numbers(t testing.TB, q pgkeel.Querier) []int {
	t.Helper()
	all, err := pgkeel.All[int](t.Context(), q, "select n from t order by n")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func mustHave(t testing.TB, q pgkeel.Querier, want ...int) {
	t.Helper()
	got := numbers(t, q)
	same := len(got) == len(want)
	for i := range want {
		same = same && got[i] == want[i]
	}
	if !same {
		t.Errorf("the table has %v, not %v", got, want)
	}
}

func insert(ctx context.Context, tx pgkeel.Tx, n int) error {
	_, err := tx.Exec(ctx, "insert into t values ($1)", n)
	return err
}

func TestRunTxEnds(t *testing.T) {
	db := openTable(t, one())
	var open pgx.Rows
	var err error
	for name, tc := range map[string]struct {
		fn        func(ctx context.Context, tx pgkeel.Tx) error
		is        error
		outcome   pgkeel.Outcome
		operation string
		rows      []int
	}{
		"commit":   {func(ctx context.Context, tx pgkeel.Tx) error { return insert(ctx, tx, 1) }, nil, pgkeel.OutcomeCommitted, "", []int{1}},
		"an error": {func(ctx context.Context, tx pgkeel.Tx) error { return errors.Join(insert(ctx, tx, 1), errMine) }, errMine, pgkeel.OutcomeRolledBack, "closure", nil},
		"a failed statement that is passed over": {func(ctx context.Context, tx pgkeel.Tx) error {
			_ = insert(ctx, tx, 1)
			_, _ = tx.Exec(ctx, "select 1/0")
			return nil
		}, pgx.ErrTxCommitRollback, pgkeel.OutcomeRolledBack, "commit", nil},
		// What other work ended in is no outcome of this transaction.
		"an error of other work": {func(ctx context.Context, tx pgkeel.Tx) error {
			return errors.Join(insert(ctx, tx, 1), &pgkeel.TxError{Result: pgkeel.OutcomeCommitted, Operation: "other", Err: errMine})
		}, errMine, pgkeel.OutcomeRolledBack, "closure", nil},
		"ended by its own hand": {func(ctx context.Context, tx pgkeel.Tx) error {
			return errors.Join(insert(ctx, tx, 1), tx.Unwrap().Commit(ctx))
		}, pgx.ErrTxClosed, pgkeel.OutcomeUnknown, "commit", []int{1}},
		"rows left open": {func(ctx context.Context, tx pgkeel.Tx) error {
			_ = insert(ctx, tx, 1)
			open, err = tx.Query(ctx, "select n from generate_series(1, 9) n")
			return err
		}, pgkeel.ErrConcurrentUse, pgkeel.OutcomeRolledBack, "commit", nil},
		"rows left open, and an error": {func(ctx context.Context, tx pgkeel.Tx) error {
			_ = insert(ctx, tx, 1)
			open, err = tx.Query(ctx, "select n from generate_series(1, 9) n")
			return errors.Join(err, errMine)
		}, errMine, pgkeel.OutcomeRolledBack, "closure", nil},
	} {
		t.Run(name, func(t *testing.T) {
			mustExec(t, db, "truncate t")
			err := db.RunTx(t.Context(), tc.fn)
			if open != nil {
				open.Close()
				open = nil
			}
			mustBe(t, err, tc.outcome)
			mustHave(t, db, tc.rows...)
			if tc.outcome == pgkeel.OutcomeCommitted {
				return
			}
			if tx := as[*pgkeel.TxError](t, err); tx.Operation != tc.operation || tx.Attempts != 1 || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("%+v", tx)
			}
		})
	}
}

func TestRunTxNeverBegins(t *testing.T) {
	full := openDB(t, one(), pgkeel.WithAcquireTimeout(10*time.Millisecond))
	held := acquire(t, full)
	defer held.Release()
	closed := openDB(t)
	closeDB(t, closed)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	fn := func(context.Context, pgkeel.Tx) error {
		t.Error("it ran")
		return nil
	}
	for name, tc := range map[string]struct {
		err       error
		is        error
		operation string
		text      string
	}{
		"nil":           {openDB(t).RunTx(t.Context(), nil), nil, "options", "function is nil"},
		"options twice": {openDB(t).RunTx(t.Context(), fn, pgkeel.TxOptions{}, pgkeel.TxOptions{}), nil, "options", "more than once"},
		"bad options":   {openDB(t).RunTx(t.Context(), fn, pgkeel.TxOptions{MaxAttempts: -1, Isolation: "none"}), nil, "options", "TxOptions.MaxAttempts"},
		"pool closed":   {closed.RunTx(t.Context(), fn), pgkeel.ErrPoolClosed, "begin", ""},
		"exhausted":     {full.RunTx(t.Context(), fn), pgkeel.ErrPoolExhausted, "begin", "acquire timeout"},
		"context over":  {openDB(t).RunTx(over, fn), context.Canceled, "begin", ""},
		"no time left":  {full.RunTx(t.Context(), fn, pgkeel.TxOptions{Timeout: time.Millisecond}), pgkeel.ErrPoolExhausted, "begin", "transaction timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			mustSay(t, tc.err, tc.is, tc.text)
			mustBe(t, tc.err, pgkeel.OutcomeNotSent)
			if tx := as[*pgkeel.TxError](t, tc.err); tx.Operation != tc.operation {
				t.Errorf("%+v", tx)
			}
		})
	}
	if closed.SQL().PingContext(t.Context()) == nil {
		t.Error("a closed handle answers")
	}
}

func TestRunTxUnwinds(t *testing.T) {
	db := openTable(t, one())
	ways := map[string]func(run func(leave func())){
		"panic": func(run func(func())) {
			defer func() {
				if r := recover(); r != "mine" {
					t.Errorf("recovered %v", r)
				}
			}()
			run(func() { panic("mine") })
		},
		"goexit": func(run func(func())) {
			var gone sync.WaitGroup
			gone.Go(func() { run(runtime.Goexit) })
			gone.Wait()
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			way(func(leave func()) {
				_ = db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
					_ = insert(ctx, tx, 1)
					leave()
					return nil
				})
			})
			mustHave(t, db)
			err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
				way(func(leave func()) {
					_ = tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
						_ = insert(ctx, tx, 1)
						leave()
						return nil
					})
				})
				mustHave(t, tx)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRunTxTimeout(t *testing.T) {
	db := openTable(t, one())
	for name, fn := range map[string]func(ctx context.Context, tx pgkeel.Tx) error{
		"in a statement": func(ctx context.Context, tx pgkeel.Tx) error {
			_, err := tx.Exec(ctx, "select pg_sleep(60)")
			return err
		},
		"between two": func(ctx context.Context, tx pgkeel.Tx) error {
			<-ctx.Done()
			mustSay(t, context.Cause(ctx), nil, "the transaction's timeout")
			return insert(ctx, tx, 2)
		},
		"before the commit": func(ctx context.Context, _ pgkeel.Tx) error {
			<-ctx.Done()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
				if err := insert(ctx, tx, 1); err != nil {
					return err
				}
				return fn(ctx, tx)
			}, pgkeel.TxOptions{Timeout: 100 * time.Millisecond})
			mustSay(t, err, context.DeadlineExceeded, "transaction timeout")
			mustBe(t, err, pgkeel.OutcomeRolledBack)
			if limit := as[*pgkeel.TimeoutError](t, err).Limit; limit != "transaction timeout" {
				t.Error(limit)
			}
			mustHave(t, db)
		})
	}
}

// The caller's own deadline is told apart from that of the options.
func TestRunTxContextDeadline(t *testing.T) {
	db := openTable(t, one())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
		_, err := tx.Exec(ctx, "insert into t select 1 from pg_sleep(60)")
		return err
	}, pgkeel.TxOptions{Timeout: time.Minute})
	if limit := as[*pgkeel.TimeoutError](t, err).Limit; limit != "context deadline" {
		t.Error(limit)
	}
	mustHave(t, db)
}

func TestRunTxOptions(t *testing.T) {
	db := openDB(t)
	settings := func(options ...pgkeel.TxOptions) (got [3]string) {
		err := db.RunTx(t.Context(), func(_ context.Context, tx pgkeel.Tx) error {
			for i, name := range []string{"isolation", "read_only", "deferrable"} {
				got[i] = value[string](t, tx, "select current_setting('transaction_'||$1)", name)
			}
			return nil
		}, options...)
		if err != nil {
			t.Error(err)
		}
		return got
	}
	for want, options := range map[[3]string][]pgkeel.TxOptions{
		{"read committed", "off", "off"}:  nil,
		{"repeatable read", "off", "off"}: {{Isolation: pgkeel.RepeatableRead, Access: pgkeel.ReadWrite}},
		{"serializable", "on", "on"}:      {{Isolation: pgkeel.Serializable, Access: pgkeel.ReadOnly, Deferrable: true}},
	} {
		if got := settings(options...); got != want {
			t.Errorf("%v, not %v", got, want)
		}
	}
}

// What fn calls with its context and another connection waits for ever only if
// nobody notices.
func TestNestedAcquireIsRefused(t *testing.T) {
	db := openDB(t, one())
	again := func(ctx context.Context) error {
		_, err := db.Exec(ctx, "select 1")
		return err
	}
	err := db.RunTx(t.Context(), func(ctx context.Context, _ pgkeel.Tx) error { return again(ctx) })
	mustSay(t, err, pgkeel.ErrNestedAcquire)
	err = db.AcquireFunc(t.Context(), func(ctx context.Context, _ *pgkeel.Conn) error { return again(ctx) })
	mustSay(t, err, pgkeel.ErrNestedAcquire)
}
