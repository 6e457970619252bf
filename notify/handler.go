package notify

import (
	"context"
	"fmt"
)

// Handle subscribes to a channel and calls fn for each event, one after another,
// on a goroutine of its own. However long fn takes, it holds up nobody but
// itself. A panic in fn is logged and counted, and the next event is handled;
// runtime.Goexit in fn ends the subscription.
//
// The context of fn is that of the subscription. Close of the listener waits for
// fn, and ends its context when its own ends. Do not wait for that Close in fn.
func (l *Listener) Handle(ctx context.Context, channel string, fn func(ctx context.Context, e Event), options ...Queue) (*Subscription, error) {
	if fn == nil {
		return nil, refusal("Handle: the function is nil")
	}
	s, err := l.Subscribe(ctx, channel, options...)
	if err != nil {
		return nil, err
	}
	l.spawn(func() { s.handle(fn) }, func() {})
	return s, nil
}

func (s *Subscription) handle(fn func(ctx context.Context, e Event)) {
	defer s.Close() // whichever way it ends, nobody would read what comes
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.l.patience, func() { cancel(ErrClosed) })()
	for {
		e, err := s.Next(context.Background())
		if err != nil {
			return
		}
		s.guard(func() { fn(ctx, e) })
	}
}

// guard runs code of the application.
func (s *Subscription) guard(call func()) {
	defer func() {
		if r := recover(); r != nil {
			s.l.counters.panics.Add(1)
			// The panic's value can hold anything, so only its type is told.
			s.l.opts.Logger.Error("pgkeel: a notification's handler panicked",
				"channel", s.q.channel, "panic_type", fmt.Sprintf("%T", r))
		}
	}()
	call()
}
