package tenancy

import (
	"context"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/notify"
	"github.com/pgkeel/pgkeel/providers"
)

// hears fails unless the next event, gaps aside, is the payload.
func hears(t *testing.T, s *notify.Subscription, payload string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	for {
		e, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("%q never came: %v", payload, err)
		}
		if e.Kind == notify.Gap {
			continue
		}
		if e.Payload != payload {
			t.Errorf("heard %q, not %q", e.Payload, payload)
		}
		return
	}
}

// A listener hears its own tenant's database, also after it lost the connection,
// and when the tenant moves.
func TestNotifyOfTenants(t *testing.T) {
	dsns := newTenantDBs(t, 3)
	d := newTowns(map[string]string{"a": dsns[0], "b": dsns[1]})
	r := openRouter(t, d, sized(2), MaxConnections(3), DirectoryTTL(50*time.Millisecond))
	subscriptions := map[string]*notify.Subscription{}
	listeners := map[string]*notify.Listener{}
	for _, tenant := range []string{"a", "b"} {
		l, err := notify.New(r, notify.Options{HeartbeatInterval: 20 * time.Millisecond, RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		starting, started := context.WithCancel(as(t.Context(), tenant))
		if err := l.Start(starting); err != nil {
			t.Fatal(err)
		}
		started()
		t.Cleanup(func() { _ = l.Close(context.Background()) })
		if subscriptions[tenant], err = l.Subscribe(t.Context(), "news"); err != nil {
			t.Fatal(err)
		}
		listeners[tenant] = l
	}
	tell := func(tenant, payload string) {
		t.Helper()
		if err := notify.Notify(as(t.Context(), tenant), r, "news", payload); err != nil {
			t.Fatal(err)
		}
	}
	both := func(when string) {
		t.Helper()
		for _, tenant := range []string{"a", "b"} {
			tell(tenant, when+" "+tenant)
		}
		for _, tenant := range []string{"a", "b"} {
			hears(t, subscriptions[tenant], when+" "+tenant)
		}
	}
	both("first")
	connectsOf := func(tenant string) int64 { return listeners[tenant].Stats().Connects }
	if _, err := r.Exec(as(t.Context(), "a"), "select pg_terminate_backend($1)", listeners["a"].Stats().PID); err != nil {
		t.Fatal(err)
	}
	atLast(t, "a listens again", func() bool { return connectsOf("a") > 1 })
	both("lost")
	before := connectsOf("b")
	d.set("b", dsns[2])
	atLast(t, "b listens where it moved to", func() bool { return connectsOf("b") > before })
	both("moved")
	if n, err := homeOf(as(t.Context(), "b"), r); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if s := r.DatabaseStats(); s.Permits > 3 {
		t.Errorf("%+v", s)
	}
}

// The limit is the server's truth as well.
func TestListenersAreSessionsWithinTheLimit(t *testing.T) {
	const limit = 4
	dsns := newTenantDBs(t, 6)
	d := newTowns(map[string]string{"t0": dsns[0], "t1": dsns[1], "t2": dsns[2], "t3": dsns[3], "t4": dsns[4], "t5": dsns[5]})
	r := openRouter(t, d, sized(2), MaxConnections(limit))
	stop := watchSessions(t)
	for _, tenant := range []string{"t0", "t1", "t2"} {
		c, err := r.Listen(as(t.Context(), tenant), providers.ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
	}
	for range 3 {
		for tenant := range d.dsns {
			if _, err := homeOf(as(t.Context(), tenant), r); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, lasting := stop(); lasting > limit {
		t.Errorf("%d sessions", lasting)
	}
}
