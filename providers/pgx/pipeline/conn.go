package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// conn is a connection that many callers share.
//
// It has two roles, each played by one goroutine at a time. The writer is the
// caller who finds nobody writing: it sends what is in the queue, including what
// others add meanwhile. The reader is a caller who is alone on the connection,
// so that it costs no change of goroutine, and else the connection's own
// goroutine. Sending and receiving go on at the same time.
type conn struct {
	engine   *Engine
	session  *Session
	readOnly bool

	// load is the number of requests, queued or sent; headSince when the oldest
	// unanswered segment became that, by the engine's clock, or 0; headPassed how
	// many segments and statements had passed then. They are read without the
	// lock.
	load       atomic.Int32
	headSince  atomic.Int64
	headPassed atomic.Int64
	// service is the moving average of a segment's time, roundTrip the shortest way
	// there and back that was seen.
	service, roundTrip atomic.Int64
	// retired says that it takes no new requests.
	retired atomic.Bool

	mu       sync.Mutex
	queue    []*request
	inflight []*segment // the oldest first
	free     []*segment
	bytes    int
	flights  int // flushes that are not answered
	// peak is the load of late when it was highest.
	peak     int
	writing  bool
	reading  bool
	checking bool // a ping decides whether it is still alive; the rest is held
	// limit is the session's statement_timeout in milliseconds, or 0 for what it
	// was at the start.
	limit int64
	// suspect is how many of the segments under way were sent with a limit in
	// mind that could not be set.
	suspect int
	// stopping says that the server is being asked to stop.
	stopping bool
	err      error
	// prepared are the statements that this connection has, forget the names
	// of those that it shall have no more.
	prepared map[*statement]struct{}
	forget   []string
	born     time.Duration
	used     time.Duration

	out []byte // the writer's

	// What follows is the reader's.

	in       inbox
	seg      *segment
	lastDone time.Duration
	ended    []*request
	lastTag  tagCache
	// others are the columns of statements that returned others than those known when
	// they were prepared here.
	others map[*statement][]pgconn.FieldDescription

	// more wakes the reading goroutine.
	more chan struct{}
	dead chan struct{}
}

func newConn(e *Engine, s *Session, readOnly bool) *conn {
	now := e.now()
	c := &conn{
		engine: e, session: s, readOnly: readOnly, prepared: map[*statement]struct{}{},
		others: map[*statement][]pgconn.FieldDescription{},
		born:   now, used: now, more: make(chan struct{}, 1), dead: make(chan struct{}),
	}
	c.roundTrip.Store(int64(s.RoundTrip))
	e.running.Go(c.readWhenTold)
	return c
}

// submit queues a request and, unless somebody else is about to, sends it. It
// reports false when the connection takes no more.
func (c *conn) submit(r *request) bool {
	c.mu.Lock()
	size := c.sizeOf(r)
	if !c.takes(size) {
		c.mu.Unlock()
		return false
	}
	r.size, r.pid = size, c.session.PID
	c.queue = append(c.queue, r)
	c.bytes += size
	c.peak = max(c.peak, int(c.load.Add(1)))
	lead := !c.writing && !c.gathers() // else a writer would let others go first, in vain
	c.writing = c.writing || lead
	c.mu.Unlock()
	if lead {
		c.write()
	}
	return true
}

// hasRoom reports whether a request would be taken now.
func (c *conn) hasRoom(r *request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.takes(c.sizeOf(r))
}

// sizeOf is a request's size, with what it takes to prepare its statement here.
func (c *conn) sizeOf(r *request) int {
	if r.kind == kindExec {
		if _, known := c.prepared[r.statement]; !known {
			return r.size + len(r.statement.sql)
		}
	}
	return r.size
}

// takes reports whether there is room for a request. The limit on bytes is what
// keeps a flush from ever blocking: that much always fits into the socket's
// buffer, so a server that does not read holds up nobody.
func (c *conn) takes(size int) bool {
	if c.err != nil || c.retired.Load() {
		return false
	}
	o := &c.engine.opts
	return int(c.load.Load()) < o.MaxInFlight && (c.bytes == 0 || c.bytes+size <= o.MaxRequestBytes)
}

