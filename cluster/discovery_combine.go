package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// Combine is the servers that any of several discoveries finds. All are asked at the
// same time. Of one that fails the servers count that it found last, and the others
// are heard. What two of them find is taken from the first, its zone and weight
// included, if it is the same to the letter.
func Combine(parts ...Discovery) Discovery {
	c := &combined{parts: parts, askers: make([]asker, len(parts)), last: make([][]Host, len(parts))}
	for i, part := range parts {
		c.askers[i].discovery = part
	}
	return c
}

type combined struct {
	parts []Discovery

	mu     sync.Mutex
	askers []asker
	// last is what each part found when it did not fail.
	last [][]Host
}

// Discover asks all parts.
func (c *combined) Discover(ctx context.Context, primary providers.Querier) ([]Host, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := earlier(ctx)
	defer cancel()
	faults := make([]error, len(c.parts))
	var asked sync.WaitGroup
	for i := range c.askers {
		asked.Go(func() {
			found, err := c.askers[i].ask(ctx, primary)
			if err == nil || len(found) > 0 {
				c.last[i] = found
			}
			faults[i] = err
		})
	}
	asked.Wait()
	return union(c.last), errors.Join(faults...)
}

// earlier is a context that leaves the time to give up on a part and to tell of the
// others, before whoever asked gives up on all.
func earlier(ctx context.Context) (context.Context, context.CancelFunc) {
	end, limited := ctx.Deadline()
	if !limited {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, end.Add(-min(2*discoveryGrace, time.Until(end)/4)))
}

// union is each host once.
func union(all [][]Host) []Host {
	var hosts []Host
	for _, some := range all {
		for _, h := range some {
			isSame := func(o Host) bool { return o.DSN == h.DSN && o.Address == h.Address }
			if !slices.ContainsFunc(hosts, isSame) {
				hosts = append(hosts, h)
			}
		}
	}
	return hosts
}

func (c *combined) check() error {
	if len(c.parts) == 0 {
		return errors.New("Combine has nothing to combine; leave it out")
	}
	var faults []error
	for _, part := range c.parts {
		if part == nil {
			faults = append(faults, errors.New("Combine has a nil discovery; leave it out"))
		} else if p, ok := part.(checker); ok {
			faults = append(faults, p.check())
		}
	}
	return errors.Join(faults...)
}
