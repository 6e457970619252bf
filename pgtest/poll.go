package pgtest

import (
	"context"
	"fmt"
	"time"
)

const (
	// opLimit bounds every operation whose context has no earlier deadline, so
	// that a stuck server fails a test with a message, not with the binary's
	// global timeout.
	opLimit = time.Minute

	pollInterval = 2 * time.Millisecond
)

// limited bounds ctx by opLimit. The error of poll names what took too long.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, opLimit,
		fmt.Errorf("over pgtest's limit of %v: %w", opLimit, context.DeadlineExceeded))
}

// poll calls done until it says true, fails, or ctx ends.
func poll(ctx context.Context, what string, done func() (bool, error)) error {
	return pollEvery(ctx, pollInterval, what, done)
}

func pollEvery(ctx context.Context, interval time.Duration, what string, done func() (bool, error)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pgtest: waiting for %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
