package bench

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// crew are the callers of one side in a round. Whatever they need is allocated
// before the measuring begins.
type crew struct {
	ctx     context.Context //nolint:containedctx // that of the round, which is the crew's life
	cancel  context.CancelCauseFunc
	workers []worker
	timed   func(caller, n int) bool
	working sync.WaitGroup
	living  sync.WaitGroup
}

// worker is one caller.
type worker struct {
	// turns tells until when to work.
	turns   chan time.Time
	ops     int
	latency histogram
	err     error
}

// newCrew starts the callers, who wait for their first turn. Dismiss them.
// Latencies are those of the operations that timed names, of all if it is nil.
func newCrew(ctx context.Context, callers int, op Op, timed func(caller, n int) bool) *crew {
	c := &crew{workers: make([]worker, callers), timed: timed}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	for i := range c.workers {
		w := &c.workers[i]
		w.turns = make(chan time.Time)
		c.living.Go(func() {
			for until := range w.turns {
				if w.work(c, op, i, until); w.err != nil {
					c.cancel(w.err) // the others need not go on
				}
				c.working.Done()
			}
		})
	}
	return c
}

// work calls op until the time has come, and at least once. It reads the clock once
// for each operation, and none but the monotonic one: to read the time of day as well
// takes some hundredths of a short operation, more of them on the faster side.
func (w *worker) work(c *crew, op Op, number int, until time.Time) {
	start := time.Now()
	slice := until.Sub(start)
	for begun := time.Duration(0); ; {
		if w.err = op(c.ctx, number, w.ops); w.err != nil {
			return
		}
		ended := time.Since(start)
		if c.timed == nil || c.timed(number, w.ops) {
			w.latency.record(ended - begun)
		}
		w.ops++
		if ended >= slice {
			return
		}
		begun = ended
	}
}

// rehearse has each caller work once, and forgets it.
func (c *crew) rehearse() error {
	err := c.run(time.Time{})
	for i := range c.workers {
		c.workers[i].latency = histogram{}
	}
	return err
}

// work measures one slice.
func (c *crew) work(slice time.Duration) (sample, error) {
	done := c.ops()
	before := takeReading()
	err := c.run(before.at.Add(slice))
	s := takeReading().since(before)
	s.ops = int64(c.ops() - done)
	return s, err
}

// run has everybody work until the time has come.
func (c *crew) run(until time.Time) error {
	c.working.Add(len(c.workers))
	for i := range c.workers {
		c.workers[i].turns <- until
	}
	c.working.Wait()
	for i := range c.workers {
		if err := c.workers[i].err; err != nil {
			return cmp.Or(context.Cause(c.ctx), err) // the cause is the first of several
		}
	}
	return nil
}

func (c *crew) ops() (total int) {
	for i := range c.workers {
		total += c.workers[i].ops
	}
	return total
}

func (c *crew) latency() (total histogram) {
	for i := range c.workers {
		total.add(&c.workers[i].latency)
	}
	return total
}

// dismiss ends the callers.
func (c *crew) dismiss() {
	for i := range c.workers {
		close(c.workers[i].turns)
	}
	c.living.Wait()
	c.cancel(nil)
}
