package tenancy

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

func (g *gates) tenants() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.busy)
}

func TestGateAdmitsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := tenantGate{newGates(2), "a"}
		for range 2 {
			if err := gate.Enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		var order []int
		for i := range 5 {
			go func() {
				if err := gate.Enter(t.Context()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
			}()
			synctest.Wait()
		}
		if err := (tenantGate{gate.gates, "b"}).Enter(t.Context()); err != nil {
			t.Error("another tenant waits:", err)
		}
		for range 7 {
			synctest.Wait()
			gate.Leave()
		}
		synctest.Wait()
		for i, n := range order {
			if i != n {
				t.Fatalf("they came in as %v", order)
			}
		}
		tenantGate{gate.gates, "b"}.Leave()
		if n := gate.tenants(); n != 0 || len(order) != 5 {
			t.Errorf("%d tenants are kept, %d came in", n, len(order))
		}
	})
}

func TestGateEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := tenantGate{newGates(1), "acme"}
		if err := gate.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		limit := errors.New("the limit of the pool")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, limit)
		defer cancel()
		err := gate.Enter(ctx)
		var busy *TenantBusyError
		if !errors.As(err, &busy) || busy.Limit != 1 || busy.Waited != 3*time.Second || !busy.Timeout() ||
			!errors.Is(err, ErrTenantBusy) || !errors.Is(err, limit) || !errors.Is(err, context.DeadlineExceeded) ||
			providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("%#v", err)
		}
		if strings.Contains(err.Error(), "acme") || !strings.Contains(err.Error(), "nothing was sent") {
			t.Error(err)
		}
		cancelled, stop := context.WithCancel(t.Context())
		stop()
		if err = gate.Enter(cancelled); !errors.Is(err, context.Canceled) || !errors.As(err, &busy) || busy.Timeout() {
			t.Error(err)
		}
		gate.Leave()
		if n := gate.tenants(); n != 0 {
			t.Errorf("%d tenants are kept", n)
		}
	})
}

// A place that comes at the moment at which the wait ends goes to the next.
func TestGateLosesNoPlace(t *testing.T) {
	g := newGates(1)
	if ready, queued := g.join("a"); ready != nil || queued != nil {
		t.Fatal("there was no place")
	}
	first, firstQueued := g.join("a")
	second, _ := g.join("a")
	tenantGate{g, "a"}.Leave()
	<-first
	g.give("a", first, firstQueued)
	<-second
	tenantGate{g, "a"}.Leave()
	if n := g.tenants(); n != 0 {
		t.Errorf("%d tenants are kept", n)
	}
}

func TestGateUnderLoad(t *testing.T) {
	g := newGates(3)
	var inside, most atomic.Int64
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			gate := tenantGate{g, string(rune('a' + i%2))}
			for n := range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n%7)*10*time.Microsecond+time.Microsecond)
				if gate.Enter(ctx) == nil {
					now := inside.Add(1)
					for was := most.Load(); now > was && !most.CompareAndSwap(was, now); was = most.Load() {
					}
					inside.Add(-1)
					gate.Leave()
				}
				cancel()
			}
		})
	}
	all.Wait()
	if g.tenants() != 0 || most.Load() > 6 {
		t.Errorf("%d tenants are kept, %d were inside", g.tenants(), most.Load())
	}
}

// A provider tells by it whether two scopes are the same.
func TestGatesOfATenantAreEqual(t *testing.T) {
	g := newGates(1)
	var one, other providers.Gate = tenantGate{g, "a"}, tenantGate{g, "a"}
	if one != other {
		t.Error("they differ")
	}
}
