package notify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

func TestOneConnectionForManyChannelsAndSubscribers(t *testing.T) {
	p := &fakePool{}
	l := startListener(t, p, Options{DSN: "the server's"})
	defer closeListener(t, l)
	a1, a2, b := subscribe(t, l, "a"), subscribe(t, l, "a"), subscribe(t, l, "b")
	c := p.last()
	c.send("a", "1")
	c.send("b", "2")
	c.send("c", "nobody")
	c.send("a", "3")
	for _, s := range []*Subscription{a1, a2} {
		wantMessage(t, s, "1")
		wantMessage(t, s, "3")
	}
	e := next(t, b)
	if e.Kind != Message || e.Channel != "b" || e.Payload != "2" || e.PID != 7 || e.Received.IsZero() || b.Channel() != "b" {
		t.Errorf("got %+v", e)
	}
	s := l.Stats()
	if !s.Connected || s.PID != 1 || s.Channels != 2 || s.Subscribers != 3 || s.Received != 3 || s.Queued != 5 || s.Connects != 1 || s.LastHeard.IsZero() {
		t.Errorf("statistics: %+v", s)
	}
	if p.attempts != 1 || p.opts.DSN != "the server's" {
		t.Errorf("%d connections, %+v", p.attempts, p.opts)
	}
	if got, want := a1.Stats(), (SubscriptionStats{Queued: 2, Taken: 2}); got != want {
		t.Errorf("statistics: %+v", got)
	}
}

// The server is told only when the first subscriber of a channel comes and when
// the last one goes.
func TestTheServerIsToldOfChannelsThatComeAndGo(t *testing.T) {
	p := &fakePool{}
	l := newListener(t, p, Options{})
	early := subscribe(t, l, "early") // before the start: nothing to wait for
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer closeListener(t, l)
	a1, a2 := subscribe(t, l, "a"), subscribe(t, l, "a")
	a1.Close()
	a1.Close()
	c := p.last()
	c.send("a", "still")
	wantMessage(t, a2, "still")
	a2.Close()
	subscribe(t, l, "a").Close()
	eventually(t, "unlistened", func() bool {
		log := c.statements()
		return log[len(log)-1] == `unlisten "a"`
	})
	log := c.statements()
	if !slices.Equal(log[:2], []string{`listen "early"`, `listen "a"`}) {
		t.Errorf("the server was told %q", log)
	}
	c.send("early", "x")
	wantMessage(t, early, "x")
	if _, err := a1.Next(t.Context()); !errors.Is(err, ErrUnsubscribed) || !errors.Is(a1.Err(), ErrUnsubscribed) {
		t.Errorf("the error is %v, %v", err, a1.Err())
	}
	if s := l.Stats(); s.Subscribers != 1 || s.Channels != 1 {
		t.Errorf("statistics: %+v", s)
	}
}

