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

// short is the time of a transaction that runs out of it.
const short = 200 * time.Millisecond

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
	tx := begin(t, p, providers.TxOptions{Timeout: short})
	sp := savepoint(t, tx, "")
	mustExec(t, sp, "insert into t values (1)")
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
	tx := begin(t, p, providers.TxOptions{Timeout: short})
	mustExec(t, tx, "insert into t values (1)")
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
	tx := begin(t, p, providers.TxOptions{Timeout: short})
	rows, err := tx.Query(t.Context(), "insert into t select generate_series(1, 5000) returning n")
	if err != nil {
		t.Fatal(err)
	}
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
	tx := begin(t, c, providers.TxOptions{Timeout: short})
	mustExec(t, tx, "insert into t values (1)")
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
