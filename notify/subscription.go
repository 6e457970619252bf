package notify

import (
	"context"
	"fmt"
	"iter"
	"time"
)

// Subscription receives what is sent to one channel, from the moment on when
// Subscribe returned. It is read in one of three ways: by Next, by ranging over
// All, or from the Go channel of Chan; or it was made by Handle and reads
// itself. It is safe for concurrent use; several readers share the events.
type Subscription struct {
	l  *Listener
	ch *channel
	q  *queue
	// place is where it stands among the channel's; under the listener's lock.
	place int
	// detach lets go of the context.
	detach func() bool
	ctx    context.Context //nolint:containedctx // it is the subscription's life
}

// Channel is the name of the channel.
func (s *Subscription) Channel() string { return s.q.channel }

// Next waits for the next event. It fails when its own context ends, which does
// not end the subscription, and with [Subscription.Err] once that has ended.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		e, ok, err := s.q.take()
		if ok || err != nil {
			return e, err
		}
		if ctx.Done() == nil { // a plain wait costs much less
			<-s.q.ready
			continue
		}
		select {
		case <-s.q.ready:
		case <-ctx.Done():
			return Event{}, fmt.Errorf("pgkeel: wait for channel %q: %w", s.q.channel, context.Cause(ctx))
		}
	}
}

// All yields the events until the subscription ends. Its last pair is how that
// came about, unless it was closed by its owner, which just ends the loop. To
// leave the loop does not end the subscription.
func (s *Subscription) All() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			e, err := s.Next(context.Background())
			if err == ErrUnsubscribed { //nolint:errorlint // not one that the caller's context wraps
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Chan returns a Go channel with the events, which is closed when the
// subscription ends; Err then says why. It holds no event itself, but the
// goroutine behind it has one in its hand. Call it once.
func (s *Subscription) Chan() <-chan Event {
	events := make(chan Event)
	s.l.spawn(func() {
		defer close(events)
		for {
			e, err := s.Next(context.Background())
			if err != nil {
				return
			}
			select {
			case events <- e:
			case <-s.q.done:
				return
			}
		}
	}, func() { close(events) })
	return events
}

// Err is how the subscription ended: the cause of its context, [ErrUnsubscribed]
// after Close, [ErrClosed] after that of the listener, or nil while it lives.
func (s *Subscription) Err() error { return s.q.ended() }

// Stats returns a snapshot of the subscription's statistics.
func (s *Subscription) Stats() SubscriptionStats { return s.q.stats() }

// Close ends the subscription; what is still in its queue is discarded. The last
// one of a channel has the server stop sending. It may be called twice.
func (s *Subscription) Close() {
	s.detach()
	s.end(ErrUnsubscribed)
}

// end forgets the subscription before anybody learns of its end, so that who does
// finds it gone from the statistics.
func (s *Subscription) end(err error) {
	s.l.remove(s)
	s.q.end(err)
}

// channel is a channel that somebody subscribes to; under the listener's lock.
type channel struct {
	name string
	subs []*Subscription
	// ready is closed once the server listens.
	ready chan struct{}
}

func (c *channel) isReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

func (c *channel) add(s *Subscription) {
	s.place = len(c.subs)
	c.subs = append(c.subs, s)
}

// remove takes the subscription out, and reports whether it was still there.
func (c *channel) remove(s *Subscription) bool {
	if s.place < 0 {
		return false
	}
	last := len(c.subs) - 1
	c.subs[s.place] = c.subs[last]
	c.subs[s.place].place = s.place
	c.subs[last] = nil
	c.subs = c.subs[:last]
	s.place = -1
	return true
}

// Subscribe subscribes to a channel until the context ends, or Close. When it
// returns, the server listens: whatever is sent from then on arrives, or a Gap
// in its place. Before Start it returns at once.
//
// It waits for the server until the context ends or for SubscribeTimeout. A name
// that no channel can have is [ErrInvalidChannel].
func (l *Listener) Subscribe(ctx context.Context, channel string, options ...Queue) (*Subscription, error) {
	s, err := l.subscribe(ctx, channel, options)
	if err != nil {
		return nil, err
	}
	if err := l.listening(ctx, s); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// subscribe makes a subscription, and has the server listen.
func (l *Listener) subscribe(ctx context.Context, name string, options []Queue) (*Subscription, error) {
	if err := checkChannel(name); err != nil {
		return nil, err
	}
	options = append(options[:len(options):len(options)], Queue{})
	if err := joinFaults(options[0].validate("notify.Queue")); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("pgkeel: subscribe to channel %q: %w", name, context.Cause(ctx))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	c := l.channels[name]
	if c == nil {
		c = &channel{name: name, ready: make(chan struct{})}
		l.channels[name] = c
		l.change(name)
	}
	s := &Subscription{l: l, ch: c, ctx: ctx, q: newQueue(options[0].withDefaults(l.opts.Queue), name, &l.counters)}
	c.add(s)
	l.subscribers++
	s.detach = context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) })
	return s, nil
}

// listening waits until the server listens.
func (l *Listener) listening(ctx context.Context, s *Subscription) error {
	l.mu.Lock()
	running := l.started || l.starting
	l.mu.Unlock()
	if !running || s.ch.isReady() {
		return nil
	}
	var limit <-chan time.Time
	if l.opts.SubscribeTimeout > 0 {
		timer := time.NewTimer(l.opts.SubscribeTimeout)
		defer timer.Stop()
		limit = timer.C
	}
	select {
	case <-s.ch.ready:
		return nil
	case <-s.q.done:
		return fmt.Errorf("pgkeel: subscribe to channel %q: %w", s.q.channel, s.Err())
	case <-ctx.Done():
		return fmt.Errorf("pgkeel: subscribe to channel %q: %w", s.q.channel, context.Cause(ctx))
	case <-limit:
		return fmt.Errorf("pgkeel: subscribe to channel %q: the server did not listen within the subscribe timeout of %s: %w",
			s.q.channel, l.opts.SubscribeTimeout, context.DeadlineExceeded)
	}
}

// remove forgets a subscription that ended.
func (l *Listener) remove(s *Subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !s.ch.remove(s) {
		return
	}
	l.subscribers--
	if len(s.ch.subs) == 0 && l.channels[s.ch.name] == s.ch {
		delete(l.channels, s.ch.name)
		l.change(s.ch.name)
	}
}

// All subscribes to a channel for the time of a loop over its events. Its last
// pair is how the subscription ended, or could not begin.
func (l *Listener) All(ctx context.Context, channel string, options ...Queue) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		s, err := l.Subscribe(ctx, channel, options...)
		if err != nil {
			yield(Event{Channel: channel}, err)
			return
		}
		defer s.Close()
		s.All()(yield)
	}
}
