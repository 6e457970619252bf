package pipeline

import (
	"context"
	"time"
)

// pick chooses a connection: one that is idle, else the least loaded of those
// that are not held up. It opens further ones when all are busy.
func (e *Engine) pick(ctx context.Context, readOnly bool) *conn {
	if e.closing.Load() {
		return nil
	}
	set := e.write
	if readOnly {
		set = e.read
	}
	now := e.now()
	var best *conn
	var least int32
	var empty *slot
	for i := range set {
		c := set[i].conn.Load()
		if c == nil {
			empty = &set[i]
			continue
		}
		load := c.load.Load()
		if load == 0 && c.isAlive(ctx, now) {
			return c
		}
		if (best == nil || load < least) && !c.retired.Load() && !c.isHeldUp(now) {
			best, least = c, load
		}
	}
	if empty != nil {
		e.open(empty, readOnly)
	}
	return best
}

// isAlive reports whether an idle connection can be used.
func (c *conn) isAlive(ctx context.Context, now time.Duration) bool {
	if c.retired.Load() {
		return false
	}
	return c.idleFor(now) < c.engine.opts.PingAfter || c.ping(ctx)
}

func (c *conn) idleFor(now time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now - c.used
}

// A connection is held up when what it is working on takes this long, and
// several times as long as usual, while others got on: else the whole machine
// may be slow, and to send its work elsewhere would only add to it. Where nobody
// gets on, only a much longer time tells.
const (
	heldUpAfter  = 10 * time.Millisecond
	heldUpFactor = 4
	heldUpPassed = 8
	heldUpAlone  = 100 * time.Millisecond
)

// isHeldUp reports whether something slow is at the head of the line.
func (c *conn) isHeldUp(now time.Duration) bool {
	since := time.Duration(c.headSince.Load())
	if since == 0 {
		return false
	}
	// While much is under way, service is only the time between two answers.
	held := now - since - 2*time.Duration(c.roundTrip.Load())
	usual := heldUpFactor * time.Duration(c.service.Load())
	if held <= max(heldUpAfter, usual) {
		return false
	}
	return held > max(heldUpAlone, usual) || c.engine.passed.Load()-c.headPassed.Load() >= heldUpPassed
}

// Passed notes that a statement was run elsewhere at once, so that whoever is
// held up here could be, too.
func (e *Engine) Passed() { e.passed.Add(1) }

// startHead notes since when the head of the line is that. The lock is held.
func (c *conn) startHead(now time.Duration) {
	c.headPassed.Store(c.engine.passed.Load())
	c.headSince.Store(int64(now))
}

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

// watch looks after connections that are held up, until the engine closes.
func (e *Engine) watch() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		if !e.watching.Load() {
			select {
			case <-e.watchNow:
			case <-e.life.Done():
			}
		}
		select {
		case <-ticker.C:
		case <-e.life.Done():
			return
		}
		e.watching.Store(false) // a statement that comes from here on says so
		now := e.now()
		for c := range e.conns {
			if c.load.Load() == 0 {
				continue
			}
			e.watching.Store(true)
			if c.isHeldUp(now) {
				c.relieve(now)
			}
		}
	}
}

// orphanAfter is how long the server goes on with what nobody waits for.
const orphanAfter = time.Second

// relieve moves elsewhere, as far as there is room, what waits behind something slow: what was not sent,
// and reads. The server may still run these; nobody reads that result. A connection that works only
// for callers who gave up is closed, and the server asked to stop: nobody
// else's statement can be hit.
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
			if i > 0 && c.readOnly && !r.abandoned && r.kind == kindExec && len(ended) < room {
				seg.ops[j].req = nil
				ended = c.end(ended, r, moved, nil)
				c.load.Add(-1)
			}
		}
	}
	for len(c.queue) > 0 && len(ended) < room { // not even sent
		r := c.queue[len(c.queue)-1]
		c.queue = c.queue[:len(c.queue)-1]
		ended = c.end(ended, r, moved, nil)
		c.load.Add(-1)
		c.bytes -= r.size
	}
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