// Whoever was told that the server listens is told of the gap, after the server
// listens again.
func TestTrap43ListenFirstThenTheGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePool{}
		l := startListener(t, p, Options{})
		defer closeListener(t, l)
		subs := []*Subscription{subscribe(t, l, "a"), subscribe(t, l, "a"), subscribe(t, l, "b")}
		first := p.last()
		first.send("a", "before")
		synctest.Wait()
		lost := time.Now()
		<-time.After(3 * time.Second)
		p.refusing(func(attempt int) error {
			if attempt < 4 {
				return &providers.UnreachableError{Err: errBroken}
			}
			return nil
		})
		var reconnected atomic.Bool
		believers := slices.Clone(subs)
		p.answering(func(string) error {
			reconnected.Store(true)
			for _, s := range believers {
				s.q.mu.Lock()
				if s.q.tail != (marks{}) {
					t.Error("a gap was told before the server listened")
				}
				s.q.mu.Unlock()
			}
			return nil
		})
		first.fail(errBroken)
		synctest.Wait()
		if s := l.Stats(); s.Connected || s.PID != 0 {
			t.Errorf("statistics: %+v", s)
		}
		late := make(chan *Subscription)
		go func() { late <- subscribe(t, l, "late") }() // waits for the connection
		// One more joins a channel that the server is believed to listen to.
		subs = append(subs, subscribe(t, l, "b"))
		joined := <-late
		second := p.last()
		if !reconnected.Load() || second == first || first.closes() != 1 {
			t.Error("no second connection, or the first was not closed")
		}
		second.send("a", "after")
		second.send("b", "after")
		second.send("late", "after")
		for i, s := range subs {
			if i < 2 {
				wantMessage(t, s, "before")
			}
			e := next(t, s)
			if e.Kind != Gap || e.Channel != s.Channel() || !e.Since.Equal(lost) || !errors.Is(e.Err, errBroken) {
				t.Errorf("instead of a gap since %s: %+v", lost, e)
			}
			wantMessage(t, s, "after")
		}
		wantMessage(t, joined, "after") // it missed nothing
		if s := l.Stats(); s.Gaps != 1 || s.Connects != 2 || s.ConnectErrors != 2 || !s.Connected {
			t.Errorf("statistics: %+v", s)
		}
	})
}

func TestThePauseBetweenAttemptsGrowsToItsCapAndIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePool{}
		var log logBuffer
		l := startListener(t, p, Options{
			RetryMin: 100 * time.Millisecond, RetryMax: time.Second, HeartbeatInterval: providers.Off,
			Logger: log.logger(),
		})
		defer closeListener(t, l)
		p.refusing(func(attempt int) error {
			if attempt < 21 {
				return errBroken
			}
			return nil
		})
		failed := time.Now()
		p.last().fail(errBroken)
		subscribe(t, l, "a") // until it is back
		dials := append([]time.Time{failed}, p.dialed()[1:]...)
		longest := 100 * time.Millisecond
		different := map[time.Duration]bool{}
		for i := 1; i < len(dials); i++ {
			pause := dials[i].Sub(dials[i-1])
			if pause < longest/2-time.Millisecond || pause > longest {
				t.Errorf("pause %d is %s, of at most %s", i, pause, longest)
			}
			if longest = min(2*longest, time.Second); i > 5 {
				different[pause] = true
			}
		}
		if len(dials) != 21 || len(different) < 5 {
			t.Errorf("%d attempts, with %d different pauses", len(dials), len(different))
		}
		if n := strings.Count(log.String(), "goes on trying"); n != 5 { // 1, 2, 4, 8, 16
			t.Errorf("%d lines in the log", n)
		}
		// One that is lost at once does not start over, one that lived does.
		for _, lives := range []struct{ d, most time.Duration }{{0, time.Second}, {2 * time.Second, 100 * time.Millisecond}} {
			<-time.After(lives.d)
			c := p.last()
			failed = time.Now()
			c.fail(errBroken)
			subscribe(t, l, fmt.Sprint("b", lives.d))
			dials := p.dialed()
			if pause := dials[len(dials)-1].Sub(failed); pause > lives.most || pause < lives.most/2-time.Millisecond {
				t.Errorf("after %s the pause is %s", lives.d, pause)
			}
		}
	})
}

func TestBackoffDoesNotOverflow(t *testing.T) {
	b := newBackoff(math.MaxInt64/3, math.MaxInt64)
	for range 5 {
		if d := b.pause(); d <= 0 {
			t.Errorf("a pause of %s", d)
		}
	}
}

func TestAConnectionThatLivedStartsOver(t *testing.T) {
	b := newBackoff(100, 1000)
	b.pause()
	last := b.pause()
	if b.lived(last - 1); b.next != 400 {
		t.Errorf("one that lived less than its pause: the next is %d", b.next)
	}
	if b.lived(last); b.next != 100 {
		t.Errorf("one that lived as long as its pause: the next is %d", b.next)
	}
}

