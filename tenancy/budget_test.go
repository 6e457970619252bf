package tenancy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// dsnOf is the DSN of a fake database.
func dsnOf(n int) string { return fmt.Sprintf("host=fake dbname=d%d password=geheim", n) }

// fakeTowns has the tenants t0, t1…, each with the database of its number modulo
// databases.
func fakeTowns(tenants, databases int) *towns {
	dsns := map[string]string{}
	for i := range tenants {
		dsns[fmt.Sprint("t", i)] = dsnOf(i % databases)
	}
	return newTowns(dsns)
}

func sized(n int32) providers.Config {
	return providers.Config{Pool: providers.PoolStrategy{MaxSize: n}}
}

// hold takes connections of a tenant until the function returned is called.
func hold(t *testing.T, r *Router, tenant string, n int) (release func()) {
	t.Helper()
	var held []providers.Conn
	for range n {
		c, err := r.Acquire(as(t.Context(), tenant))
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	return func() {
		for _, c := range held {
			c.Release()
		}
	}
}

// Many callers of more databases than there may be connections: the limit holds
// at every moment, nobody fails, and connections serve more than one statement.
func TestTheLimitHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(2000, 40), sized(4), w.Open, MaxConnections(24))
		var work sync.WaitGroup
		var done atomic.Int64
		end := time.Now().Add(2 * time.Second)
		for range 200 {
			work.Go(func() {
				for time.Now().Before(end) {
					n := rand.IntN(2000)
					tag, err := r.Exec(as(t.Context(), fmt.Sprint("t", n)), "")
					if err != nil || tag.String() != dsnOf(n%40) {
						t.Errorf("tenant %d: %v, %v", n, tag, err)
					}
					done.Add(1)
				}
			})
		}
		work.Wait()
		_, most, connects := w.now()
		if most > 24 {
			t.Errorf("%d connections at once", most)
		}
		if n := done.Load(); n < 3*int64(connects) {
			t.Errorf("%d statements by %d connections: they hardly serve", n, connects)
		}
		s := r.DatabaseStats()
		if s.Permits > 24 || s.Moved == 0 || s.Pools != 40 || s.Tenants == 0 {
			t.Errorf("%+v", s)
		}
	})
}

// spin runs statements of a tenant by n goroutines until the test's work is done.
func spin(t *testing.T, r *Router, work *sync.WaitGroup, end time.Time, tenant string, n int) {
	for range n {
		work.Go(func() {
			for time.Now().Before(end) {
				if _, err := r.Exec(as(t.Context(), tenant), ""); err != nil {
					t.Errorf("%s: %v", tenant, err)
					return
				}
			}
		})
	}
}

// worst runs statements of a tenant one after another, with pauses, and returns
// the longest that one took.
func worst(t *testing.T, r *Router, end time.Time, tenant string, pause time.Duration) (longest time.Duration) {
	for time.Now().Before(end) {
		began := time.Now()
		if _, err := r.Exec(as(t.Context(), tenant), ""); err != nil {
			t.Errorf("%s: %v", tenant, err)
			return longest
		}
		longest = max(longest, time.Since(began))
		<-time.After(pause)
	}
	return longest
}

func TestANoisyTenantStarvesNobody(t *testing.T) {
	for name, tc := range map[string]struct{ databases int }{"a database each": {2}, "the same database": {1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.statement = 10 * time.Millisecond
				r := openRouterWith(t, fakeTowns(2, tc.databases), sized(4), w.Open, MaxConnections(4))
				var work sync.WaitGroup
				end := time.Now().Add(5 * time.Second)
				spin(t, r, &work, end, "t0", 100)
				got := worst(t, r, end, "t1", 7*time.Millisecond)
				work.Wait()
				// First come, first served would be 250 ms: 100 callers at 4
				// connections. Another database also has to wait for its turn
				// when it has no connection.
				if limit := []time.Duration{1: 25 * time.Millisecond, 2: 150 * time.Millisecond}[tc.databases]; got > limit {
					t.Errorf("the quiet tenant waited for %s", got)
				}
				if _, most, _ := w.now(); most > 4 {
					t.Errorf("%d connections at once", most)
				}
			})
		})
	}
}

