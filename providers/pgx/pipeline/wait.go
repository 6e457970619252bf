package pipeline

import (
	"context"
	"slices"
)

// await waits for the end of a request that was submitted. It returns the
// context's error if that ends first; the request is then no longer the
// caller's.
func (c *conn) await(ctx context.Context, r *request) error {
	c.mu.Lock()
	if !r.done && !c.reading { // it is always being read once it failed
		c.reading = true
		if c.load.Load() == 1 && len(c.inflight) > 0 {
			c.mu.Unlock()
			return c.readAlone(ctx, r)
		}
		c.tellReader()
	}
	patient := !r.hasty && !c.engine.closing.Load() // then nobody may be there to tell it
	r.patient = patient
	c.mu.Unlock()
	if patient {
		<-r.wake
		if r.patient {
			return nil
		}
	}
	select {
	case <-r.wake:
		return nil
	case <-ctx.Done():
		return c.giveUp(ctx, r)
	}
}

// A caller waits with patience, for the end of its request only: to wait for the end
// of its context as well, and to have the context make the channel for that, costs a
// tenth of a short statement. Those who have waited for two looks of the watch are
// told to mind it, so callers whose deadline is nearer than this do from the start.
const hastyWithin = 4 * watchEvery

// heed tells those who have waited for long to mind the end of their contexts.
func (c *conn) heed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.queue {
		r.heed()
	}
	for _, seg := range c.inflight {
		for i := range seg.ops {
			if r := seg.ops[i].req; r != nil {
				r.heed()
			}
		}
	}
}

func (r *request) heed() {
	switch {
	case !r.patient:
	case !r.lasts:
		r.lasts = true
	default:
		r.patient = false
		r.wake <- struct{}{}
	}
}

// giveUp leaves a request to the connection, unless it has just ended. One that
// was not sent yet never will be.
func (c *conn) giveUp(ctx context.Context, r *request) error {
	c.mu.Lock()
	if r.done {
		c.mu.Unlock()
		<-r.wake // it is on its way
		return nil
	}
	if i := slices.Index(c.queue, r); i >= 0 {
		c.queue = slices.Delete(c.queue, i, i+1)
		c.bytes -= r.size
		c.load.Add(-1)
		if r.kind == kindPing {
			c.checking = false
		}
		over := c.isOver()
		c.mu.Unlock()
		r.recycle()
		if over { // no answer will come that would end it
			c.engine.start(c.retire)
		}
		return &NotSentError{ctx.Err()}
	}
	r.abandoned = true
	c.mu.Unlock()
	c.engine.stats.abandoned.Add(1)
	return ctx.Err()
}
