package notify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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