// fail ends the connection. Whoever reads ends what is on it: nobody else may
// touch the requests that answers are being read into.
func (c *conn) fail(err error) {
	c.mu.Lock()
	first, reader := c.err == nil, c.reading
	if first {
		c.err = err
		c.retired.Store(true)
	}
	c.reading = true // for ever
	c.mu.Unlock()
	if first {
		close(c.dead)
		c.session.Close()
		c.engine.lost(c)
	}
	if !reader {
		c.abort()
	}
}

// abort ends everything on a connection that failed. It is for the reader.
func (c *conn) abort() {
	c.mu.Lock()
	ended := c.ended // answered before
	for _, r := range c.queue {
		ended = c.end(ended, r, moved, nil)
	}
	for _, seg := range c.inflight {
		for _, o := range seg.ops {
			if o.req != nil {
				ended = c.end(ended, o.req, c.verdictOnLoss(o.req), c.err)
			}
		}
	}
	c.queue, c.inflight, c.ended = nil, nil, nil
	c.load.Store(0)
	c.mu.Unlock()
	for _, r := range ended {
		r.wake <- struct{}{}
	}
}

// verdictOnLoss is what became of a request whose answer will not come.
func (c *conn) verdictOnLoss(r *request) verdict {
	if c.readOnly || r.kind != kindExec {
		return moved // it can only have read
	}
	return lost
}

// end marks a request as ended and adds it to those whose caller must be woken.
func (c *conn) end(ended []*request, r *request, v verdict, err error) []*request {
	if r.kind == kindDescribe && (r.abandoned || v == moved) { // nobody else knows its name
		c.forget = append(c.forget, r.statement.name)
	}
	if r.abandoned {
		if r.kind == kindPing {
			c.checking = false
		}
		r.recycle()
		return ended
	}
	r.verdict, r.err, r.done = v, err, true
	return append(ended, r)
}

var (
	errRetired = errors.New("the connection was retired")
	errClosed  = errors.New("the pipeline was closed")
	errEvicted = fmt.Errorf("the connection was evicted: %w", net.ErrClosed)
)

// retire lets a connection finish what it has, and no more.
func (c *conn) retire() {
	c.retired.Store(true)
	c.mu.Lock()
	over := c.isOver()
	c.mu.Unlock()
	if over {
		c.fail(errRetired)
	}
}

// isOver reports whether a connection is to end, and has nothing left to finish. The
// lock is held.
func (c *conn) isOver() bool { return c.retired.Load() && c.load.Load() == 0 }

// ping finds out whether a connection that was idle is still alive. What others
// ask of it meanwhile is held, and goes elsewhere if it is not. It reports
// whether the connection can be used.
func (c *conn) ping(ctx context.Context) bool {
	r := requests.Get().(*request)
	r.kind, r.hasty = kindPing, true
	if !c.submitPing(r) {
		r.recycle()
		return true // somebody else does, or uses it already
	}
	limited, cancel := context.WithTimeout(ctx, c.engine.opts.PingTimeout)
	defer cancel()
	if err := c.await(limited, r); err != nil {
		if ctx.Err() == nil { // else it is the caller who is in a hurry
			c.fail(err)
		}
		return false
	}
	alive := r.verdict == answered && r.err == nil
	r.recycle()
	c.mu.Lock()
	c.checking = false
	c.mu.Unlock()
	c.resume()
	return alive
}

// submitPing sends a ping, if nobody uses the connection.
func (c *conn) submitPing(r *request) bool {
	c.mu.Lock()
	if c.load.Load() > 0 || c.checking || c.writing || c.err != nil {
		c.mu.Unlock()
		return false
	}
	c.checking, c.writing = true, true
	c.queue = append(c.queue, r)
	c.load.Add(1)
	c.mu.Unlock()
	c.write()
	return true
}
