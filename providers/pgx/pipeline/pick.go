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
		if c.isHeldUp(now) { // also where all that is under way was moved elsewhere
			continue
		}
		load := c.load.Load()
		if load == 0 && c.isAlive(ctx, now) {
			return c
		}
		if (best == nil || load < least) && !c.retired.Load() {
			best, least = c, load
		}
	}
	if empty != nil {
		e.open(empty, readOnly)
	}
	return best
}

// On one connection statements run one after the other. From this time on, at the server
// and in the middle of cases, it pays more to have them run beside each other: a commit
// that waits for its disk, for one, takes others with it that wait at the same time.
const besideFrom = 500 * time.Microsecond

// isBetterBeside reports whether a statement had better run elsewhere than behind what
// the connection has: that keeps the server busy, and takes longer than the wait for a
// place elsewhere.
func (e *Engine) isBetterBeside(s *statement, c *conn) bool {
	usual, roundTrip := s.usual.Load(), c.roundTrip.Load()
	if usual < int64(besideFrom)+roundTrip/4 {
		return false // a quarter is how much a round trip may well vary
	}
	load := int64(c.load.Load())
	return load > roundTrip/usual && (e.opts.Room() > 0 || int64(e.opts.Waited()) < load*usual)
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
