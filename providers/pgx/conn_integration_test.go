package pgx

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

func TestConnAfterRelease(t *testing.T) {
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0].(*Conn)
	mustExec(t, c, "select 1")
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	c.Release()
	c.Release()
	other := acquireN(t, p, 1)[0]
	c.Release() // must not release the other's
	if p.Stats().InUse != 1 {
		t.Error("a second release gave back what belongs to somebody else")
	}
	ctx := t.Context()
	var n int
	_, query := c.Query(ctx, "select 1")
	_, exec := c.Exec(ctx, "select 1")
	_, began := c.Begin(ctx, providers.TxOptions{})
	_, copied := c.CopyFrom(ctx, pgx.Identifier{"t"}, nil, nil)
	for i, err := range []error{
		query, exec, began, copied, c.Ping(ctx), c.QueryRow(ctx, "select 1").Scan(&n),
		c.Run(ctx, scoped(providers.CallExec, "select 1", nil, "app.x", "1")), c.SendBatch(ctx, &pgx.Batch{}).Close(),
	} {
		if !errors.Is(err, providers.ErrReleased) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("%d: %v", i, err)
		}
	}
	if c.Unwrap() != nil {
		t.Error("a connection that belongs to somebody else")
	}
	other.Release()
}

func TestConnUnwrapIsNotReused(t *testing.T) {
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0].(*Conn)
	raw := c.Unwrap()
	if raw == nil {
		t.Fatal("no connection")
	}
	c.Release()
	mustExec(t, p, "select 1")
	if !raw.IsClosed() || p.Stats().Connects != 2 {
		t.Error("the connection was handed out raw and then reused")
	}
}

func TestConnReleaseWhileRowsAreOpen(t *testing.T) {
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0]
	rows, err := c.Query(t.Context(), "select repeat('x', 1000) from generate_series(1, 100000)")
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
	if n := p.Stats().InUse; n != 0 {
		t.Errorf("%d in use", n)
	}
	for rows.Next() {
	}
	if rows.Err() == nil {
		t.Error("the result cannot be whole")
	}
	mustExec(t, p, "select 1")
}

func TestConnReleaseWhileAStatementRuns(t *testing.T) {
	p := balanced(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 2}})
	c := acquireN(t, p, 1)[0].(*Conn)
	var other sync.WaitGroup
	var err error
	other.Go(func() { _, err = c.Exec(t.Context(), "select pg_sleep(60)") })
	eventually(t, "the statement runs", func() bool {
		return value[int](t, p, "select count(*) from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'", c.lease.s.pid) == 1
	})
	c.Release()
	other.Wait()
	if err == nil || providers.OutcomeOf(err) != providers.OutcomeUnknown {
		t.Errorf("outcome %s of %v", providers.OutcomeOf(err), err)
	}
}

func TestConnReleaseWithATransactionOpen(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create table t (n int)")
	c := acquireN(t, p, 1)[0]
	tx, err := c.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "insert into t values (1)")
	c.Release()
	for i, err := range []error{tx.Commit(t.Context()), tx.Rollback(t.Context())} {
		if !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
	eventually(t, "the server rolled back", func() bool { return value[int](t, p, "select count(*) from t") == 0 })
}

func TestTrap24ConnAndItsTransactionAreOne(t *testing.T) {
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0].(*Conn)
	defer c.Release()
	tx, err := c.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := tx.Query(t.Context(), "select 1")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	var n int
	_, query := c.Query(ctx, "select 1")
	_, exec := c.Exec(ctx, "select 1")
	_, began := c.Begin(ctx, providers.TxOptions{})
	_, copied := c.CopyFrom(ctx, pgx.Identifier{"t"}, nil, nil)
	for i, err := range []error{
		query, exec, began, copied, c.Ping(ctx), c.QueryRow(ctx, "select 1").Scan(&n),
		c.Run(ctx, scoped(providers.CallExec, "select 1", nil)), c.SendBatch(ctx, &pgx.Batch{}).Close(),
	} {
		if !errors.Is(err, providers.ErrConcurrentUse) {
			t.Errorf("%d: %v", i, err)
		}
	}
	rows.Close()
	mustRollback(t, tx)
}

func TestTrap24ConnConcurrentUse(t *testing.T) {
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0]
	defer c.Release()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				var n int
				if err := c.QueryRow(t.Context(), "select 7").Scan(&n); !errors.Is(err, providers.ErrConcurrentUse) && (err != nil || n != 7) {
					t.Errorf("%d %v", n, err)
				}
			}
		})
	}
	all.Wait()
	mustExec(t, c, "select 1")
}

func TestPoolRefusesAfterClose(t *testing.T) {
	p := openPool(t, providers.Config{})
	if err := p.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	var n int
	_, query := p.Query(ctx, "select 1")
	_, exec := p.Exec(ctx, "select 1")
	_, began := p.Begin(ctx, providers.TxOptions{})
	_, copied := p.CopyFrom(ctx, pgx.Identifier{"t"}, nil, nil)
	for i, err := range []error{
		query, exec, began, copied, p.Ping(ctx), p.QueryRow(ctx, "select 1").Scan(&n),
		p.Run(ctx, scoped(providers.CallQuery, "select 1", nil)), p.Run(ctx, scoped(providers.CallExec, "select 1", nil)),
		p.SendBatch(ctx, &pgx.Batch{}).Close(),
	} {
		if !errors.Is(err, providers.ErrPoolClosed) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("%d: %v", i, err)
		}
	}
}
