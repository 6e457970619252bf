package demo

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
)

// recoverWithin is how long a new primary may take to be found.
const recoverWithin = 20 * time.Second

// failover kills the primary of two servers of its own while callers count, and
// lets the standby take its place, as Patroni would.
func failover(ctx context.Context, e *environment) error {
	servers, err := pgtest.Start(ctx, pgtest.Options{Standbys: 1, SynchronousStandbys: 1})
	if err != nil {
		return fmt.Errorf("start two servers: %w", err)
	}
	defer func() { _ = servers.Close(context.WithoutCancel(ctx)) }()
	primary, standby := servers.Primary(), servers.Standbys()[0]
	db, err := e.open(ctx, "", primary, appName+"-failover",
		pgkeel.WithReplicas(standby.DSN("")), pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: poolSize}),
		pgkeel.WithLogger(slog.New(slog.DiscardHandler))) // the loss is the point here
	if err != nil {
		return err
	}
	// Here, since its servers end with the scene.
	defer func() { _ = db.Close(context.WithoutCancel(ctx)) }()
	if _, err := db.Exec(ctx, `create table counter as select 0 as n`); err != nil {
		return err
	}
	c := &counter{db: db}
	var done atomic.Bool
	var ready time.Time
	err = together(ctx, callers+1, func(ctx context.Context, i int) error {
		if i < callers {
			return c.count(ctx, &done)
		}
		defer done.Store(true)
		var err error
		ready, err = c.replace(ctx, primary, standby)
		return err
	})
	if err != nil {
		return err
	}
	return c.report(ctx, e, ready)
}

// counter counts in the database, exactly once each.
type counter struct {
	db *pgkeel.DB

	mu   sync.Mutex
	acks []time.Time
}

func (c *counter) count(ctx context.Context, done *atomic.Bool) error {
	for !done.Load() {
		err := c.db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			_, err := tx.Exec(ctx, `update counter set n = n + 1`)
			return err
		}, pgkeel.TxOptions{ExactlyOnce: true, MaxAttempts: 100, RetryBudget: recoverWithin})
		if err != nil {
			return fmt.Errorf("count: %w", err)
		}
		c.mu.Lock()
		c.acks = append(c.acks, time.Now())
		c.mu.Unlock()
	}
	return nil
}

func (c *counter) counted() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.acks)
}

// replace kills the primary and promotes the standby, each while the callers are
// busy, and returns when the new primary could take writes.
func (c *counter) replace(ctx context.Context, primary, standby *pgtest.Node) (time.Time, error) {
	if err := c.goOn(ctx); err != nil {
		return time.Time{}, err
	}
	if err := primary.Kill(); err != nil {
		return time.Time{}, err
	}
	if err := standby.Promote(ctx); err != nil {
		return time.Time{}, err
	}
	ready := time.Now()
	return ready, c.goOn(ctx)
}

// goOn waits until the callers have counted on.
func (c *counter) goOn(ctx context.Context) error {
	from := c.counted()
	if _, err := until(ctx, recoverWithin, func(context.Context) (bool, error) { return c.counted() > from+10*callers, nil }); err != nil {
		return fmt.Errorf("wait for the callers to count on: %w", err)
	}
	return nil
}

func (c *counter) report(ctx context.Context, e *environment, ready time.Time) error {
	n, err := pgkeel.One[int](ctx, c.db, `select n from counter`)
	if err != nil {
		return err
	}
	var pause, after time.Duration
	for i, at := range c.acks[1:] {
		pause = max(pause, at.Sub(c.acks[i]))
		if after == 0 && at.After(ready) {
			after = at.Sub(ready)
		}
	}
	e.out.line("the primary was killed (SIGKILL) while %d callers counted; the standby was promoted", callers)
	e.out.line("nobody's count was acknowledged for %s; the new primary's first one came %s after it took writes",
		short(pause), short(after))
	e.check(ctx, n == len(c.acks), "%s counts were acknowledged, and the counter says %s: none lost, none twice", count(len(c.acks)), count(n))
	e.check(ctx, after < recoverWithin, "no caller saw an error")
	return nil
}
