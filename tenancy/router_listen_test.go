package tenancy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// listenWorld is a world whose pools can LISTEN.
type listenWorld struct{ *world }

type listeningPool struct{ *fakePool }

func (w listenWorld) Open(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
	p, err := w.world.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return listeningPool{p.(*fakePool)}, nil
}

// Listen connects as a statement would.
func (p listeningPool) Listen(ctx context.Context, _ providers.ListenOptions) (providers.ListenConn, error) {
	p.set(func(p *fakePool) { p.attempts++ })
	if p.hang {
		<-ctx.Done()
		return nil, &providers.UnreachableError{Err: ctx.Err()}
	}
	if p.down != nil {
		return nil, &providers.UnreachableError{Err: p.down}
	}
	p.world.count(1)
	<-time.After(p.world.connect)
	return &fakeListenConn{pool: p.fakePool}, nil
}

type fakeListenConn struct {
	pool *fakePool
	once sync.Once
}

func (c *fakeListenConn) state() (err error) {
	c.pool.set(func(p *fakePool) {
		if p.closed {
			err = providers.ErrPoolClosed
		}
	})
	return err
}
func (c *fakeListenConn) Exec(context.Context, string) error { return c.state() }
func (c *fakeListenConn) Ping(context.Context) error         { return c.state() }
func (c *fakeListenConn) PID() uint32                        { return 1 }
func (c *fakeListenConn) WaitForNotification(context.Context) (*pgconn.Notification, error) {
	return nil, c.state()
}

func (c *fakeListenConn) Close(context.Context) error {
	c.once.Do(func() { c.pool.world.count(-1) })
	return nil
}

// listenAs opens a connection for LISTEN, and closes it with the function.
func listenAs(t *testing.T, r *Router, ctx context.Context) (providers.ListenConn, func()) {
	t.Helper()
	c, err := r.Listen(ctx, providers.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c, func() { _ = errors.Join(c.Close(t.Context()), c.Close(t.Context())) }
}

func TestListenersAreWithinTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := listenWorld{newWorld()}
		cfg := sized(2)
		cfg.AcquireTimeout = time.Second
		r := openRouterWith(t, fakeTowns(3, 3), cfg, w.Open, MaxConnections(4), AdminDSN(dsnOf(0)))
		var closes []func()
		for _, ctx := range []context.Context{as(t.Context(), "t0"), as(t.Context(), "t0"), as(t.Context(), "t1"), Bypass(t.Context(), "test")} {
			_, stop := listenAs(t, r, ctx)
			closes = append(closes, stop)
		}
		if _, err := r.Listen(as(t.Context(), "t2"), providers.ListenOptions{}); !errors.Is(err, providers.ErrPoolExhausted) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("one more than the limit: %v", err)
		}
		waited := make(chan error, 1)
		go func() { waited <- paths["Exec"](as(t.Context(), "t2"), r) }()
		synctest.Wait()
		closes[0]()
		if err := <-waited; err != nil {
			t.Errorf("a statement that waited: %v", err)
		}
		closes[0] = func() {}
		for _, stop := range closes {
			stop()
		}
		if _, most, _ := w.now(); most > 4 {
			t.Errorf("%d connections", most)
		}
		if s := r.DatabaseStats(); s.Permits != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A database that somebody listens to is in use.
func TestAListenerKeepsItsDatabaseOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openRouterWith(t, fakeTowns(3, 3), sized(2), listenWorld{newWorld()}.Open, MaxPools(1))
		c, stop := listenAs(t, r, as(t.Context(), "t0"))
		for i := 1; i < 3; i++ {
			hold(t, r, fmt.Sprint("t", i), 1)()
		}
		if err := c.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		stop()
		hold(t, r, "t1", 1)()
		if s := r.DatabaseStats(); s.Pools != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAListenersTenantMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := listenWorld{newWorld()}
		d := fakeTowns(4, 2)
		r := openRouterWith(t, d, sized(2), w.Open)
		alone, stop := listenAs(t, r, as(t.Context(), "t0"))
		defer stop()
		<-time.After(2 * DefaultDirectoryTTL)
		d.fail(errors.New("the directory is down"))
		for range 3 {
			if err := alone.Ping(t.Context()); err != nil {
				t.Errorf("it is where it was: %v", err)
			}
			<-time.After(time.Second)
		}
		d.fail(nil)
		d.set("t0", dsnOf(1)) // t2 stays
		synctest.Wait()
		_ = alone.Ping(t.Context())
		synctest.Wait()
		if err := alone.Ping(t.Context()); !errors.Is(err, errMoved) {
			t.Error(err)
		}
		other, stopOther := listenAs(t, r, as(t.Context(), "t2"))
		defer stopOther()
		d.remove("t2") // and nobody is left
		<-time.After(2 * DefaultDirectoryTTL)
		if err := paths["Exec"](as(t.Context(), "t2"), r); !errors.Is(err, ErrUnknownTenant) {
			t.Error(err)
		}
		synctest.Wait()
		_, waitErr := other.WaitForNotification(t.Context())
		for _, err := range []error{other.Ping(t.Context()), other.Exec(t.Context(), "listen a"), waitErr} {
			if !errors.Is(err, errMoved) || errors.Is(err, providers.ErrPoolClosed) {
				t.Errorf("the router is not closed: %v", err)
			}
		}
	})
}

// Servers that do not answer, and callers who go, leave nothing behind.
func TestListenersThatNeverCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := listenWorld{newWorld()}
		r := openRouterWith(t, fakeTowns(2, 2), sized(2), w.Open, MaxConnections(2))
		hold(t, r, "t0", 1)()
		w.pool(dsnOf(0)).set(func(p *fakePool) { p.down = errors.New("refused") })
		if _, err := r.Listen(as(t.Context(), "t0"), providers.ListenOptions{}); !errors.Is(err, providers.ErrUnreachable) {
			t.Error(err)
		}
		w.pool(dsnOf(0)).set(func(p *fakePool) { p.hang = true })
		ctx, cancel := context.WithTimeout(as(t.Context(), "t0"), time.Second)
		defer cancel()
		if _, err := r.Listen(ctx, providers.ListenOptions{}); !errors.Is(err, providers.ErrUnreachable) {
			t.Error(err)
		}
		w.connect = 2 * time.Second // it comes when nobody wants it any more
		late, cancelLate := context.WithTimeout(as(t.Context(), "t1"), time.Second)
		defer cancelLate()
		if _, err := r.Listen(late, providers.ListenOptions{}); !errors.Is(err, providers.ErrUnreachable) {
			t.Error(err)
		}
		synctest.Wait()
		open, _, _ := w.now()
		if s := r.DatabaseStats(); s.Permits != open || open != 1 {
			t.Errorf("%+v, %d open", s, open)
		}
	})
}

func TestListenIsRefused(t *testing.T) {
	w := listenWorld{newWorld()}
	r := openRouterWith(t, fakeTowns(1, 1), providers.Config{}, w.Open)
	for what, ctx := range map[string]context.Context{"no tenant": t.Context(), "no admin": Bypass(t.Context(), "test"), "unknown": as(t.Context(), "x")} {
		if _, err := r.Listen(ctx, providers.ListenOptions{}); providers.OutcomeOf(err) != providers.OutcomeNotSent || err == nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	var fault *providers.ConfigError
	if _, err := r.Listen(as(t.Context(), "t0"), providers.ListenOptions{DSN: "host=other"}); !errors.As(err, &fault) {
		t.Error(err)
	}
	mute := openRouterWith(t, fakeTowns(1, 1), providers.Config{}, w.world.Open)
	if _, err := mute.Listen(as(t.Context(), "t0"), providers.ListenOptions{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := r.Listen(as(t.Context(), "t0"), providers.ListenOptions{}); !errors.Is(err, providers.ErrPoolClosed) {
		t.Error(err)
	}
}
