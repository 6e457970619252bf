package notify

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
	"github.com/pgkeel/pgkeel/providers"
)

func TestNotifyIsDeliveredOnCommitOnly(t *testing.T) {
	p := openPool(t, providers.Config{})
	l := listenOn(t, p, Options{})
	s := subscribe(t, l, "a")

	mustNotify(t, p, "a", "from the pool")
	wantMessage(t, s, "from the pool")

	c, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mustNotify(t, c, "a", "from a connection")
	c.Release()
	wantMessage(t, s, "from a connection")

	undone := begin(t, p)
	mustNotify(t, undone, "a", "never")
	if err := undone.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	tx := begin(t, p)
	mustNotify(t, tx, "a", "later")
	nested, err := tx.Savepoint(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	mustNotify(t, nested, "a", "never")
	if err := nested.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustNotify(t, p, "a", "meanwhile")
	wantMessage(t, s, "meanwhile")
	commit(t, tx)
	wantMessage(t, s, "later")
	if err := NotifyJSON(t.Context(), p, "a", []int{1}); err != nil {
		t.Fatal(err)
	}
	wantMessage(t, s, "[1]")
}

func TestTrap44EveryNameReachesItsChannel(t *testing.T) {
	p := openPool(t, providers.Config{})
	l := listenOn(t, p, Options{})
	for _, name := range []string{
		"a", "A", "Or\"ders", `"`, "with space", "semi;colon", "select", "$1", "日本", "'", "--", `\`, "a.b", "*",
		strings.Repeat("x", 63), strings.Repeat("é", 31), "line\nbreak",
	} {
		s := subscribe(t, l, name)
		mustNotify(t, p, name, name)
		wantMessage(t, s, name)
		s.Close()
	}
	// What is as long as it may be arrives whole.
	s := subscribe(t, l, "a")
	for _, payload := range []string{"", strings.Repeat("é", MaxPayloadBytes/2), strings.Repeat("x", MaxPayloadBytes)} {
		mustNotify(t, p, "a", payload)
		wantMessage(t, s, payload)
	}
	// One more is the server's limit, too.
	if _, err := p.Exec(t.Context(), `select pg_notify('a', repeat('x', 8000))`); err == nil {
		t.Error("the server takes more than we allow")
	}
}

// A name with a letter that the database's encoding does not have.
func TestAChannelThatTheDatabaseCannotName(t *testing.T) {
	admin := openPool(t, providers.Config{})
	const name = "latin_for_notify"
	mustExec(t, admin, `create database `+name+` encoding 'LATIN1' locale 'C' template template0`)
	u, err := url.Parse(admin.Unwrap().Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	u.RawQuery += "&client_encoding=utf8"
	p := openPool(t, providers.Config{DSN: u.String()})
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), `drop database `+name+` with (force)`); err != nil {
			t.Error(err)
		}
	})
	l := listenOn(t, p, Options{})
	good := subscribe(t, l, "é")
	_, err = l.Subscribe(t.Context(), "日本")
	var pg *providers.PGError
	if !errors.As(err, &pg) || pg.Code != "22P05" {
		t.Errorf("the error is %v", err)
	}
	mustNotify(t, p, "é", "x")
	wantMessage(t, good, "x")
	if s := l.Stats(); s.Connects != 1 {
		t.Errorf("statistics: %+v", s)
	}
}

// kill ends the listener's connection on the server.
func kill(t testing.TB, p providers.Querier, l *Listener) {
	t.Helper()
	eventually(t, "it is connected", func() bool { return l.Stats().Connected })
	if _, err := p.Exec(t.Context(), `select pg_terminate_backend($1)`, l.Stats().PID); err != nil {
		t.Error(err)
	}
}

// Whatever is missing is missing at a gap: across kills, a subscriber sees
// everything in order, once, or a gap in its place.
func TestTrap43WhatIsMissingIsMissingAtAGap(t *testing.T) {
	p := openPool(t, providers.Config{})
	l := listenOn(t, p, Options{RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond})
	s := subscribe(t, l, "a", Queue{Size: 100_000})
	ctx, stop := context.WithCancel(t.Context())
	var sender sync.WaitGroup
	sent := 0
	sender.Go(func() {
		for ; ctx.Err() == nil; sent++ {
			if err := Notify(t.Context(), p, "a", strconv.Itoa(sent)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	const kills = 20
	for range kills {
		before := l.Stats()
		kill(t, p, l)
		eventually(t, "it is back, and hears", func() bool {
			now := l.Stats()
			return now.Gaps > before.Gaps && now.Received > before.Received
		})
	}
	stop()
	sender.Wait()
	mustNotify(t, p, "a", "end")
	expected, gaps, missing := 0, 0, 0
	afterGap := false
	for {
		e := next(t, s)
		if e.Kind == Gap {
			gaps, afterGap = gaps+1, true
			continue
		}
		if e.Payload == "end" {
			break
		}
		n, err := strconv.Atoi(e.Payload)
		if err != nil || e.Kind != Message || n < expected || n > expected && !afterGap {
			t.Fatalf("after %d came %+v", expected-1, e)
		}
		missing += n - expected
		expected, afterGap = n+1, false
	}
	if gaps == 0 || gaps > kills || expected != sent && !afterGap {
		t.Errorf("%d gaps, %d of %d", gaps, expected, sent)
	}
	t.Logf("%d sent, %d missing at %d gaps", sent, missing, gaps)
}

// A network that swallows everything: no error, no end, nothing.
func TestTrap43ABlackHoleIsFound(t *testing.T) {
	dsn := pgtest.NewDB(t)
	direct := openPool(t, providers.Config{DSN: dsn})
	network := fault.New(t, dsn, fault.On(fault.Backend('A').Matching("swallowed"), fault.BlackHole))
	p := openPool(t, providers.Config{DSN: network.DSN()})
	l := listenOn(t, p, Options{
		HeartbeatInterval: 100 * time.Millisecond, AnswerTimeout: 3 * time.Second, RetryMin: time.Millisecond,
	})
	s := subscribe(t, l, "a")
	mustNotify(t, direct, "a", "before")
	wantMessage(t, s, "before")
	mustNotify(t, direct, "a", "swallowed")
	begin := time.Now()
	e := next(t, s)
	if e.Kind != Gap || !errors.Is(e.Err, context.DeadlineExceeded) {
		t.Errorf("got %+v", e)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	mustNotify(t, direct, "a", "after")
	wantMessage(t, s, "after")
}

// twoHosts is the DSN of whichever of the nodes is the primary.
func twoHosts(t testing.TB, a, b *pgtest.Node) string {
	t.Helper()
	u, err := url.Parse(a.DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	u.Host = fmt.Sprintf("127.0.0.1:%d,127.0.0.1:%d", a.Port(), b.Port())
	u.RawQuery += "&target_session_attrs=read-write"
	return u.String()
}

// The primary dies and a standby takes over: the listener finds it.
func TestTrap43FailoverToTheNewPrimary(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Standbys: 1})
	p := openPool(t, providers.Config{DSN: twoHosts(t, c.Primary(), c.Standbys()[0])})
	l := listenOn(t, p, Options{RetryMin: time.Millisecond, RetryMax: 50 * time.Millisecond})
	s := subscribe(t, l, "a")
	var outbox Outbox
	if err := outbox.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	f := follow(t, outbox, p, l, "durable", Position{})
	mustNotify(t, p, "a", "before")
	wantMessage(t, s, "before")
	publish(t, outbox, p, "durable", "before")
	f.want(t, "before")
	if err := c.WaitCaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	standby := c.Standbys()[0]
	if err := c.Primary().Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the listener tries to connect", func() bool { return l.Stats().ConnectErrors > 0 })
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	promoted := time.Now()
	if e := next(t, s); e.Kind != Gap {
		t.Errorf("got %+v", e)
	}
	t.Logf("listening %s after the promotion", time.Since(promoted))
	mustNotifyNew(t, p, "a", "after")
	wantMessage(t, s, "after")
	publish(t, outbox, p, "durable", "after")
	f.want(t, "after")
}

// mustNotifyNew notifies through a pool whose connections may be of the old
// primary.
func mustNotifyNew(t testing.TB, p providers.Querier, channel, payload string) {
	t.Helper()
	eventually(t, "notified", func() bool { return Notify(t.Context(), p, channel, payload) == nil })
}

func TestTheEndOfThePoolIsTheListenersEnd(t *testing.T) {
	p := openPool(t, providers.Config{})
	l := listenOn(t, p, Options{RetryMin: 1, RetryMax: 1})
	s := subscribe(t, l, "a")
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := s.Next(ctx); !errors.Is(err, ErrClosed) || !errors.Is(err, providers.ErrPoolClosed) {
		t.Errorf("the error is %v", err)
	}
}

func TestTenThousandSubscribers(t *testing.T) {
	p := openPool(t, providers.Config{})
	l := listenOn(t, p, Options{})
	subs := make([]*Subscription, 10_000)
	for i := range subs {
		subs[i] = subscribe(t, l, fmt.Sprint("c", i%100))
	}
	for i := range 100 {
		mustNotify(t, p, fmt.Sprint("c", i), "x")
	}
	for _, s := range subs {
		wantMessage(t, s, "x")
	}
	for _, s := range subs {
		s.Close()
	}
	eventually(t, "the server listens to nothing", func() bool { return l.Stats().Channels == 0 })
}
