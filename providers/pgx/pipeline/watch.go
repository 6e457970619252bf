package pipeline

import (
	"context"
	"slices"
	"time"
)

// watchEvery is how often the connections are looked at while they work.
const watchEvery = 5 * time.Millisecond

// wakeWatch wakes the watch goroutine, which rests when nothing is under way.
func (e *Engine) wakeWatch() {
	if e.watching.Load() || e.watching.Swap(true) {
		return
	}
	select {
	case e.watchNow <- struct{}{}:
	default:
	}
}

// watch looks after what is under way, until the engine closes and nothing is.
func (e *Engine) watch() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	closing := e.life.Done()
	for {
		if closing != nil && !e.watching.Load() {
			select {
			case <-e.watchNow:
			case <-closing:
			}
		}
		select {
		case <-ticker.C:
		case <-closing:
			closing = nil
		}
		if !e.lookAround() && closing == nil {
			return
		}
	}
}

// lookAround looks at every connection, and reports whether any has work.
func (e *Engine) lookAround() (working bool) {
	e.watching.Store(false) // a statement that comes from here on says so
	now := e.now()
	for c := range e.conns {
		if c.load.Load() == 0 && c.headSince.Load() == 0 {
			continue // nor does the server work on what was moved elsewhere
		}
		working = true
		e.watching.Store(true)
		c.heed()
		if c.isHeldUp(now) {
			c.relieve(now)
		}
	}
	return working
}

// orphanAfter is how long the server goes on with what nobody waits for.
const orphanAfter = time.Second

// relieve moves elsewhere, as far as there is room, what waits behind something slow:
// what was not sent, reads, and what is only described. The server may still run these;
// nobody reads that result. A connection that works only for callers who gave up is
// closed, and the server asked to stop: nobody else's statement can be hit.
func (c *conn) relieve(now time.Duration) {
	c.engine.stats.heldUp.Add(1)
	orphaned := now-time.Duration(c.headSince.Load()) > orphanAfter
	room := c.engine.opts.Room()
	var ended []*request
	c.mu.Lock()
	for i, seg := range c.inflight {
		for j := range seg.ops {
			r := seg.ops[j].req
			if r == nil {
				continue
			}
			orphaned = orphaned && r.abandoned
			// The reader may be writing into those at the head.
			if i > 0 && c.canMove(r) && len(ended) < room {
				seg.ops[j].req = nil
				ended = c.end(ended, r, moved, nil)
				c.load.Add(-1)
			}
		}
	}
	unsent := min(len(c.queue), max(0, room-len(ended)))
	for _, r := range c.queue[:unsent] {
		ended = c.end(ended, r, moved, nil)
		c.load.Add(-1)
		c.bytes -= r.size
	}
	c.queue = slices.Delete(c.queue, 0, unsent)
	orphaned = orphaned && len(c.inflight) > 0 && len(c.queue) == 0
	orphaned = orphaned && !c.stopping
	if orphaned {
		c.stopping = true
		c.retired.Store(true)
	}
	c.mu.Unlock()
	for _, r := range ended {
		r.wake <- struct{}{}
	}
	if orphaned {
		c.engine.start(c.stop)
	}
}

// canMove reports whether a request can be run elsewhere although it was sent: it can
// only have read, or nothing is run to describe it.
func (c *conn) canMove(r *request) bool {
	return !r.abandoned && (r.kind == kindDescribe || r.kind == kindExec && c.readOnly)
}

// stopTimeout bounds the request to stop the server's work.
const stopTimeout = 2 * time.Second

// stop asks the server to stop and closes the connection.
func (c *conn) stop() {
	ctx, cancel := context.WithTimeout(c.engine.life, stopTimeout)
	defer cancel()
	_ = c.session.Cancel(ctx) // at the worst the server notices when it answers
	c.fail(errRetired)
}

// Tick ends connections that are old or idle for long. It is called now and
// then.
func (e *Engine) Tick(at time.Time) {
	now := at.Sub(e.began)
	for c := range e.conns {
		c.mu.Lock()
		idle := now - c.used
		c.mu.Unlock()
		if now-c.born > e.opts.MaxLifetime || c.load.Load() == 0 && idle > e.opts.MaxIdleTime {
			c.retire()
		}
	}
}
