package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgkeel/pgkeel"
)

const (
	// patience is how long a caller waits in this scene, tolerance how much
	// longer it may take on a busy machine.
	patience  = 100 * time.Millisecond
	tolerance = 3 * time.Second
	// smallSize is the size of the pool that is exhausted.
	smallSize = 2
	// long is work that nobody waits for to end.
	long = `select pg_sleep(60)`
)

// limits shows how waits end: by a deadline, by the server's own limit, and at a
// pool that has no connection left.
func limits(ctx context.Context, e *environment) error {
	if err := deadline(ctx, e); err != nil {
		return fmt.Errorf("a deadline: %w", err)
	}
	small, err := e.open(ctx, "small", e.cluster.Primary(), appName+"-small",
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: smallSize}),
		pgkeel.WithAcquireTimeout(patience), pgkeel.WithStatementTimeout(patience))
	if err != nil {
		return err
	}
	serverLimit(ctx, e, small)
	if err := exhausted(ctx, e, small); err != nil {
		return fmt.Errorf("an exhausted pool: %w", err)
	}
	if err := cleanSession(ctx, e, small); err != nil {
		return fmt.Errorf("a dirty session: %w", err)
	}
	return nil
}

// deadline gives a long statement a short time, on a connection that it holds,
// to see that it is the same one afterwards.
func deadline(ctx context.Context, e *environment) error {
	conn, err := e.db.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	pid, err := pgkeel.One[int32](ctx, conn, `select pg_backend_pid()`)
	if err != nil {
		return err
	}
	hurried, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	begin := time.Now()
	_, err = conn.Exec(hurried, long)
	took := time.Since(begin)
	e.out.line("a deadline of %s on a statement that takes a minute:", short(patience))
	e.out.quote("%v", err)
	var timeout *pgkeel.TimeoutError
	e.check(ctx, errors.As(err, &timeout) && errors.Is(err, context.DeadlineExceeded) && took < patience+tolerance,
		"the caller was free after %s, and the error names the limit%s", short(took), limitOf(timeout))
	state, err := pgkeel.One[string](ctx, e.observer, `select state from pg_stat_activity where pid = $1`, pid)
	if err != nil {
		return err
	}
	after, err := pgkeel.One[int32](ctx, conn, `select pg_backend_pid()`)
	e.check(ctx, err == nil && after == pid && state == "idle",
		"the server had stopped the work, and the same connection served the next statement%s", because(err))
	return nil
}

func limitOf(err *pgkeel.TimeoutError) string {
	if err == nil {
		return ""
	}
	return ": " + err.Limit
}

// serverLimit runs into the limit that the server itself has for a statement.
func serverLimit(ctx context.Context, e *environment, small *pgkeel.DB) {
	_, err := small.Exec(ctx, long)
	var timeout *pgkeel.TimeoutError
	e.check(ctx, errors.As(err, &timeout) && timeout.Limit == "statement_timeout" && pgkeel.OutcomeOf(err) == pgkeel.OutcomeRolledBack,
		"without a deadline the server's own limit ends it%s, outcome %v", limitOf(timeout), pgkeel.OutcomeOf(err))
}

// exhausted asks a pool for one connection more than it has.
func exhausted(ctx context.Context, e *environment, small *pgkeel.DB) error {
	var held []*pgkeel.Conn
	defer func() {
		for _, c := range held {
			c.Release()
		}
	}()
	for _, order := range []string{"order 41", "order 42"} {
		conn, err := small.Acquire(pgkeel.WithCorrelationID(ctx, order))
		if err != nil {
			return err
		}
		held = append(held, conn)
	}
	begin := time.Now()
	err := small.Ping(ctx)
	took := time.Since(begin)
	e.out.line("one caller more than the pool has connections:")
	e.out.quote("%v", err)
	var full *pgkeel.ExhaustedError
	e.check(ctx, errors.As(err, &full) && errors.Is(err, pgkeel.ErrPoolExhausted) &&
		len(full.Holders) == smallSize && pgkeel.OutcomeOf(err) == pgkeel.OutcomeNotSent && took < patience+tolerance,
		"the error says that nothing was sent, and names the %d holders", smallSize)
	held[0].Release()
	err = small.Ping(ctx)
	e.check(ctx, err == nil, "with one connection returned, the next caller is served%s", because(err))
	return nil
}

// cleanSession leaves a setting behind in a connection and looks for it in all.
func cleanSession(ctx context.Context, e *environment, small *pgkeel.DB) error {
	conn, err := small.Acquire(ctx)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `set search_path = somewhere_else`)
	conn.Release()
	if err != nil {
		return err
	}
	err = together(ctx, smallSize, func(ctx context.Context, _ int) error {
		_, err := small.QueryCount(ctx, `select count(*) from cities`) // not found with that path
		return err
	})
	e.check(ctx, err == nil && small.Stats().Resets > 0, "a search_path that a borrower left behind was gone for the next%s", because(err))
	return nil
}
