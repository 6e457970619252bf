package notify

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

func TestSubscribeWaitsAndGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePool{}
		l := startListener(t, p, Options{SubscribeTimeout: 3 * time.Second})
		p.refusing(func(int) error { return errBroken })
		p.last().fail(errBroken)
		synctest.Wait()

		begin := time.Now()
		_, err := l.Subscribe(t.Context(), "a")
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "subscribe timeout of 3s") || time.Since(begin) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("too long"))
		defer cancel()
		if _, err := l.Subscribe(ctx, "a"); err == nil || !strings.Contains(err.Error(), "too long") {
			t.Errorf("the error is %v", err)
		}
		if _, err := l.Subscribe(ctx, "a"); err == nil || !strings.Contains(err.Error(), "too long") {
			t.Errorf("with a context that had ended: %v", err)
		}
		if s := l.Stats(); s.Subscribers != 0 || s.Channels != 0 {
			t.Errorf("left behind: %+v", s)
		}
		failed := make(chan error)
		go func() {
			_, err := l.Subscribe(t.Context(), "a")
			failed <- err
		}()
		synctest.Wait()
		closeListener(t, l)
		if err := <-failed; !errors.Is(err, ErrClosed) {
			t.Errorf("the error is %v", err)
		}
	})
}

// A subscription before Start, or with the limit off, waits for the connection.
func TestSubscribeWithoutALimitWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePool{}
		l := startListener(t, p, Options{SubscribeTimeout: providers.Off})
		defer closeListener(t, l)
		begin := time.Now()
		p.refusing(func(int) error {
			if time.Since(begin) < time.Hour {
				return errBroken
			}
			return nil
		})
		p.last().fail(errBroken)
		synctest.Wait()
		subscribe(t, l, "a")
		if time.Since(begin) < time.Hour {
			t.Error("it did not wait")
		}
	})
}

func TestAContextEndsASubscription(t *testing.T) {
	p := &fakePool{}
	l := startListener(t, p, Options{})
	defer closeListener(t, l)
	errEnough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	s, err := l.Subscribe(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	cancel(errEnough)
	if _, err := s.Next(t.Context()); !errors.Is(err, errEnough) {
		t.Errorf("the error is %v", err)
	}
	eventually(t, "the channel is gone", func() bool { return l.Stats().Channels == 0 })
}

func TestNextHasATimeoutOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePool{}
		l := startListener(t, p, Options{})
		defer closeListener(t, l)
		s := subscribe(t, l, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("the error is %v", err)
		}
		p.last().send("a", "x")
		wantMessage(t, s, "x") // it lives on
	})
}

func TestTheThreeWaysToRead(t *testing.T) {
	p := &fakePool{}
	l := startListener(t, p, Options{})
	results := make(chan string, 3)
	var readers sync.WaitGroup
	collect := func(name string, take func(add func(Event))) {
		readers.Go(func() {
			var got []string
			take(func(e Event) { got = append(got, e.Kind.String()+":"+e.Payload) })
			results <- name + " " + strings.Join(got, ",")
		})
	}
	inChan, inAll := subscribe(t, l, "a"), subscribe(t, l, "a")
	collect("chan", func(add func(Event)) {
		for e := range inChan.Chan() {
			add(e)
			if e.Payload == "2" {
				inChan.Close()
			}
		}
		if !errors.Is(inChan.Err(), ErrUnsubscribed) {
			t.Errorf("the channel ended with %v", inChan.Err())
		}
	})
	collect("all", func(add func(Event)) {
		for e, err := range inAll.All() {
			if err != nil {
				t.Error(err) // closing it oneself is no error
			}
			add(e)
			if e.Payload == "2" {
				inAll.Close()
			}
		}
	})
	handled := make(chan Event, 10)
	_, err := l.Handle(t.Context(), "a", func(ctx context.Context, e Event) {
		if ctx.Err() != nil {
			t.Error("the context has ended")
		}
		handled <- e
	})
	if err != nil {
		t.Fatal(err)
	}
	collect("handler", func(add func(Event)) { add(<-handled); add(<-handled) })
	p.last().send("a", "1")
	p.last().send("a", "2")
	for range 3 {
		if got := <-results; !strings.HasSuffix(got, " message:1,message:2") {
			t.Error(got)
		}
	}
	readers.Wait()
	closeListener(t, l)
	if _, open := <-inChan.Chan(); open { // after the end
		t.Error("an event after the end")
	}
}

func TestAllLeavesNothingBehind(t *testing.T) {
	p := &fakePool{}
	l := startListener(t, p, Options{})
	defer closeListener(t, l)
	for range 2 {
		go func() {
			eventually(t, "subscribed", func() bool { return l.Stats().Subscribers == 1 })
			eventually(t, "sent", func() bool { p.last().send("a", "x"); return l.Stats().Received > 0 })
		}()
		for e, err := range l.All(t.Context(), "a") {
			if err != nil || e.Payload != "x" {
				t.Error(e, err)
			}
			break
		}
		if s := l.Stats(); s.Subscribers != 0 {
			t.Errorf("%d subscribers", s.Subscribers)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := l.Subscribe(ctx, "b")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for _, err := range s.All() {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the reason is %v", err)
		}
	}
	for _, err := range l.All(t.Context(), "") {
		if !errors.Is(err, ErrInvalidChannel) {
			t.Errorf("the reason is %v", err)
		}
	}
}
