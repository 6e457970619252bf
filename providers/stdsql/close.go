package stdsql

import (
	"context"
	"math"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// forceGrace is how long Close waits for connections that it took from their
// borrowers to be gone.
const forceGrace = time.Second

// Close stops intake, waits for the connections in use until ctx ends, then
// takes those from their borrowers and names these in a [*providers.CloseError].
// Later calls wait for the first and return the same. A *sql.DB of the caller's
// stays open.
func (p *Pool) Close(ctx context.Context) error {
	p.closeOnce.Do(func() {
		p.leasesMu.Lock()
		p.closing.Store(true)
		if len(p.leases) == 0 {
			p.noLeases()
		}
		p.leasesMu.Unlock()
		p.endLife(providers.ErrPoolClosed)
		p.closeErr = p.drain(ctx)
		if p.connector != nil {
			_ = p.db.Close() // nobody is left to hear of it
		}
	})
	return p.closeErr
}

// noLeases notes that no connection is in use any more.
func (p *Pool) noLeases() {
	if !p.isDrained {
		p.isDrained = true
		close(p.drained)
	}
}

func (p *Pool) drain(ctx context.Context) error {
	select {
	case <-p.drained:
		return nil
	case <-ctx.Done():
	}
	holders := p.holders(math.MaxInt)
	p.leasesMu.Lock()
	leases := make([]*lease, 0, len(p.leases))
	for l := range p.leases {
		leases = append(leases, l)
	}
	p.leasesMu.Unlock()
	for _, l := range leases {
		l.evict()
	}
	select {
	case <-p.drained:
	case <-time.After(forceGrace): // a driver that does not stop is left to itself
	}
	if len(holders) == 0 {
		return nil // what was left came back just now
	}
	return &providers.CloseError{Holders: holders, Err: context.Cause(ctx)}
}

// ended is a context that has ended: what gets it does not wait.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
