package pgkeel_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
)

// conflicting is a transaction that fails in the same way each time.
func conflicting(code string) func(ctx context.Context, tx pgkeel.Tx) error {
	return func(ctx context.Context, tx pgkeel.Tx) error {
		_, err := tx.Exec(ctx, "do $$ begin raise exception 'made up' using errcode = '"+code+"'; end $$")
		return err
	}
}

func TestRetries(t *testing.T) {
	db := openDB(t, one())
	for name, tc := range map[string]struct {
		fn       func(ctx context.Context, tx pgkeel.Tx) error
		options  pgkeel.TxOptions
		attempts int
	}{
		"serialization failure":   {conflicting("40001"), pgkeel.TxOptions{}, 5},
		"deadlock":                {conflicting("40P01"), pgkeel.TxOptions{}, 5},
		"three attempts":          {conflicting("40001"), pgkeel.TxOptions{MaxAttempts: 3}, 3},
		"never":                   {conflicting("40001"), pgkeel.TxOptions{MaxAttempts: 1}, 1},
		"no budget":               {conflicting("40001"), pgkeel.TxOptions{RetryBudget: time.Nanosecond}, 1},
		"a violation":             {conflicting("23505"), pgkeel.TxOptions{}, 1},
		"an error of no database": {func(context.Context, pgkeel.Tx) error { return errMine }, pgkeel.TxOptions{}, 1},
		"a conflict in a savepoint": {func(ctx context.Context, tx pgkeel.Tx) error {
			return tx.RunTx(ctx, conflicting("40001"))
		}, pgkeel.TxOptions{}, 5},
		"a conflict that is wrapped": {func(ctx context.Context, tx pgkeel.Tx) error {
			return errors.Join(errMine, conflicting("40001")(ctx, tx))
		}, pgkeel.TxOptions{}, 5},
		"a conflict that is kept quiet": {func(ctx context.Context, tx pgkeel.Tx) error {
			_ = conflicting("40001")(ctx, tx)
			return errMine
		}, pgkeel.TxOptions{}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			ran := 0
			err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
				ran++
				return tc.fn(ctx, tx)
			}, tc.options)
			mustBe(t, err, pgkeel.OutcomeRolledBack)
			if tx := as[*pgkeel.TxError](t, err); tx.Attempts != tc.attempts || ran != tc.attempts {
				t.Errorf("ran %d times and says %d: %v", ran, tx.Attempts, err)
			}
		})
	}
}

// A retry does not outlive the caller's context, and what it then says is what
// happened last.
func TestRetriesEndWithTheContext(t *testing.T) {
	db := openDB(t, one())
	ctx, cancel := context.WithCancel(t.Context())
	err := db.RunTx(ctx, func(_ context.Context, tx pgkeel.Tx) error {
		err := conflicting("40001")(t.Context(), tx)
		cancel()
		return err
	})
	if tx := as[*pgkeel.TxError](t, err); tx.Attempts != 1 || tx.Result != pgkeel.OutcomeRolledBack {
		t.Errorf("%+v", tx)
	}
}

// rendezvous lets n callers go on together, the first time that each comes.
func rendezvous(n int) func() {
	var all sync.WaitGroup
	all.Add(n)
	return func() {
		all.Done()
		all.Wait()
	}
}

// runTogether runs transactions at the same time, each of which meets the others
// in its first attempt, and returns how many attempts all took.
func runTogether(t *testing.T, db *pgkeel.DB, opts pgkeel.TxOptions, fns ...func(ctx context.Context, tx pgkeel.Tx, meet func()) error) int {
	t.Helper()
	meet := rendezvous(len(fns))
	var mu sync.Mutex
	attempts := 0
	var all sync.WaitGroup
	for _, fn := range fns {
		all.Go(func() {
			first := true
			err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
				mu.Lock()
				attempts++
				mu.Unlock()
				return fn(ctx, tx, func() {
					if first {
						first = false
						meet()
					}
				})
			}, opts)
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	return attempts
}

// Each adds a row for every row that it sees: one after the other they make 1, 2
// and 4, and no interleaving may make anything else.
func TestSerializationConflict(t *testing.T) {
	db := openTable(t)
	mustExec(t, db, "insert into t values (0)")
	double := func(ctx context.Context, tx pgkeel.Tx, meet func()) error {
		n, err := tx.QueryCount(ctx, "select count(*) from t")
		meet()
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "insert into t select generate_series(1, $1::int)", n)
		return err
	}
	attempts := runTogether(t, db, pgkeel.TxOptions{Isolation: pgkeel.Serializable}, double, double)
	if n := len(numbers(t, db)); n != 4 || attempts < 3 {
		t.Errorf("%d rows after %d attempts", n, attempts)
	}
}

func TestDeadlock(t *testing.T) {
	db := openTable(t)
	mustExec(t, db, "insert into t values (1), (2)")
	lock := func(first, second int) func(ctx context.Context, tx pgkeel.Tx, meet func()) error {
		return func(ctx context.Context, tx pgkeel.Tx, meet func()) error {
			_, err := tx.Exec(ctx, "set local deadlock_timeout = '10ms'")
			for _, n := range []int{first, second} {
				if err == nil {
					_, err = tx.Exec(ctx, "update t set n = n where n = $1", n)
				}
				if n == first {
					meet()
				}
			}
			return err
		}
	}
	if attempts := runTogether(t, db, pgkeel.TxOptions{}, lock(1, 2), lock(2, 1)); attempts != 3 {
		t.Errorf("%d attempts", attempts)
	}
}

// A cached plan that no longer fits the schema fails a transaction on its first
// try only.
func TestRetryOfAStalePlan(t *testing.T) {
	db := openTable(t, one())
	ran := 0
	read := func(ctx context.Context, tx pgkeel.Tx) error {
		ran++
		_, err := pgkeel.All[map[string]any](ctx, tx, "select * from t where n = $1", 1)
		return err
	}
	for _, ddl := range []string{"alter table t add column more int", "alter table t drop column more"} {
		if err := db.RunTx(t.Context(), read); err != nil {
			t.Fatal(err)
		}
		mustExec(t, db, ddl)
	}
	if ran != 3 {
		t.Errorf("it ran %d times", ran)
	}
}

// After COMMIT was sent and the connection died, nobody knows, and running the
// transaction again could do its work twice.
func TestTrap21UnknownCommitIsNotRetried(t *testing.T) {
	for name, loss := range map[string]fault.Action{"committed": fault.CutReply, "not committed": fault.Cut} {
		t.Run(name, func(t *testing.T) {
			lost := fault.On(fault.Commit().Every(), loss)
			line := fault.New(t, pgtest.NewDB(t), lost)
			db, direct := openDSN(t, line.DSN(), one()), openDSN(t, line.Upstream())
			mustExec(t, direct, "create table t (n int)")
			ran := 0
			err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
				ran++
				return insert(ctx, tx, 1)
			})
			mustBe(t, err, pgkeel.OutcomeUnknown)
			mustSay(t, err, nil, "transaction unknown", "commit failed")
			if tx := as[*pgkeel.TxError](t, err); tx.Attempts != 1 || ran != 1 || lost.Times() != 1 {
				t.Errorf("ran %d times: %+v", ran, tx)
			}
			if loss == fault.CutReply {
				eventually(t, "it is committed", func() bool { return len(numbers(t, direct)) == 1 })
			} else {
				mustHave(t, direct)
			}
		})
	}
}
