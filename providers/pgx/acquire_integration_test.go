package pgx

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

func TestTrap03ExhaustedNamesHoldersAndTimeWaited(t *testing.T) {
	const limit = 50 * time.Millisecond
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{InitialSize: 2, MaxSize: 2}, AcquireTimeout: limit, LeakAfter: time.Minute})
	ctx := providers.WithCorrelationID(t.Context(), "req-7")
	held, err := p.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	tx, err := p.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()

	_, err = p.Exec(t.Context(), "select 1")
	var exhausted *providers.ExhaustedError
	if !errors.As(err, &exhausted) || !errors.Is(err, providers.ErrPoolExhausted) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("not exhausted: %v", err)
	}
	if errors.Is(err, providers.ErrUnreachable) {
		t.Errorf("the server is well: %v", err)
	}
	if exhausted.Waited < limit || exhausted.Limit != "acquire timeout" || exhausted.MaxSize != 2 || exhausted.Waiters != 1 || !exhausted.Timeout() {
		t.Errorf("wrong details: %+v", exhausted)
	}
	if providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("outcome %s", providers.OutcomeOf(err))
	}
	if len(exhausted.Holders) != 2 || exhausted.Holders[0].CorrelationID != "req-7" || exhausted.Holders[0].Operation != opConn ||
		exhausted.Holders[1].Operation != opTx || exhausted.Holders[0].PID == 0 {
		t.Errorf("wrong holders, the longest first: %+v", exhausted.Holders)
	}
	for _, want := range []string{"all 2 connections in use", "acquire timeout", "req-7", "nothing was sent"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err = p.Exec(ctx, "select 1"); !errors.As(err, &exhausted) || exhausted.Limit != "context deadline" {
		t.Errorf("the caller's own deadline must be named: %v", err)
	}
}

func TestTrap03UnreachableIsNotExhausted(t *testing.T) {
	const limit = 100 * time.Millisecond
	for name, address := range map[string]string{"silent": silent(t), "refused": closedPort(t)} {
		t.Run(name, func(t *testing.T) {
			p := openPool(t, providers.Config{
				DSN: "postgres://u:hunter2@" + address + "/d?sslmode=disable", AcquireTimeout: limit,
				Pool: providers.PoolStrategy{MaxSize: 1}, ConnectTimeout: 10 * time.Second,
			})
			start := time.Now()
			// The second caller of a pool of one waits in line for the first one's dial.
			var callers sync.WaitGroup
			for range 2 {
				callers.Go(func() {
					_, err := p.Exec(t.Context(), "select 1")
					var unreachable *providers.UnreachableError
					if !errors.As(err, &unreachable) || !errors.Is(err, providers.ErrUnreachable) || errors.Is(err, providers.ErrPoolExhausted) {
						t.Errorf("not unreachable: %v", err)
						return
					}
					if providers.OutcomeOf(err) != providers.OutcomeNotSent || strings.Contains(err.Error(), "hunter2") {
						t.Errorf("outcome %s of %q", providers.OutcomeOf(err), err)
					}
					if name == "silent" && unreachable.Waited < limit {
						t.Errorf("waited %s", unreachable.Waited)
					}
				})
			}
			callers.Wait()
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("the wait was not bounded: %s", took)
			}
		})
	}
}

func TestTrap03SlowDialDoesNotHoldItsCaller(t *testing.T) {
	var dials atomic.Int32
	release := make(chan struct{})
	p := openPool(t, providers.Config{
		Pool: providers.PoolStrategy{MaxSize: 1}, AcquireTimeout: 50 * time.Millisecond,
		AfterConnect: func(context.Context, *pgx.Conn) error { dials.Add(1); <-release; return nil },
	})
	_, err := p.Exec(t.Context(), "select 1")
	close(release)
	if !errors.Is(err, providers.ErrUnreachable) {
		t.Errorf("the wait for its own dial must be bounded: %v", err)
	}
	eventually(t, "the connection of the abandoned dial is there", func() bool { return p.Stats().Idle == 1 })
	p.acquireTimeout = 0
	mustExec(t, p, "select 1")
	if n := dials.Load(); n != 1 {
		t.Errorf("%d dials: the abandoned one must serve the next caller", n)
	}
}

func TestAcquireAfterTheContextEnded(t *testing.T) {
	p := openPool(t, providers.Config{})
	_, err := p.Acquire(ended())
	var timeout *providers.TimeoutError
	if !errors.Is(err, context.Canceled) || !errors.As(err, &timeout) || timeout.Operation != "acquire" || timeout.Timeout() {
		t.Errorf("%v", err)
	}
	if providers.OutcomeOf(err) != providers.OutcomeNotSent || !strings.HasSuffix(err.Error(), "nothing was sent") {
		t.Errorf("outcome %s of %v", providers.OutcomeOf(err), err)
	}
	if s := p.Stats(); s.Waiters != 0 || s.Acquires != 0 {
		t.Errorf("%+v", s)
	}
}

