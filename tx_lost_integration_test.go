package pgkeel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
)

// hangUp has the server end the session.
func hangUp(ctx context.Context, tx pgkeel.Tx) error {
	_, err := tx.Exec(ctx, "select pg_terminate_backend(pg_backend_pid())")
	return err
}

// A transaction whose connection is lost before COMMIT was sent can never commit,
// so the whole of it is run again.
func TestALostTransactionIsRunAgain(t *testing.T) {
	first := func(ran int, lose func() error) error {
		if ran == 1 {
			return lose()
		}
		return nil
	}
	for name, fn := range map[string]func(ctx context.Context, tx pgkeel.Tx, ran int) error{
		"at a statement": func(ctx context.Context, tx pgkeel.Tx, ran int) error {
			return first(ran, func() error { return hangUp(ctx, tx) })
		},
		"in a savepoint": func(ctx context.Context, tx pgkeel.Tx, ran int) error {
			return tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
				return first(ran, func() error { return hangUp(ctx, tx) })
			})
		},
		"and it is kept quiet": func(ctx context.Context, tx pgkeel.Tx, ran int) error {
			_ = first(ran, func() error { return hangUp(ctx, tx) })
			return nil
		},
		"by a server that takes no writes any more": func(ctx context.Context, tx pgkeel.Tx, ran int) error {
			return first(ran, func() error {
				_, err := tx.Exec(ctx, "set transaction read only")
				return errors.Join(err, insert(ctx, tx, 2))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := openTable(t, one())
			ran := 0
			err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
				ran++
				return errors.Join(insert(ctx, tx, 1), fn(ctx, tx, ran))
			})
			if err != nil || ran != 2 {
				t.Errorf("ran %d times: %v", ran, err)
			}
			mustHave(t, db, 1)
		})
	}
}

// A connection that was lost while it was idle is found out at BEGIN.
func TestALostBeginIsRunAgain(t *testing.T) {
	lost := fault.On(fault.SQL("begin"), fault.Cut)
	p := fault.New(t, pgtest.NewDB(t), lost)
	db := openDSN(t, p.DSN(), one())
	mustExec(t, db, "create table t (n int)")
	ran := 0
	err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
		ran++
		return insert(ctx, tx, 1)
	})
	if err != nil || ran != 1 || lost.Times() != 1 {
		t.Errorf("ran %d times: %v", ran, err)
	}
	mustHave(t, db, 1)
}

// How often is what the options say, as for conflicts.
func TestALostTransactionIsNotRunAgain(t *testing.T) {
	db := openDB(t, one())
	for name, tc := range map[string]struct {
		fn       func(ctx context.Context, tx pgkeel.Tx) error
		options  pgkeel.TxOptions
		attempts int
	}{
		"three attempts": {hangUp, pgkeel.TxOptions{MaxAttempts: 3}, 3},
		"never":          {hangUp, pgkeel.TxOptions{MaxAttempts: 1}, 1},
		"no budget":      {hangUp, pgkeel.TxOptions{RetryBudget: time.Nanosecond}, 1},
		"a loss that is not of its connection": {func(context.Context, pgkeel.Tx) error {
			return fmt.Errorf("another service: %w", io.ErrUnexpectedEOF)
		}, pgkeel.TxOptions{}, 1},
		"an error of its own behind the loss": {func(ctx context.Context, tx pgkeel.Tx) error {
			_ = hangUp(ctx, tx)
			return errMine
		}, pgkeel.TxOptions{}, 1},
		"a limit": {func(ctx context.Context, tx pgkeel.Tx) error {
			_, err := tx.Exec(ctx, "set local statement_timeout = 1")
			if err == nil {
				_, err = tx.Exec(ctx, "select pg_sleep(60)")
			}
			return err
		}, pgkeel.TxOptions{}, 1},
		"a write in what only reads": {func(ctx context.Context, tx pgkeel.Tx) error {
			_, err := tx.Exec(ctx, "create table no (n int)")
			return err
		}, pgkeel.TxOptions{Access: pgkeel.ReadOnly}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			ran := 0
			err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
				ran++
				return tc.fn(ctx, tx)
			}, tc.options)
			mustBe(t, err, pgkeel.OutcomeRolledBack)
			tx := as[*pgkeel.TxError](t, err)
			if tx.Attempts != tc.attempts || ran != tc.attempts || tx.Operation != "closure" || errors.Is(err, pgx.ErrTxClosed) {
				t.Errorf("ran %d times and says %+v", ran, tx)
			}
		})
	}
}

// A server that comes back in time is waited for.
func TestTheServerComesBack(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	db := openDSN(t, c.Primary().DSN(""), one())
	mustExec(t, db, "create table t (n int)")
	ran := 0
	err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
		ran++
		if err := insert(ctx, tx, ran); err != nil {
			return err
		}
		if ran > 1 {
			return nil
		}
		if err := c.Primary().Kill(); err != nil {
			t.Error(err)
		}
		go func() {
			if err := c.Primary().Start(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		return insert(ctx, tx, ran)
	}, pgkeel.TxOptions{MaxAttempts: 1000, RetryBudget: patience})
	if err != nil || ran != 2 {
		t.Errorf("ran %d times: %v", ran, err)
	}
	mustHave(t, db, 2)
}