// A tenant that holds a connection and needs another gets it, although there are
// always others that hold none.
func TestNobodyWaitsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(20, 20), sized(4), w.Open, MaxConnections(4))
		defer hold(t, r, "t0", 1)()
		var work sync.WaitGroup
		end := time.Now().Add(4 * time.Second)
		for i := range 19 {
			spin(t, r, &work, end, fmt.Sprint("t", i+1), 2)
		}
		<-time.After(time.Second)
		began := time.Now()
		if _, err := r.Exec(as(t.Context(), "t0"), ""); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("%s: %v", time.Since(began), err)
		}
		work.Wait()
	})
}

func TestADeadServerHarmsItsTenantsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		towns := fakeTowns(20, 20)
		for n := range 12 {
			towns.set(fmt.Sprint("t", n), dsnOf(n)+" host=dead")
		}
		r := openRouterWith(t, towns, sized(4), func(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
			p, err := w.Open(ctx, cfg)
			p.(*fakePool).hang = strings.Contains(cfg.DSN, "host=dead")
			return p, err
		}, MaxConnections(8))
		var work sync.WaitGroup
		var unreachable atomic.Int64
		end := time.Now().Add(60 * time.Second)
		for n := range 12 {
			for range 10 {
				work.Go(func() {
					for time.Now().Before(end) {
						_, err := r.Exec(as(t.Context(), fmt.Sprint("t", n)), "")
						if !errors.Is(err, providers.ErrUnreachable) && !errors.Is(err, providers.ErrPoolExhausted) ||
							providers.OutcomeOf(err) != providers.OutcomeNotSent {
							t.Errorf("a dead database: %v", err)
						}
						unreachable.Add(1)
					}
				})
			}
		}
		for n := 12; n < 20; n++ {
			work.Go(func() {
				// Until the first attempt has failed nobody knows.
				tenant := fmt.Sprint("t", n)
				if first := worst(t, r, time.Now().Add(1), tenant, 0); first > providers.DefaultConnectTimeout+time.Second {
					t.Errorf("the first statement of t%d took %s", n, first)
				}
				if longest := worst(t, r, end, tenant, 5*time.Millisecond); longest > time.Second {
					t.Errorf("t%d waited for %s", n, longest)
				}
			})
		}
		work.Wait()
		if unreachable.Load() == 0 {
			t.Error("nobody asked a dead database")
		}
	})
}

// All who wait for a database that cannot be reached share one attempt.
func TestCallersShareTheFirstConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(2, 2), sized(8), w.Open, MaxConnections(8))
		hold(t, r, "t0", 1)() // now the pool is there
		p := w.pool(dsnOf(0))
		p.set(func(p *fakePool) { p.down = errors.New("connection refused") })
		r.Reset()
		attempts := func() (n int) {
			p.set(func(p *fakePool) { n = p.attempts })
			return n
		}
		// The connection that is gone is found by the first, and from then on
		// there is one attempt at a time.
		if _, err := r.Exec(as(t.Context(), "t0"), ""); !errors.Is(err, providers.ErrUnreachable) {
			t.Fatal(err)
		}
		before := attempts()
		var work sync.WaitGroup
		for range 100 {
			work.Go(func() {
				if _, err := r.Exec(as(t.Context(), "t0"), ""); !errors.Is(err, providers.ErrUnreachable) {
					t.Error(err)
				}
			})
		}
		work.Wait()
		if n := attempts() - before; n != 1 {
			t.Errorf("%d attempts for 100 callers", n)
		}
		p.set(func(p *fakePool) { p.down = nil })
		if _, err := r.Exec(as(t.Context(), "t0"), ""); err != nil {
			t.Errorf("it is back, and: %v", err)
		}
	})
}

func TestIdleConnectionsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(3, 3), sized(1), w.Open, MaxConnections(1))
		for i := range 30 {
			if _, err := r.Exec(as(t.Context(), fmt.Sprint("t", i%3)), ""); err != nil {
				t.Fatal(err)
			}
		}
		if _, most, connects := w.now(); most != 1 || connects != 30 {
			t.Errorf("%d connections at once, %d in all", most, connects)
		}
		if s := r.DatabaseStats(); s.Moved != 29 || s.Permits != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A database with connections takes those of one that is idle, and leaves those of
// one that has few alone.
func TestConnectionsGoWhereTheWorkIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(2, 2), sized(4), w.Open, MaxConnections(4))
		hold(t, r, "t1", 4)() // t1 has them all, idle
		defer hold(t, r, "t0", 1)()
		began := time.Now()
		defer hold(t, r, "t0", 1)()
		if took := time.Since(began); took > 3*r.budget.worth() {
			t.Errorf("the second took %s", took)
		}
	})
}

func TestWaitsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(2, 2), sized(2), w.Open, MaxConnections(3))
		release := hold(t, r, "t0", 2)
		ctx, cancel := context.WithTimeout(as(t.Context(), "t0"), time.Second)
		_, err := r.Exec(ctx, "")
		cancel()
		var exhausted *providers.ExhaustedError
		if !errors.As(err, &exhausted) || !errors.Is(err, context.DeadlineExceeded) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Fatal(err)
		}
		if exhausted.Waited != time.Second || exhausted.MaxSize != 2 || exhausted.Waiters != 1 || exhausted.Limit != "context" {
			t.Errorf("%+v", exhausted)
		}
		releaseOther := hold(t, r, "t1", 1)
		_, _, err = r.PoolFor(as(t.Context(), "t1"))
		if !errors.As(err, &exhausted) || exhausted.MaxSize != 3 || exhausted.Limit != "acquire timeout" ||
			exhausted.Waited != providers.DefaultAcquireTimeout {
			t.Errorf("%+v", err)
		}
		ctx, cancel = context.WithCancel(as(t.Context(), "t0"))
		time.AfterFunc(time.Second, cancel)
		_, err = r.Exec(ctx, "")
		var ended *providers.TimeoutError
		if !errors.As(err, &ended) || !errors.Is(err, context.Canceled) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("%v", err)
		}
		time.AfterFunc(time.Second, release)
		hold(t, r, "t0", 1)()
		waits := r.Stats().Waits
		for outcome, want := range map[providers.WaitOutcome]int64{
			providers.WaitExhausted: 2, providers.WaitCanceled: 1, providers.WaitUnreachable: 0,
		} {
			if got := waits.Count(outcome); got != want {
				t.Errorf("%d waits %s, want %d", got, outcome, want)
			}
		}
		if waits.Count(providers.WaitAcquired) == 0 {
			t.Error("the wait that got a connection is not counted")
		}
		releaseOther()
		if n := r.Stats().Waiters; n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

// limitError is a cause that names the limit which ended a context.
type limitError struct{}

func (limitError) Error() string { return "my limit" }
func (limitError) Limit() string { return "transaction timeout" }

func TestWaitsNameTheirLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(1, 1), sized(1), w.Open)
		release := hold(t, r, "t0", 1)
		defer release()
		ctx, cancel := context.WithTimeoutCause(as(t.Context(), "t0"), time.Second, limitError{})
		defer cancel()
		_, err := r.Exec(ctx, "")
		var exhausted *providers.ExhaustedError
		if !errors.As(err, &exhausted) || exhausted.Limit != "transaction timeout" {
			t.Error(err)
		}
		r.cfg.AcquireTimeout = providers.Off
		ctx, cancel = context.WithTimeout(as(t.Context(), "t0"), time.Hour)
		defer cancel()
		if _, _, err = r.PoolFor(ctx); !errors.As(err, &exhausted) || exhausted.Waited != time.Hour {
			t.Error(err)
		}
	})
}

func TestAWaitForTheFirstConnectionIsUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.connect = time.Minute
		r := openRouterWith(t, fakeTowns(1, 1), sized(1), w.Open)
		ctx, cancel := context.WithTimeout(as(t.Context(), "t0"), time.Second)
		defer cancel()
		_, err := r.Exec(ctx, "")
		if !errors.Is(err, providers.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if n := r.Stats().Waits.Count(providers.WaitUnreachable); n != 1 {
			t.Errorf("%d such waits", n)
		}
		<-time.After(2 * time.Minute) // the ping is over
	})
}

// A chain that holds a connection and waits for another is refused when all who
// hold one do so: none would ever come back.
func TestTrap04NestedAcquireAcrossDatabases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(2, 2), sized(2), w.Open, MaxConnections(3))
		defer hold(t, r, "t0", 2)()
		nested := providers.WithHeld(as(t.Context(), "t0"), r)
		first := make(chan error, 1)
		ctx, cancel := context.WithCancel(nested)
		go func() {
			_, err := r.Exec(ctx, "")
			first <- err
		}()
		synctest.Wait()
		if _, err := r.Exec(nested, ""); !errors.Is(err, providers.ErrNestedAcquire) {
			t.Errorf("all of a database's: %v", err)
		}
		defer hold(t, r, "t1", 1)()
		other := providers.WithHeld(as(t.Context(), "t1"), r)
		if _, err := r.Exec(providers.WithHeld(other, r), ""); !errors.Is(err, providers.ErrNestedAcquire) {
			t.Errorf("all there are: %v", err)
		}
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the first waits until it is called off: %v", err)
		}
	})
}

func TestLeastRecentlyUsedPoolsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(5, 5), sized(1), w.Open, MaxPools(2))
		use := func(n int) {
			t.Helper()
			if _, err := r.Exec(as(t.Context(), fmt.Sprint("t", n)), ""); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
		}
		isOpen := func(n int) bool {
			p := w.pool(dsnOf(n))
			p.mu.Lock()
			defer p.mu.Unlock()
			return !p.closed
		}
		use(0)
		use(1)
		use(0)
		use(2)
		if !isOpen(0) || isOpen(1) || !isOpen(2) {
			t.Errorf("open: %v %v %v", isOpen(0), isOpen(1), isOpen(2))
		}
		// One in use stays, and all of them do.
		release0, release2 := hold(t, r, "t0", 1), hold(t, r, "t2", 1)
		use(3)
		if !isOpen(0) || !isOpen(2) || r.DatabaseStats().Pools != 3 {
			t.Errorf("open: %v %v, %+v", isOpen(0), isOpen(2), r.DatabaseStats())
		}
		release0()
		release2()
		use(1)
		if s := r.DatabaseStats(); s.Pools != 2 || s.Opened != 5 || s.Closed != 3 || s.Closing != 0 {
			t.Errorf("%+v", s)
		}
		if open, _, _ := w.now(); open != r.DatabaseStats().Permits {
			t.Errorf("%d open, %d permits", open, r.DatabaseStats().Permits)
		}
	})
}

func TestCloseEndsEveryWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(3, 3), sized(1), w.Open, MaxConnections(2))
		release := hold(t, r, "t0", 1)
		errs := make(chan error)
		wait := func(tenant string) {
			_, err := r.Exec(as(t.Context(), tenant), "")
			errs <- err
		}
		go wait("t0")
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- r.Close(t.Context()) }()
		if err := <-errs; !errors.Is(err, providers.ErrPoolClosed) {
			t.Errorf("who waited got %v", err)
		}
		go wait("t1")
		if err := <-errs; !errors.Is(err, providers.ErrPoolClosed) {
			t.Errorf("who came later got %v", err)
		}
		synctest.Wait()
		select {
		case err := <-closed:
			t.Fatalf("Close did not wait: %v", err)
		default:
		}
		release()
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Errorf("the second time: %v", err)
		}
		if open, _, _ := w.now(); open != 0 {
			t.Errorf("%d connections are open", open)
		}
	})
}

func TestCloseByForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(1, 1), sized(1), w.Open)
		release := hold(t, r, "t0", 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var forced *providers.CloseError
		if err := r.Close(ctx); !errors.As(err, &forced) {
			t.Error(err)
		}
		release()
	})
}