func TestTrap04NestedAcquireIsFoundExactly(t *testing.T) {
	const n = 4
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: n}, AcquireTimeout: providers.Off})
	conns := acquireN(t, p, n)
	ctx := providers.WithHeld(t.Context(), p)
	errs := make(chan error, n)
	var chains sync.WaitGroup
	for _, c := range conns {
		chains.Go(func() {
			defer c.Release()
			inner, err := p.Acquire(ctx)
			if err == nil {
				inner.Release()
			}
			errs <- err
		})
	}
	chains.Wait()
	close(errs)
	refused := 0
	for err := range errs {
		switch {
		case errors.Is(err, providers.ErrNestedAcquire):
			refused++
		case err != nil:
			t.Errorf("the others must get their connection: %v", err)
		}
	}
	if refused != 1 {
		t.Errorf("%d chains refused, want exactly the one that would have closed the circle", refused)
	}
	if s := p.Stats(); s.Waiters != 0 {
		t.Errorf("%d still in line", s.Waiters)
	}
}

func TestTrap04NoFalsePositive(t *testing.T) {
	const n = 3
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: n}})
	conns := acquireN(t, p, n)
	ctx := providers.WithHeld(t.Context(), p)
	var chains sync.WaitGroup
	for _, c := range conns[:n-1] { // the last holder does not wait, so there is hope
		chains.Go(func() {
			defer c.Release()
			inner, err := p.Acquire(ctx)
			if err != nil {
				t.Errorf("refused although one holder was to come back: %v", err)
				return
			}
			inner.Release()
		})
	}
	eventually(t, "both wait", func() bool { return p.Stats().Waiters == n-1 })
	conns[n-1].Release()
	chains.Wait()
	// A chain that holds one may take another that is idle, also behind a ping.
	p.pingAfter = -1
	outer := acquireN(t, p, n-1)
	inner, err := p.Acquire(ctx)
	if err != nil {
		t.Fatalf("an idle connection was there: %v", err)
	}
	inner.Release()
	releaseAll(outer)
}

func TestTrap04NestedRefusalIsSeenByHooks(t *testing.T) {
	var seen error
	hooks, err := providers.NewHookManager(providers.Hook{
		Name: "acquire", Events: []providers.HookEvent{providers.EventAcquire},
		After: func(_ context.Context, i *providers.HookInfo) {
			if i.Err != nil {
				seen = i.Err
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}, Hooks: hooks})
	defer releaseAll(acquireN(t, p, 1))
	_, err = p.Acquire(providers.WithHeld(t.Context(), p))
	if !errors.Is(err, providers.ErrNestedAcquire) || !errors.Is(seen, providers.ErrNestedAcquire) {
		t.Errorf("caller: %v; hook: %v", err, seen)
	}
}

func TestTrap09WaitsByOutcome(t *testing.T) {
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
	mustExec(t, p, "select 1") // the first connect
	p.acquireTimeout = 30 * time.Millisecond
	if s := p.Stats(); s.Waits.Count(providers.WaitAcquired) != 1 || s.Connects != 1 || s.Acquires != 1 {
		t.Fatalf("a first connect is a wait that ended well: %+v", s)
	}
	mustExec(t, p, "select 1")
	if s := p.Stats(); s.Waits.Count(providers.WaitAcquired) != 1 || s.Acquires != 2 {
		t.Fatalf("an idle connection is no wait: %+v", s)
	}
	held := acquireN(t, p, 1)
	if _, err := p.Exec(t.Context(), "select 1"); !errors.Is(err, providers.ErrPoolExhausted) {
		t.Fatal(err)
	}
	p.acquireTimeout = 0
	ctx, cancel := context.WithCancel(t.Context())
	var waiter sync.WaitGroup
	var canceled error
	waiter.Go(func() { _, canceled = p.Exec(ctx, "select 1") })
	eventually(t, "somebody waits", func() bool { s := p.Stats(); return s.Waiters == 1 && s.OldestWait > 0 })
	cancel()
	waiter.Wait()
	if !errors.Is(canceled, context.Canceled) || errors.Is(canceled, providers.ErrPoolExhausted) {
		t.Errorf("a caller who called it off did not find the pool exhausted: %v", canceled)
	}
	releaseAll(held)

	s := p.Stats()
	if s.Waiters != 0 || s.OldestWait != 0 {
		t.Errorf("the line is not empty: %+v", s)
	}
	for outcome, want := range map[providers.WaitOutcome]int64{
		providers.WaitAcquired: 1, providers.WaitExhausted: 1, providers.WaitCanceled: 1, providers.WaitUnreachable: 0,
	} {
		if got := s.Waits.Count(outcome); got != want {
			t.Errorf("%s: %d waits, want %d", outcome, got, want)
		}
		if want > 0 && s.Waits.Total[outcome] <= 0 {
			t.Errorf("%s: the time is not counted", outcome)
		}
	}
	if s.Waits.Total[providers.WaitExhausted] < 30*time.Millisecond {
		t.Errorf("a wait in vain counts in full: %s", s.Waits.Total[providers.WaitExhausted])
	}
}

func TestTrap09OutageIsSeenInWaits(t *testing.T) {
	p := openPool(t, providers.Config{DSN: "postgres://" + closedPort(t) + "/d?sslmode=disable"})
	if err := p.Ping(t.Context()); !errors.Is(err, providers.ErrUnreachable) {
		t.Fatal(err)
	}
	s := p.Stats()
	if s.Waits.Count(providers.WaitUnreachable) != 1 || s.ConnectErrors != 1 || s.Connects != 0 || s.Acquires != 0 {
		t.Errorf("%+v", s)
	}
}

func TestTrap02CancelledContextKeepsConnection(t *testing.T) {
	const size, cancellations = 5, 100
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: size}})
	var callers sync.WaitGroup
	for range size {
		callers.Go(func() {
			for range cancellations / size {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
				_, err := p.Exec(ctx, "select pg_sleep(10)")
				cancel()
				var pg *providers.PGError
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("not DeadlineExceeded: %v", err)
				}
				if errors.Is(err, providers.ErrUnreachable) {
					continue // the deadline was over before the first connection was made
				}
				var sent interface{ Outcome() providers.Outcome }
				if errors.As(err, &sent) && sent.Outcome() == providers.OutcomeNotSent {
					continue
				}
				var raw *pgconn.PgError
				if !errors.As(err, &pg) || pg.Code != "57014" || !errors.As(err, &raw) {
					t.Errorf("not 57014: %v", err)
				}
			}
		})
	}
	callers.Wait()
	if s := p.Stats(); s.Connects > size || s.Closed != 0 {
		t.Errorf("%d connections made and %d closed by %d cancellations on a pool of %d", s.Connects, s.Closed, cancellations, size)
	}
}

