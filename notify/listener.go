package notify

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// Listener is one connection that listens for any number of subscribers on any
// number of channels. It is safe for concurrent use.
type Listener struct {
	source   providers.Listener
	opts     Options
	counters counters
	// heard is when the server last gave a sign of life, pid its process.
	heard atomic.Int64
	pid   atomic.Uint32

	// life ends when Close begins, patience when it stops waiting.
	life      context.Context //nolint:containedctx // the listener's own life
	endLife   context.CancelCauseFunc
	patience  context.Context //nolint:containedctx // the end of it
	impatient context.CancelFunc
	closing   sync.Once
	finished  chan struct{}

	mu       sync.Mutex
	started  bool
	starting bool
	// err is why it ended.
	err         error
	channels    map[string]*channel
	subscribers int
	// changed are the channels that came or went since the server was told.
	changed map[string]struct{}
	// interrupt ends the connection's wait.
	interrupt context.CancelFunc
	work      sync.WaitGroup
}

// New returns a listener that connects through the pool, once Start is called.
func New(pool providers.Listener, options Options) (*Listener, error) {
	if v := reflect.ValueOf(pool); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, refusal("notify.New: the pool is nil")
	}
	if err := options.Validate(); err != nil {
		return nil, err
	}
	l := &Listener{
		source: pool, opts: options.withDefaults(), finished: make(chan struct{}),
		channels: map[string]*channel{}, changed: map[string]struct{}{},
	}
	l.life, l.endLife = context.WithCancelCause(context.Background())
	l.patience, l.impatient = context.WithCancel(context.Background())
	return l, nil
}

// Start connects, and listens to the channels subscribed to so far. From then on
// the listener looks after the connection by itself, until Close or the end of
// its pool; ctx is only for the start, but its values (such as the tenant) are for
// every connection. If it fails, it may be called again.
func (l *Listener) Start(ctx context.Context) error {
	if err := l.beginStart(); err != nil {
		return err
	}
	origin := context.WithoutCancel(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.life, func() { cancel(ErrClosed) })()
	c, err := l.connect(ctx)

	l.mu.Lock()
	l.starting = false
	if err == nil && l.err == nil {
		l.started = true
		l.work.Go(func() { l.run(origin, c) })
		l.mu.Unlock()
		return nil
	}
	ended := l.err
	l.mu.Unlock()
	if c != nil {
		c.close()
	}
	if ended != nil {
		return ended
	}
	return fmt.Errorf("pgkeel: start the listener: %w", err)
}

func (l *Listener) beginStart() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return l.err
	case l.started || l.starting:
		return ErrStarted
	}
	l.starting = true
	return nil
}

// Close ends the listener and every subscription. It waits for handlers that
// run until ctx ends; then it ends their contexts and returns that of ctx. It
// may be called twice, and before Start.
func (l *Listener) Close(ctx context.Context) error {
	l.closing.Do(func() {
		l.end(ErrClosed)
		go func() {
			l.work.Wait()
			l.impatient()
			close(l.finished)
		}()
	})
	select {
	case <-l.finished:
		return nil
	case <-ctx.Done():
		l.impatient()
		return fmt.Errorf("pgkeel: close the listener: a handler still runs: %w", context.Cause(ctx))
	}
}

// end ends every subscription, and refuses new ones. The first reason stays.
func (l *Listener) end(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	var all []*Subscription
	for _, c := range l.channels {
		all = append(all, c.subs...)
	}
	l.mu.Unlock()
	l.endLife(err)
	for _, s := range all {
		s.detach()
		s.end(err)
	}
}

// spawn runs fn on a goroutine that Close waits for, or refused after it.
func (l *Listener) spawn(fn, refused func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		refused()
		return
	}
	l.work.Go(fn)
}

// change notes that a channel came or went, and wakes the connection.
func (l *Listener) change(name string) {
	l.changed[name] = struct{}{}
	if l.interrupt != nil {
		l.interrupt()
	}
}

// Stats returns a snapshot of the listener's statistics.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	s := Stats{Channels: len(l.channels), Subscribers: l.subscribers}
	l.mu.Unlock()
	c := &l.counters
	s.PID = l.pid.Load()
	s.Connected = s.PID != 0
	if heard := l.heard.Load(); heard != 0 {
		s.LastHeard = time.Unix(0, heard)
	}
	s.Connects, s.ConnectErrors, s.Gaps, s.Heartbeats = c.connects.Load(), c.connectErrors.Load(), c.gaps.Load(), c.heartbeats.Load()
	s.Received, s.Queued, s.Dropped, s.HandlerPanics = c.received.Load(), c.queued.Load(), c.dropped.Load(), c.panics.Load()
	return s
}

func joinFaults(faults []error) error { return errors.Join(faults...) }
