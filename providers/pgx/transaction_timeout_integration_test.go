package pgx

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// timedOut begins a transaction whose time will be over soon, and does first in it.
// Where a slow machine does not get that far there is another, with more time.
func timedOut(t testing.TB, on beginner, first func(tx providers.Tx) error) providers.Tx {
	t.Helper()
	for limit := 50 * time.Millisecond; ; limit *= 4 {
		tx, err := on.Begin(t.Context(), providers.TxOptions{Timeout: limit})
		if err == nil {
			if err = first(tx); err == nil {
				return tx
			}
			_ = tx.Rollback(t.Context())
		}
		if !errors.Is(err, context.DeadlineExceeded) || limit > patience {
			t.Fatal(err)
		}
	}
}

type beginner interface {
	Begin(context.Context, providers.TxOptions) (providers.Tx, error)
}

// insertOne is what most of them do first.
func insertOne(t testing.TB) func(tx providers.Tx) error {
	return func(tx providers.Tx) error {
		_, err := tx.Exec(t.Context(), "insert into t values (1)")
		return err
	}
}

func TestTxTimeoutWhileIdle(t *testing.T) {
	for _, onConn := range []bool{false, true} {
		hooks, seen := watched(t)
		p := balanced(t, providers.Config{Hooks: hooks})
		mustExec(t, p, accounts)
		var on beginner = p
		if onConn {
			c := acquireN(t, p, 1)[0]
			defer c.Release()
			on = c
		}
		tx := timedOut(t, on, func(tx providers.Tx) error {
			seen.forget() // of one before that had too little time
			return insertOne(t)(tx)
		})
		eventually(t, "it is rolled back", func() bool { return len(seen.of(providers.EventRollback)) == 1 })
		var err error
		eventually(t, "the error says so", func() bool {
			_, err = tx.Exec(t.Context(), "insert into t values (2)")
			return !errors.Is(err, providers.ErrConcurrentUse)
		})
		isTxTimeout(t, err)
		isTxTimeout(t, tx.Commit(t.Context()))
		if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("a deferred rollback: %v", err)
		}
		if onConn {
			on.(*Conn).Release()
		}
		if n := rowsIn(t, p); n != 0 {
			t.Errorf("%d rows", n)
		}
	}
}

func isTxTimeout(t *testing.T, err error) {
	t.Helper()
	var limit *providers.TimeoutError
	if !errors.As(err, &limit) || limit.Limit != "transaction timeout" || !errors.Is(err, context.DeadlineExceeded) || !limit.Timeout() {
		t.Errorf("not the transaction's timeout: %v", err)
	}
	if providers.OutcomeOf(err) != providers.OutcomeRolledBack {
		t.Errorf("outcome %s of %v", providers.OutcomeOf(err), err)
	}
}

func TestTxTimeoutWhileAStatementRuns(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, accounts)
	tx := timedOut(t, p, insertOne(t))
	_, err := tx.Exec(t.Context(), "select pg_sleep(60)")
	isTxTimeout(t, err)
	eventually(t, "the connection is back", func() bool { return p.Stats().InUse == 0 })
	_, err = tx.Exec(t.Context(), "select 1")
	isTxTimeout(t, err)
	if n := rowsIn(t, p); n != 0 || p.Stats().Connects != 1 {
		t.Errorf("%d rows, %d connections made", n, p.Stats().Connects)
	}
}

func TestTxTimeoutWhileRowsAreOpen(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, accounts)
	var rows pgx.Rows
	tx := timedOut(t, p, func(tx providers.Tx) (err error) {
		if err = insertOne(t)(tx); err == nil {
			rows, err = tx.Query(t.Context(), "select 1")
		}
		return err
	})
	// Nobody closes them, but the locks of the transaction must not stay.
	eventually(t, "the connection is taken away", func() bool { return p.Stats().InUse == 0 })
	_, err := tx.Exec(t.Context(), "select 1")
	if !errors.Is(err, providers.ErrConcurrentUse) {
		t.Errorf("the rows are open: %v", err)
	}
	rows.Close()
	_, err = tx.Exec(t.Context(), "select 1")
	isTxTimeout(t, err)
	isTxTimeout(t, tx.Commit(t.Context()))
	eventually(t, "the server rolled back", func() bool { return rowsIn(t, p) == 0 })
}

func TestTxTimeoutWhileRowsAreRead(t *testing.T) {
	p := balanced(t, providers.Config{})
	var rows pgx.Rows
	tx := timedOut(t, p, func(tx providers.Tx) (err error) {
		rows, err = tx.Query(t.Context(), "select repeat('x', 1000) from generate_series(1, 100000000)")
		return err
	})
	for rows.Next() {
	}
	var limit *providers.TimeoutError
	if err := rows.Err(); !errors.As(err, &limit) || limit.Limit != "transaction timeout" {
		t.Errorf("%v", err)
	}
	eventually(t, "the connection is back", func() bool { return p.Stats().InUse == 0 })
	isTxTimeout(t, tx.Commit(t.Context()))
}

func TestTxTimeoutAndLargeObjects(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := timedOut(t, p, func(providers.Tx) error { return nil })
	lo := tx.(*Tx).LargeObjects()
	var err error
	for err == nil { // not guarded, so the connection is closed under it
		_, err = lo.Create(t.Context(), 0)
	}
	eventually(t, "the place is free", func() bool { return p.Stats().InUse == 0 })
	eventually(t, "the error says so", func() bool {
		err = tx.Commit(t.Context())
		return !errors.Is(err, providers.ErrConcurrentUse)
	})
	isTxTimeout(t, err)
}

func TestTxTimeoutAfterTheConnectionWasReleased(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, accounts)
	c := acquireN(t, p, 1)[0]
	tx, err := c.Begin(t.Context(), providers.TxOptions{Timeout: 3 * time.Second}) // not before the next one begins
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, c, "commit") // behind the transaction's back
	c.Release()
	if _, err := tx.Exec(t.Context(), "insert into t values (1)"); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("the connection is somebody else's: %v", err)
	}
	next := begin(t, p, providers.TxOptions{})
	mustExec(t, next, "insert into t values (2)")
	inner := tx.(*Tx)
	eventually(t, "its timer fired", func() bool {
		inner.mu.Lock()
		defer inner.mu.Unlock()
		return inner.ended
	})
	mustCommit(t, next)
	if n := rowsIn(t, p); n != 1 {
		t.Errorf("%d rows: the timer hit the next borrower", n)
	}
}

func TestTxTimeoutDoesNotFireAfterTheEnd(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{Timeout: time.Hour})
	mustCommit(t, tx)
	tx.expire() // as when the timer fired a moment before it was stopped
	if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) || providers.OutcomeOf(err) == providers.OutcomeRolledBack {
		t.Errorf("it was committed: %v", err)
	}
	mustExec(t, p, "select 1")
}

func TestTxTimeoutAfterItsConnectionWasTaken(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{Timeout: time.Hour})
	rows, err := tx.Query(t.Context(), "select 1")
	if err != nil {
		t.Fatal(err)
	}
	tx.lease.evict() // as Close does
	if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("%v", err)
	}
	rows.Close()
	if _, err := tx.Exec(t.Context(), "select 1"); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("%v", err)
	}
	tx.expire()
	isTxTimeout(t, tx.Commit(t.Context()))
}