func TestTrap08NearlyDeadDeadlineKeepsIdleConnections(t *testing.T) {
	const size = 3
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: size, InitialSize: size}})
	p.pingAfter = -1 // every acquire pings
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Microsecond)
		if c, err := p.Acquire(ctx); err == nil {
			c.Release()
		}
		cancel()
	}
	eventually(t, "all are idle again", func() bool { return p.Stats().Idle == size })
	if s := p.Stats(); s.Connects != size || s.Closed != 0 {
		t.Errorf("callers in a hurry cost %d connections (%d made)", s.Closed, s.Connects)
	}
}

func TestTrap11BlackHoleIsBoundedInTotal(t *testing.T) {
	const size, ping = 10, time.Second // one after the other they would take ten
	network := newNetwork(t)
	p := openPool(t, providers.Config{
		DSN: network.DSN(), Route: network.route, PingTimeout: ping, Pool: providers.PoolStrategy{MaxSize: size, InitialSize: size},
	})
	p.pingAfter = -1
	network.freeze()
	start := time.Now()
	c, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	defer c.Release()
	mustExec(t, c, "select 1") // over a new connection
	if took < ping || took > 3*ping {
		t.Errorf("%d dead idle connections cost %s, with pings of %s", size, took, ping)
	}
	eventually(t, "the others are dropped", func() bool { return p.Stats().Closed == size })
}

func TestTrap11BlackHoleOfAPoolOfOne(t *testing.T) {
	network := newNetwork(t)
	p := openPool(t, providers.Config{
		DSN: network.DSN(), Route: network.route, PingTimeout: 50 * time.Millisecond, Pool: providers.PoolStrategy{MaxSize: 1, InitialSize: 1},
	})
	p.pingAfter = -1
	network.freeze()
	start := time.Now()
	mustExec(t, p, "select 1")
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("the place in the pool came free only after %s", took)
	}
}

func TestTrap11WaitBehindABlackHoleIsBounded(t *testing.T) {
	network := newNetwork(t)
	p := openPool(t, providers.Config{
		DSN: network.DSN(), Route: network.route, PingTimeout: time.Second, AcquireTimeout: 100 * time.Millisecond,
		Pool: providers.PoolStrategy{MaxSize: 2, InitialSize: 2},
	})
	p.pingAfter = -1
	network.freeze()
	start := time.Now()
	_, err := p.Acquire(t.Context())
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
	if providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("outcome %s", providers.OutcomeOf(err))
	}
}
