package notify

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

func TestClose(t *testing.T) {
	t.Run("before the start, and twice", func(t *testing.T) {
		p := &fakePool{}
		l := newListener(t, p, Options{})
		s := subscribe(t, l, "a")
		closeListener(t, l)
		closeListener(t, l)
		if err := l.Start(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("the error is %v", err)
		}
		if _, err := s.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("the error is %v", err)
		}
		if _, err := l.Subscribe(t.Context(), "a"); !errors.Is(err, ErrClosed) {
			t.Errorf("the error is %v", err)
		}
		if p.attempts != 0 {
			t.Error("it connected")
		}
	})
	t.Run("during the start", func(t *testing.T) {
		started := make(chan struct{})
		p := &fakePool{}
		l := newListener(t, p, Options{})
		entered := sync.OnceFunc(func() { close(started) })
		p.answering(func(string) error { entered(); <-l.life.Done(); return nil })
		subscribe(t, l, "a")
		failed := make(chan error)
		go func() { failed <- l.Start(t.Context()) }()
		<-started
		if err := l.Start(t.Context()); !errors.Is(err, ErrStarted) {
			t.Errorf("the error is %v", err)
		}
		closeListener(t, l)
		if err := <-failed; !errors.Is(err, ErrClosed) || p.last().closes() != 1 {
			t.Errorf("the error is %v, and the connection was closed %d times", err, p.last().closes())
		}
	})
	t.Run("while it is connecting again", func(t *testing.T) {
		p := &fakePool{}
		l := startListener(t, p, Options{RetryMin: time.Hour, RetryMax: time.Hour})
		p.last().fail(errBroken)
		eventually(t, "it is lost", func() bool { return !l.Stats().Connected })
		closeListener(t, l)
	})
	t.Run("in the middle of an attempt", func(t *testing.T) {
		p := &fakePool{}
		l := startListener(t, p, Options{RetryMin: 1, RetryMax: 1})
		trying := make(chan struct{})
		p.refusing(func(attempt int) error {
			if attempt == 2 {
				close(trying)
				<-l.life.Done()
			}
			return errBroken
		})
		p.last().fail(errBroken)
		<-trying
		closeListener(t, l)
	})
	t.Run("by the pool, while it is connected", func(t *testing.T) {
		p := &fakePool{}
		l := startListener(t, p, Options{})
		s := subscribe(t, l, "a")
		p.last().fail(providers.ErrPoolClosed)
		if _, err := s.Next(t.Context()); !errors.Is(err, ErrClosed) || !errors.Is(err, providers.ErrPoolClosed) {
			t.Errorf("the error is %v", err)
		}
		closeListener(t, l)
	})
	t.Run("by the pool", func(t *testing.T) {
		p := &fakePool{}
		l := startListener(t, p, Options{RetryMin: 1, RetryMax: 1})
		s := subscribe(t, l, "a")
		p.refusing(func(int) error { return providers.ErrPoolClosed })
		p.last().fail(errBroken)
		if _, err := s.Next(t.Context()); !errors.Is(err, ErrClosed) || !errors.Is(err, providers.ErrPoolClosed) {
			t.Errorf("the error is %v", err)
		}
		closeListener(t, l)
	})
}

func TestAStartThatFailsCanBeRepeated(t *testing.T) {
	p := &fakePool{refuse: func(int) error { return &providers.UnreachableError{Err: errBroken} }}
	l := newListener(t, p, Options{})
	s := subscribe(t, l, "a")
	if err := l.Start(t.Context()); !errors.Is(err, providers.ErrUnreachable) {
		t.Errorf("the error is %v", err)
	}
	p.refusing(nil)
	p.answering(func(string) error { return errBroken })
	if err := l.Start(t.Context()); !errors.Is(err, errBroken) || p.last().closes() != 1 {
		t.Errorf("the error is %v", err)
	}
	p.answering(nil)
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer closeListener(t, l)
	if err := l.Start(t.Context()); !errors.Is(err, ErrStarted) {
		t.Errorf("the error is %v", err)
	}
	p.last().send("a", "x")
	wantMessage(t, s, "x")
}

// Coming, going, sending and losing the connection all at once: whoever
// subscribed gets what is sent afterwards, or a gap.
func TestEverythingAtOnce(t *testing.T) {
	p := &fakePool{}
	l := startListener(t, p, Options{RetryMin: 1, RetryMax: 1000})
	stop := make(chan struct{})
	var background sync.WaitGroup
	background.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
				p.last().fail(errBroken)
			}
		}
	})
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			for n := range 60 {
				s, err := l.Subscribe(t.Context(), fmt.Sprint("c", (i+n)%5))
				if err != nil {
					t.Error(err)
					return
				}
				p.last().send(s.Channel(), "x")
				next(t, s)
				s.Close()
			}
		})
	}
	callers.Wait()
	close(stop)
	background.Wait()
	closeListener(t, l)
	if s := l.Stats(); s.Channels != 0 || s.Subscribers != 0 {
		t.Errorf("left behind: %+v", s)
	}
}
