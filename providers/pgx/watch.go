package pgx

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

// lookEvery is how often the watchdog looks for statements that last, and so the
// delay with which the end of a context can be noticed.
const lookEvery = 20 * time.Millisecond

// watchdog has long statements end with their contexts. The driver would arm
// and disarm a callback on the context of each statement, which takes about a
// twentieth of a short one. The watchdog does that only for those that it finds
// under way, and looks only while there are any.
type watchdog struct {
	awake atomic.Bool
	timer *time.Timer
}

// watchedContext is the context that a session's statement runs with. The session
// looks after its end, so the driver need not.
type watchedContext struct {
	context.Context //nolint:containedctx // it is a context

	s *session
}

// Done hides the end from the driver, which asks Err after an error only.
func (*watchedContext) Done() <-chan struct{} { return nil }

// watch is the statement that the watchdog looks after.
type watch struct {
	handler ctxwatch.Handler
	// on says that there is one, and ctx is its context.
	on  bool
	ctx watchedContext
	// stop calls off the callback on the context, done is closed when that has
	// run; nil as long as there is none.
	stop func() bool
	done chan struct{}
}

// watch returns a context for the driver to run a statement with, until unwatch.
func (s *session) watch(ctx context.Context) context.Context {
	if ctx.Done() == nil || ctx.Err() != nil {
		return ctx // there is nothing to wait for, or the driver refuses it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.statement.on {
		return ctx // the driver watches what runs inside
	}
	s.statement.on, s.statement.ctx.Context = true, ctx
	s.pool.watchdog.wake()
	if s.pool.cfg.Tracer != nil {
		return &watchedContext{ctx, s} // the user's tracer may keep it
	}
	return &s.statement.ctx
}

// unwatch ends the watch, if there is one. What the end of the context set off is
// over when it returns. Once the connection was given back, which ended it as
// well, the watch is that of somebody else.
func (l lease) unwatch() {
	s := l.s
	s.mu.Lock()
	if s.lease != l.no || s.borrowed == nil {
		s.mu.Unlock()
		return
	}
	ended := s.endWatch()
	s.statement.ctx.Context = context.Background() // keeps nothing of the caller's
	s.mu.Unlock()
	ended.wait()
}

// endWatch needs the lock, and the caller to wait without it for what it returns.
// The driver may still be using the context.
func (s *session) endWatch() (ended watch) {
	if s.statement.on {
		ended = s.statement
		s.statement.on, s.statement.stop, s.statement.done = false, nil, nil
	}
	return ended
}

// wait waits for what the end of the context set off, if it did.
func (w *watch) wait() {
	if w.stop != nil && !w.stop() {
		<-w.done
		w.handler.HandleUnwatchAfterCancel()
	}
}

// look arms the callback for a statement under way, and reports whether there
// is one.
func (s *session) look() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.statement.on {
		return false
	}
	if s.statement.stop == nil {
		ctx, done := s.statement.ctx.Context, make(chan struct{})
		s.statement.done = done
		s.statement.stop = context.AfterFunc(ctx, func() {
			defer close(done)
			s.statement.handler.HandleCancel(ctx)
		})
	}
	return true
}

func (d *watchdog) wake() {
	if !d.awake.Load() && d.awake.CompareAndSwap(false, true) {
		d.timer.Reset(lookEvery)
	}
}

// lookAround is what the watchdog does when its time has come.
func (p *Pool) lookAround() {
	if p.anyWatched() {
		p.watchdog.timer.Reset(lookEvery)
		return
	}
	p.watchdog.awake.Store(false)
	if p.anyWatched() { // it began in between, and saw the watchdog awake
		p.watchdog.wake()
	}
}

func (p *Pool) anyWatched() bool {
	p.sessionsMu.Lock()
	defer p.sessionsMu.Unlock()
	found := false
	for s := range p.sessions {
		found = s.look() || found
	}
	return found
}