// A dead peer looks idle.
func TestTrap43AHeartbeatFindsADeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePool{}
		l := startListener(t, p, Options{HeartbeatInterval: 10 * time.Second, AnswerTimeout: 2 * time.Second, RetryMin: 1, RetryMax: 1})
		defer closeListener(t, l)
		s := subscribe(t, l, "a")
		c := p.last()
		begin := time.Now()
		// Traffic is a sign of life: no heartbeat while there is some.
		for range 6 {
			<-time.After(5 * time.Second)
			c.send("a", "x")
			wantMessage(t, s, "x")
		}
		<-time.After(9 * time.Second)
		if c.pinged() != 0 {
			t.Errorf("pings at %v", c.pinged())
		}
		<-time.After(25 * time.Second) // 34 s after the last message
		if got := c.pinged(); got != 3 || l.Stats().Heartbeats != 3 {
			t.Errorf("%d heartbeats in 34 s of silence", got)
		}
		c.hole()
		silent := time.Now()
		e := next(t, s)
		took := time.Since(silent)
		if e.Kind != Gap || !errors.Is(e.Err, context.DeadlineExceeded) || !strings.Contains(e.Err.Error(), "heartbeat") || took > 12*time.Second {
			t.Errorf("after %s: %+v", took, e)
		}
		if e.Since.Before(begin.Add(50 * time.Second)) {
			t.Errorf("the gap begins at %s", e.Since.Sub(begin))
		}
	})
}

func TestHeartbeatsCanBeOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePool{}
		l := startListener(t, p, Options{HeartbeatInterval: providers.Off})
		defer closeListener(t, l)
		subscribe(t, l, "a")
		<-time.After(time.Hour)
		if c := p.last(); c.pinged() != 0 {
			t.Errorf("%d heartbeats", c.pinged())
		}
	})
}

// A server that swallows a LISTEN is as dead as one that swallows a heartbeat.
func TestAListenThatIsNotAnsweredEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePool{}
		l := startListener(t, p, Options{AnswerTimeout: time.Second})
		defer closeListener(t, l)
		p.last().hole()
		begin := time.Now()
		subscribe(t, l, "a")
		if took := time.Since(begin); took < time.Second || took > 2*time.Second || p.made() != 2 {
			t.Errorf("after %s there were %d connections", took, p.made())
		}
	})
}

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

// A name that the server does not take, such as one with a letter that the
// database's encoding does not have, fails alone.
func TestARefusedChannelFailsAlone(t *testing.T) {
	refusal := &providers.PGError{Code: "22P05", Severity: "ERROR", Message: "no equivalent in encoding"}
	p := &fakePool{onExec: func(sql string) error {
		if strings.Contains(sql, "bad") {
			return refusal
		}
		return nil
	}}
	l := newListener(t, p, Options{})
	good, bad := subscribe(t, l, "good"), subscribe(t, l, "bad")
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer closeListener(t, l)
	p.last().send("good", "x")
	wantMessage(t, good, "x")
	if _, err := bad.Next(t.Context()); !errors.Is(err, refusal) {
		t.Errorf("the error is %v", err)
	}
	if _, err := l.Subscribe(t.Context(), "bad"); !errors.Is(err, refusal) {
		t.Errorf("the error is %v", err)
	}
	if s := l.Stats(); !s.Connected || s.Channels != 1 || s.Connects != 1 {
		t.Errorf("statistics: %+v", s)
	}
	// What says that the connection is of no use is no refusal.
	p.answering(func(string) error { return &providers.PGError{Code: "25006", Severity: "ERROR"} })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error)
	go func() {
		_, err := l.Subscribe(ctx, "other")
		failed <- err
	}()
	eventually(t, "it connects again", func() bool { return l.Stats().ConnectErrors > 1 })
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	// Connecting again, one of the many that cannot be told apart is broken.
	p.answering(func(sql string) error {
		if strings.Contains(sql, ";listen") {
			return refusal
		}
		return errBroken
	})
	_ = subscribeLater(l, "x")
	eventually(t, "it still tries", func() bool { return l.Stats().ConnectErrors > 3 })
}

