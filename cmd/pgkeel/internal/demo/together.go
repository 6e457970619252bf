package demo

import (
	"context"
	"errors"
	"sync"
	"time"
)

// together runs n callers side by side. The first error ends the context of the
// others, and is returned without what that brought about.
func together(ctx context.Context, n int, call func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var callers sync.WaitGroup
	for i := range n {
		callers.Go(func() {
			if err := call(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	callers.Wait()
	return context.Cause(ctx)
}

// pollEvery is how often until looks.
const pollEvery = 2 * time.Millisecond

// errNotYet is what until ends with when it waited in vain.
var errNotYet = errors.New("it did not happen in time")

// until looks again and again whether something is so, and returns how long it
// took.
func until(ctx context.Context, limit time.Duration, so func(ctx context.Context) (bool, error)) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errNotYet)
	defer cancel()
	begin := time.Now()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		ok, err := so(ctx)
		if ctx.Err() != nil { // then err, if any, is no more than its consequence
			return time.Since(begin), context.Cause(ctx)
		}
		if ok || err != nil {
			return time.Since(begin), err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}
