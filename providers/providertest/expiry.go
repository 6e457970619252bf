package providertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

var expiryTests = []test{
	{name: "Idle", run: testExpiryIdle},
	{name: "WhileAStatementRuns", run: testExpiryStatement},
	{name: "WhileRowsAreOpen", run: testExpiryRows},
	{name: "OnAConnection", run: testExpiryOnConn},
	{name: "InTime", run: testExpiryInTime},
}

// timedOut begins a transaction whose time will be over soon, and does first in it.
// Where a slow machine does not get that far there is another, with more time.
func timedOut(ctx context.Context, t testing.TB, on beginner, first func(tx providers.Tx) error) providers.Tx {
	t.Helper()
	for limit := 200 * time.Millisecond; ; limit *= 4 {
		tx, err := on.Begin(ctx, providers.TxOptions{Timeout: limit})
		if err == nil {
			if err = first(tx); err == nil {
				return tx
			}
			_ = tx.Rollback(ctx)
		}
		if !errors.Is(err, context.DeadlineExceeded) || limit > patience {
			t.Fatal(err)
		}
	}
}

// insertRow is what most of them do first.
func insertRow(t testing.TB) func(tx providers.Tx) error {
	return func(tx providers.Tx) error { return execError(t, tx, "insert into t values (1)") }
}

// wantExpired checks the error of a use after the time was over.
func wantExpired(t testing.TB, what string, err error) {
	t.Helper()
	var timeout *providers.TimeoutError
	if !errors.As(err, &timeout) || timeout.Limit != "transaction timeout" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: %v (%T)", what, err, err)
	}
	if o := providers.OutcomeOf(err); o != providers.OutcomeRolledBack {
		t.Errorf("%s: the outcome is told as %q", what, o)
	}
	wantNoDoubt(t, what, err)
}

func testExpiryIdle(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	var sp providers.Tx
	tx := timedOut(t.Context(), t, p, func(tx providers.Tx) (err error) {
		if sp, err = tx.Savepoint(t.Context(), ""); err == nil {
			err = insertRow(t)(sp)
		}
		return err
	})
	eventually(t, "the connection came back", func() bool { return p.Stats().InUse == 0 })
	for _, tx := range []providers.Tx{tx, sp} {
		for what, err := range everyUse(t.Context(), tx) {
			wantExpired(t, what, err)
		}
		wantExpired(t, "commit", tx.Commit(t.Context()))
		if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("a deferred rollback: %v", err)
		}
	}
	if n := traces(t, p); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func testExpiryStatement(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := timedOut(t.Context(), t, p, insertRow(t))
	_, err := tx.Exec(t.Context(), "select pg_sleep(60)")
	var timeout *providers.TimeoutError
	if !errors.As(err, &timeout) || timeout.Limit != "transaction timeout" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v (%T)", err, err)
	}
	eventually(t, "the connection came back", func() bool { return p.Stats().InUse == 0 })
	wantExpired(t, "commit", tx.Commit(t.Context()))
	eventually(t, "the server rolled back", func() bool { return traces(t, p) == 0 })
}

func testExpiryRows(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	var rows pgx.Rows
	tx := timedOut(t.Context(), t, p, func(tx providers.Tx) (err error) {
		rows, err = tx.Query(t.Context(), "insert into t select generate_series(1, 5000) returning n")
		return err
	})
	eventually(t, "the connection came back", func() bool { return p.Stats().InUse == 0 })
	rows.Close()
	if err := tx.Commit(t.Context()); err == nil {
		t.Error("committed")
	}
	eventually(t, "the server rolled back", func() bool { return traces(t, p) == 0 })
}

func testExpiryOnConn(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	c := acquire(t, p)
	defer c.Release()
	tx := timedOut(t.Context(), t, c, insertRow(t))
	// Asked through the connection: a statement of the transaction's that is under
	// way at its end may cost the connection. While it is being rolled back, the
	// connection is in use.
	eventually(t, "the transaction is undone", func() bool {
		n := -1
		return c.QueryRow(t.Context(), "select count(*) from t").Scan(&n) == nil && n == 0
	})
	wantExpired(t, "exec", execError(t, tx, "select 1"))
	commit(t, begin(t, c, providers.TxOptions{})) // the connection is still good
}

func testExpiryInTime(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{Timeout: time.Minute})
	mustExec(t, tx, "insert into t values (1)")
	commit(t, tx)
	if n := traces(t, p); n != 1 {
		t.Errorf("%d rows", n)
	}
}
