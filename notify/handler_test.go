package notify

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A handler that ends its goroutine, as FailNow of a test does, ends its
// subscription: nobody would read it any more.
func TestAHandlerThatEndsItsGoroutine(t *testing.T) {
	p := &fakePool{}
	l := startListener(t, p, Options{})
	s, err := l.Handle(t.Context(), "a", func(context.Context, Event) { runtime.Goexit() })
	if err != nil {
		t.Fatal(err)
	}
	p.last().send("a", "x")
	<-s.q.done
	if !errors.Is(s.Err(), ErrUnsubscribed) || l.Stats().Subscribers != 0 {
		t.Errorf("%v, %+v", s.Err(), l.Stats())
	}
	closeListener(t, l)
}

func TestAPanicInAHandlerHarmsNobody(t *testing.T) {
	p := &fakePool{}
	var log logBuffer
	l := startListener(t, p, Options{Logger: log.logger()})
	handled := make(chan string)
	_, err := l.Handle(t.Context(), "a", func(_ context.Context, e Event) {
		if e.Payload == "secret" {
			panic("secret")
		}
		handled <- e.Payload
	})
	if err != nil {
		t.Fatal(err)
	}
	p.last().send("a", "secret")
	p.last().send("a", "next")
	if got := <-handled; got != "next" {
		t.Error(got)
	}
	closeListener(t, l)
	if l.Stats().HandlerPanics != 1 || !strings.Contains(log.String(), "panicked") || strings.Contains(log.String(), "secret") {
		t.Errorf("%d panics; %s", l.Stats().HandlerPanics, &log)
	}
	for _, fn := range []func(context.Context, Event){nil, func(context.Context, Event) {}} {
		if _, err := l.Handle(t.Context(), "a", fn); err == nil {
			t.Error("no error")
		}
	}
}

func TestCloseWaitsForHandlersAndThenTellsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePool{}
		l := startListener(t, p, Options{})
		var asked error
		_, err := l.Handle(t.Context(), "a", func(ctx context.Context, _ Event) {
			<-ctx.Done()
			asked = context.Cause(ctx)
		})
		if err != nil {
			t.Fatal(err)
		}
		p.last().send("a", "x")
		synctest.Wait()
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := l.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		if err := l.Close(t.Context()); err != nil || !errors.Is(asked, ErrClosed) {
			t.Errorf("%v; the handler's context ended with %v", err, asked)
		}
	})
}
