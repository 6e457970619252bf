package pgx

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// nowhere is a DSN that nobody can connect with.
func nowhere(t testing.TB, dsn string) string {
	t.Helper()
	u, err := url.Parse(withAddress(t, dsn, closedPort(t)))
	if err != nil {
		t.Fatal(err)
	}
	u.User, u.Path = url.UserPassword("nobody", "wrong"), "/nothing"
	return u.String()
}

// gatedRoute is a Route that waits until it is opened.
type gatedRoute struct {
	dsn    string
	open   chan struct{}
	asked  atomic.Int32
	gaveUp atomic.Int32
	// limited says that the wait had a limit of its own.
	limited atomic.Bool
}

func newGatedRoute(dsn string) *gatedRoute { return &gatedRoute{dsn: dsn, open: make(chan struct{})} }

func (g *gatedRoute) route(ctx context.Context) (string, error) {
	g.asked.Add(1)
	if _, ok := ctx.Deadline(); ok {
		g.limited.Store(true)
	}
	select {
	case <-g.open:
		return g.dsn, nil
	case <-ctx.Done():
		g.gaveUp.Add(1)
		return "", context.Cause(ctx)
	}
}

// Every way to a connection asks where to: nothing of the DSN is left but its
// settings.
func TestRouteIsAskedByEveryPath(t *testing.T) {
	dsn := pgtest.NewDB(t)
	g := newGatedRoute(dsn)
	close(g.open)
	p := openPool(t, providers.Config{
		DSN: nowhere(t, dsn) + "&application_name=routed", Route: g.route,
		Pool:       providers.PoolStrategy{MinSize: 2, MaxSize: 4},
		Pipelining: &providers.Pipelining{Connections: 1, ReadConnections: 1},
	})
	if n := g.asked.Load(); n != 2 {
		t.Errorf("the warm-up asked %d times", n)
	}
	warm(t, p)
	openListen(t, p)
	if name := value[string](t, p, "select current_setting('application_name')"); name != "routed" {
		t.Errorf("the DSN's own settings are lost: %q", name)
	}
	held := acquireN(t, p, 2)
	c, err := p.Unwrap().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
	releaseAll(held)
	if n := int64(g.asked.Load()); n < p.Stats().Connects+1 || n > p.Stats().Connects+2 {
		t.Errorf("asked %d times for %d connections and one for LISTEN", n, p.Stats().Connects)
	}
}

// The wait for a place to go to is the acquire's, and holds up nobody else.
func TestRouteWaits(t *testing.T) {
	dsn := pgtest.NewDB(t)
	g := newGatedRoute(dsn)
	p := openPool(t, providers.Config{
		DSN: nowhere(t, dsn), Route: g.route, MaxDials: 1, Pool: providers.PoolStrategy{MaxSize: 2},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := p.Exec(ctx, "select 1")
	if !errors.Is(err, providers.ErrUnreachable) || !errors.Is(err, errNoRoute) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("%v", err)
	}
	// It holds no place among the attempts: a connection elsewhere can be made.
	l, err := p.Listen(t.Context(), providers.ListenOptions{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	served := make(chan error, 1)
	go func() {
		_, err := p.Exec(t.Context(), "select 1")
		served <- err
	}()
	eventually(t, "an acquire waits", func() bool { return p.Stats().Waiters == 1 })
	close(g.open)
	if err := <-served; err != nil {
		t.Errorf("it was not served: %v", err)
	}
	if g.limited.Load() {
		t.Error("the time for an attempt to connect runs before there is a place to connect to")
	}
}

// Whoever waits behind attempts that wait for a place is not told that others
// hold the connections.
func TestRouteWaitsAreNotExhaustion(t *testing.T) {
	dsn := pgtest.NewDB(t)
	g := newGatedRoute(dsn)
	close(g.open)
	p := openPool(t, providers.Config{DSN: nowhere(t, dsn), Route: g.route, Pool: providers.PoolStrategy{MaxSize: 2}})
	held := acquireN(t, p, 1)
	defer releaseAll(held)
	g.open = make(chan struct{})
	for range 2 { // the second finds the place taken by the attempt of the first
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := p.Exec(ctx, "select 1")
		cancel()
		if !errors.Is(err, errNoRoute) || errors.Is(err, providers.ErrPoolExhausted) {
			t.Errorf("%v", err)
		}
	}
	close(g.open)
}

func TestRouteWaitEndsWithThePool(t *testing.T) {
	dsn := pgtest.NewDB(t)
	g := newGatedRoute(dsn)
	p := openPool(t, providers.Config{
		DSN: nowhere(t, dsn), Route: g.route, Pipelining: &providers.Pipelining{Traffic: providers.PipelineAll},
	})
	failed := make(chan error, 2)
	go func() {
		_, err := p.Exec(t.Context(), "select 1") // asks for a shared connection and one of the pool
		failed <- err
	}()
	go func() {
		_, err := p.Listen(t.Context(), providers.ListenOptions{})
		failed <- err
	}()
	eventually(t, "all wait", func() bool { return g.asked.Load() == 3 })
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for range cap(failed) {
		if err := <-failed; !errors.Is(err, providers.ErrPoolClosed) {
			t.Errorf("%v", err)
		}
	}
	eventually(t, "every wait has ended", func() bool { return g.gaveUp.Load() == 3 })
}

func TestRouteErrors(t *testing.T) {
	mine := errors.New("no primary among three; password=hunter2")
	for name, tc := range map[string]struct {
		dsn string
		err error
	}{
		"no place":        {"", mine},
		"a place as well": {"postgres://app:s3cret-token@h/d", errors.New("s3cret-token was refused")},
		"no DSN":          {"postgres://app:hunter2@h:notaport/d", nil},
		"a server that quotes it": {
			withAddress(t, "postgres://app:s3cret-token@h/d?sslmode=disable", refusing(t, "28000", "s3cret-token is wrong")), nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			heard := 0
			p := openPool(t, providers.Config{
				DSN:       "postgres://u@localhost/d?sslmode=disable",
				Route:     func(context.Context) (string, error) { return tc.dsn, tc.err },
				OnTrouble: func(err error) { heard++; hidesSecrets(t, err) },
			})
			_, err := p.Exec(t.Context(), "select 1")
			hidesSecrets(t, err)
			if !errors.Is(err, providers.ErrUnreachable) || tc.err != nil && !errors.Is(err, tc.err) {
				t.Errorf("%v", err)
			}
			var fault *providers.ConfigError
			if found := errors.As(err, &fault) && fault.Field == "Route"; found != (name == "no DSN") {
				t.Errorf("%v", err)
			}
			if want := strings.Contains(name, "server"); (heard > 0) != want {
				t.Errorf("%d troubles", heard)
			}
			_, err = p.Listen(t.Context(), providers.ListenOptions{})
			hidesSecrets(t, err)
			if !errors.Is(err, providers.ErrUnreachable) {
				t.Errorf("%v", err)
			}
		})
	}
}

func hidesSecrets(t testing.TB, err error) {
	t.Helper()
	if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v", err)
	}
}

// A password that changes with every attempt does not pile up.
func TestRoutesAreForgotten(t *testing.T) {
	var r routes
	for i := range 3 * maxRoutes {
		if _, err := r.to("password=p" + itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	again, _ := r.to("password=p" + itoa(3*maxRoutes-1))
	if len(r.known) != maxRoutes || again.Password != "p"+itoa(3*maxRoutes-1) {
		t.Errorf("%d are kept; the newest has %q", len(r.known), again.Password)
	}
}
