package tenancy

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// ErrTenantBusy means that all of a tenant's places were taken for as long as
// the caller would wait. See [TenantBusyError].
var ErrTenantBusy = errors.New("pgkeel: tenancy: the tenant is busy")

// TenantBusyError is [ErrTenantBusy] with its limit. It does not name the
// tenant, so that it can be shown to anyone.
type TenantBusyError struct {
	// Limit is how many operations of a tenant hold a connection at a time.
	Limit int
	// Waited is how long the caller waited.
	Waited time.Duration
	// Err is why the wait ended: the context's error or cause.
	Err error
}

func (e *TenantBusyError) Error() string {
	return fmt.Sprintf("pgkeel: tenancy: the tenant is busy: %d operations of it hold a connection, as many as TenantConcurrency allows; "+
		"gave up after %s (%v); nothing was sent: make fewer at a time, end transactions sooner, or raise the limit",
		e.Limit, e.Waited.Round(time.Millisecond), e.Err)
}

// Unwrap makes the error match ErrTenantBusy and the context's error.
func (e *TenantBusyError) Unwrap() []error { return []error{ErrTenantBusy, e.Err} }

// Outcome is always OutcomeNotSent.
func (e *TenantBusyError) Outcome() providers.Outcome { return providers.OutcomeNotSent }

// Timeout is true unless the wait was cancelled.
func (e *TenantBusyError) Timeout() bool { return !errors.Is(e.Err, context.Canceled) }

// gates bounds what each tenant does at a time. It knows only those tenants that
// do or wait for something.
type gates struct {
	limit int
	mu    sync.Mutex
	busy  map[string]*places
}

// places of a tenant.
type places struct {
	taken   int
	waiters list.List // of chan struct{}, closed when its owner has a place
}

func newGates(limit int) *gates { return &gates{limit: limit, busy: map[string]*places{}} }

// tenantGate is the gate of one tenant. It is a value, so that two of the same
// tenant are equal and none has to be kept.
type tenantGate struct {
	*gates
	id string
}

var _ providers.Gate = tenantGate{}

// Enter waits for a place.
func (g tenantGate) Enter(ctx context.Context) error {
	_, err := g.enter(ctx)
	return err
}

// enter is Enter, and tells whether there was a wait.
func (g tenantGate) enter(ctx context.Context) (waited bool, err error) {
	ready, queued := g.join(g.id)
	if queued == nil {
		return false, nil
	}
	began := time.Now()
	select {
	case <-ready:
		return true, nil
	case <-ctx.Done():
	}
	g.give(g.id, ready, queued)
	err = context.Cause(ctx)
	if !errors.Is(err, ctx.Err()) {
		err = errors.Join(ctx.Err(), err)
	}
	return true, &TenantBusyError{Limit: g.limit, Waited: time.Since(began), Err: err}
}

// Leave gives the place to the one who waits longest.
func (g tenantGate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.free(g.id)
}

// join takes a place, or else a place in the queue.
func (g *gates) join(id string) (ready chan struct{}, queued *list.Element) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.busy[id]
	if p == nil {
		p = &places{}
		g.busy[id] = p
	}
	if p.taken < g.limit { // nobody waits while there is one
		p.taken++
		return nil, nil
	}
	ready = make(chan struct{})
	return ready, p.waiters.PushBack(ready)
}

// give up waiting. A place that came in the meantime goes to the next.
func (g *gates) give(id string, ready chan struct{}, queued *list.Element) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-ready:
		g.free(id)
	default:
		g.busy[id].waiters.Remove(queued)
	}
}

// free a place.
func (g *gates) free(id string) {
	p := g.busy[id]
	if next := p.waiters.Front(); next != nil {
		close(p.waiters.Remove(next).(chan struct{}))
		return
	}
	if p.taken--; p.taken == 0 {
		delete(g.busy, id)
	}
}