func subscribeLater(l *Listener, channel string) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := l.Subscribe(ctx, channel)
	return err
}

func TestManyChannelsAreToldInFewStatements(t *testing.T) {
	p := &fakePool{}
	statements := 0
	p.answering(func(string) error { statements++; return nil })
	l := newListener(t, p, Options{})
	for i := range 1200 {
		subscribe(t, l, fmt.Sprint("channel ", i))
	}
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer closeListener(t, l)
	if c := p.last(); statements != 3 || len(c.statements()) != 1200 {
		t.Errorf("%d channels in %d statements", len(c.statements()), statements)
	}
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

func TestNewRefusesWhatCannotWork(t *testing.T) {
	var none *fakePool
	for _, pool := range []providers.Listener{nil, none} {
		if _, err := New(pool, Options{}); err == nil {
			t.Error("a listener without a pool")
		}
	}
	for name, tc := range map[string]struct {
		options Options
		fields  []string
	}{
		"zero": {Options{}, nil},
		"off":  {Options{HeartbeatInterval: providers.Off, SubscribeTimeout: providers.Off}, nil},
		"all": {Options{
			HeartbeatInterval: 1, AnswerTimeout: 1, ConnectTimeout: 1, SubscribeTimeout: 1, RetryMin: 1, RetryMax: 1,
			Queue: Queue{Size: 1, Overflow: Block, BlockFor: 1}, Logger: quiet(),
		}, nil},
		"negative": {
			Options{HeartbeatInterval: -2, AnswerTimeout: -1, ConnectTimeout: -1, SubscribeTimeout: -2, RetryMin: -1, RetryMax: -1},
			[]string{"HeartbeatInterval", "AnswerTimeout", "ConnectTimeout", "SubscribeTimeout", "RetryMin", "RetryMax"},
		},
		"pauses that shrink":         {Options{RetryMin: time.Minute}, []string{"RetryMin"}},
		"queue":                      {Options{Queue: Queue{Size: -1, Overflow: 9, BlockFor: -1}}, []string{"Queue.Size", "Queue.Overflow", "Queue.BlockFor", "Queue.BlockFor"}},
		"a limit that has no effect": {Options{Queue: Queue{Overflow: DropNewest, BlockFor: 1}}, []string{"Queue.BlockFor"}},
		"a limit without any policy": {Options{Queue: Queue{BlockFor: 1}}, []string{"Queue.BlockFor"}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := New(&fakePool{}, tc.options)
			if (err == nil) != (tc.fields == nil) || (l == nil) != (err != nil) {
				t.Fatalf("the error is %v", err)
			}
			var got []string
			if joined, ok := err.(interface{ Unwrap() []error }); ok {
				for _, e := range joined.Unwrap() {
					var fault *providers.ConfigError
					if !errors.As(e, &fault) || strings.Contains(fault.Problem, "%!") {
						t.Errorf("%v", e)
					}
					got = append(got, strings.TrimPrefix(fault.Field, "notify.Options."))
				}
			}
			if !slices.Equal(got, tc.fields) {
				t.Errorf("faults in %q, want %q", got, tc.fields)
			}
			for _, field := range got {
				field, _, _ = strings.Cut(field, ".")
				if _, ok := reflect.TypeFor[Options]().FieldByName(field); !ok {
					t.Errorf("there is no field %s", field)
				}
			}
		})
	}
	l := newListener(t, &fakePool{}, Options{})
	if _, err := l.Subscribe(t.Context(), "a", Queue{Size: -1}); err == nil {
		t.Error("a queue of less than nothing")
	}
	closeListener(t, l)
}
