package pipeline

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// slot is the place of one connection.
type slot struct {
	conn      atomic.Pointer[conn]
	opening   atomic.Bool
	notBefore atomic.Int64
	failures  atomic.Int32
}

// conns are the connections that there are.
func (e *Engine) conns(yield func(*conn) bool) {
	for _, set := range [][]slot{e.write, e.read} {
		for i := range set {
			if c := set[i].conn.Load(); c != nil && !yield(c) {
				return
			}
		}
	}
}

// lost takes a connection out of its slot.
func (e *Engine) lost(c *conn) {
	for _, set := range [][]slot{e.write, e.read} {
		for i := range set {
			set[i].conn.CompareAndSwap(c, nil)
		}
	}
	if !errors.Is(c.err, errRetired) && !errors.Is(c.err, errClosed) && !errors.Is(c.err, errEvicted) {
		e.stats.lost.Add(1)
		if e.opts.Failed != nil {
			e.opts.Failed(c.err)
		}
	}
}

// open makes the connection of a slot in the background.
func (e *Engine) open(s *slot, readOnly bool) {
	if e.closing.Load() || time.Now().UnixNano() < s.notBefore.Load() || !s.opening.CompareAndSwap(false, true) {
		return
	}
	if s.conn.Load() != nil { // somebody was faster
		s.opening.Store(false)
		return
	}
	e.start(func() {
		defer s.opening.Store(false)
		if e.closing.Load() {
			return
		}
		session, err := e.opts.Dial(e.life, readOnly)
		if err != nil {
			pause := min(openPause<<min(s.failures.Add(1), 10), maxOpenPause)
			s.notBefore.Store(time.Now().Add(pause/2 + rand.N(pause/2)).UnixNano()) //nolint:gosec // jitter needs no secrecy
			if e.opts.Failed != nil && e.life.Err() == nil {
				e.opts.Failed(err)
			}
			return
		}
		s.failures.Store(0)
		e.stats.roundTrip.Store(int64(session.RoundTrip))
		e.types.Store(session.Types)
		c := newConn(e, session, readOnly)
		s.conn.Store(c)
		switch {
		case e.closing.Load():
			c.retire()
		case session.Evicted():
			c.fail(errEvicted)
		}
	})
}

// The pause after a failed attempt to connect doubles between these.
const (
	openPause    = 50 * time.Millisecond
	maxOpenPause = 10 * time.Second
)

// start runs fn on a goroutine that Close waits for. Once Close does, fn runs at once:
// there is little left to do.
func (e *Engine) start(fn func()) {
	e.starting.Lock()
	over := e.over
	if !over {
		e.running.Go(fn)
	}
	e.starting.Unlock()
	if over {
		fn()
	}
}

// Reset replaces every connection, once it has nothing under way.
func (e *Engine) Reset() {
	for c := range e.conns {
		c.retire()
	}
}

// Evict ends every connection, under those who use it as well.
func (e *Engine) Evict() {
	for c := range e.conns {
		c.fail(errEvicted)
	}
	for _, set := range [][]slot{e.write, e.read} {
		for i := range set {
			set[i].notBefore.Store(0) // what failed before says nothing of what comes
			set[i].failures.Store(0)
		}
	}
}

// Close takes no more statements, waits for those under way until ctx ends, and
// closes every connection. It reports whether all ended by themselves.
func (e *Engine) Close(ctx context.Context) bool {
	e.closing.Store(true)
	e.end()
	e.starting.Lock()
	e.over = true
	e.starting.Unlock()
	e.Reset()
	done := make(chan struct{})
	go func() {
		e.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
	}
	for c := range e.conns {
		c.fail(errClosed)
	}
	<-done
	return false
}
