package pipeline

import (
	"runtime"
	"time"
)

// flushesByCaller is how often a caller flushes what others queued before it
// may see to its own result.
const flushesByCaller = 8

// write sends the queue until it is empty or held. What was queued while a flush
// was under way leaves with the next.
func (c *conn) write() {
	for n := 0; c.flush(); n++ {
		if n == flushesByCaller {
			c.engine.start(c.writeOn)
			return
		}
	}
}

// writeOn is write on a goroutine of its own.
func (c *conn) writeOn() {
	for c.flush() {
	}
}

// flush sends the queue once. It reports false, and leaves the role of the
// writer, when there is nothing to send now.
func (c *conn) flush() bool {
	if c.load.Load() > 1 {
		// Others that are about to ask get their turn first, and leave with this
		// flush. Nothing waits for a time to pass, and a lone caller for nobody.
		runtime.Gosched()
	}
	now := c.engine.now()
	c.mu.Lock()
	if len(c.queue) == 0 || c.err != nil || c.holds(now) {
		c.writing = false
		c.mu.Unlock()
		return false
	}
	c.compose(now)
	c.mu.Unlock()
	if _, err := c.session.Conn.Write(c.out); err != nil {
		c.fail(err)
	}
	c.engine.stats.flushes.Add(1)
	c.engine.stats.bytesOut.Add(int64(len(c.out)))
	return true
}

// Flushes that are not answered: with flightsBusy the server has one to work on
// and one for when it is done; more than flightsMost, and one more for each
// flightEvery of the round trip, never help.
const (
	flightsBusy = 2
	flightsMost = 4
	flightEvery = 200 * time.Microsecond
)

// holds reports whether the queue had better wait for the next answer. A server
// that is behind gains nothing by more, smaller flushes: together they cost it,
// and the network, less. It is behind when the oldest is unanswered for longer
// than the way there and back takes.
func (c *conn) holds(now time.Duration) bool {
	roundTrip := time.Duration(c.roundTrip.Load())
	switch {
	case c.flights == 0:
		return false
	case c.checking:
		return true // a ping decides first
	case c.gathers():
		return true
	case c.flights < flightsBusy:
		return false
	case c.flights >= flightsMost+int(roundTrip/flightEvery):
		return true
	default:
		return now-time.Duration(c.headSince.Load()) > 2*roundTrip
	}
}

// gatherFrom is from how large a half on it pays to gather: the server's work on less
// is over sooner than the callers of the other half have asked again.
const gatherFrom = 12

// gathers reports whether the queue waits for more. Nearby, the server works on one
// half of what there is while the callers of the other are answered and ask again;
// each half leaves as one flush.
func (c *conn) gathers() bool {
	half := c.half()
	if c.flights == 0 || half < gatherFrom || c.roundTrip.Load() >= int64(flightEvery) {
		return false
	}
	return c.flights >= flightsBusy || len(c.queue) < half
}

// half is half of what the connection has when all its callers wait.
func (c *conn) half() int { return (c.peak + 1) / 2 }

// resume has what was held sent, now that an answer came. The reader does it
// itself where that cannot block: a server that waits for its answers to be read
// takes nothing in.
func (c *conn) resume() {
	c.mu.Lock()
	idle := !c.writing && len(c.queue) > 0 && c.err == nil
	small := c.bytes <= c.engine.opts.MaxRequestBytes/2
	c.writing = c.writing || idle
	c.mu.Unlock()
	switch {
	case idle && small:
		c.write()
	case idle:
		c.engine.start(c.writeOn)
	}
}

// compose turns the queue into segments and their bytes.
func (c *conn) compose(now time.Duration) {
	out := c.out[:0]
	for _, name := range c.forget {
		out = appendForget(out, name)
	}
	c.forget = c.forget[:0]
	if len(c.inflight) == 0 {
		c.startHead(now)
	}
	queue := c.queue[:c.portion()]
	sent := len(queue)
	for len(queue) > 0 {
		seg := c.newSegment()
		seg.sent = now
		n, statements := 0, 0
		if c.limited(queue[0]) {
			n = c.groupOf(queue)
			for _, r := range queue[:n] {
				out = c.append(out, seg, r)
			}
			if queue[0].kind == kindExec { // all else is alone
				statements = n
			}
		} else {
			out = c.appendLimit(out, seg, queue[0])
		}
		out = appendSync(out)
		c.inflight = append(c.inflight, seg)
		c.engine.stats.composed(statements, len(c.inflight))
		queue = queue[n:]
		seg.last = len(queue) == 0
	}
	c.flights++
	c.peak = max(c.peak-c.peak/averageOver, int(c.load.Load()))
	rest := copy(c.queue, c.queue[sent:])
	clear(c.queue[rest:])
	c.queue, c.out = c.queue[:rest], out
}

// leastPortion is how many reads always leave together.
const leastPortion = 8

// portion is how much of the queue leaves with a flush. Reads whose answers come
// together ask again together; were all of them to leave at once, the server would
// have next to nothing to do while their callers are answered. So it gets half of
// what there is, and the rest while it works on that.
func (c *conn) portion() int {
	switch {
	case c.checking:
		return 1 // the ping
	case c.readOnly:
		return min(len(c.queue), max(c.half(), leastPortion))
	default:
		return len(c.queue)
	}
}

func (c *conn) newSegment() *segment {
	if n := len(c.free); n > 0 {
		seg := c.free[n-1]
		c.free = c.free[:n-1]
		return seg
	}
	return &segment{}
}
