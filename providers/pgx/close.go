package pgx

import (
	"context"
	"math"

	"github.com/pgkeel/pgkeel/providers"
)

// Close stops intake, waits for the connections in use until ctx ends, then
// closes those under their borrowers and names these in a
// [*providers.CloseError]. Later calls wait for the first and return the same.
//
// A connection taken from the unwrapped pool and never released keeps a
// goroutine of pgxpool's waiting for it.
func (p *Pool) Close(ctx context.Context) error {
	p.closeOnce.Do(func() {
		p.gauges.closing.Store(true)
		p.closing.Store(true)
		p.endLife(errPoolClosed)
		p.closeErr = p.drain(ctx)
		<-p.supervised
		close(p.closed)
	})
	<-p.closed
	return p.closeErr
}

// drain waits until nobody holds a connection, and closes the pool.
func (p *Pool) drain(ctx context.Context) error {
	for p.gauges.inUse.Load() > 0 {
		select {
		case <-p.gauges.drained:
		case <-ctx.Done():
			return p.closeByForce(ctx)
		}
	}
	p.pool.Close()
	return nil
}

// closeByForce takes the connections from those that still hold them.
func (p *Pool) closeByForce(ctx context.Context) error {
	holders := p.holders(math.MaxInt)
	all := true
	for _, s := range p.allSessions() {
		if l, lent := s.currentLease(); lent {
			l.evict()
		} else if _, held := s.heldBy(s.since); held {
			all = false
		}
	}
	if all {
		p.pool.Close()
	} else {
		// Only the borrower can release what came from the unwrapped pool.
		go p.pool.Close()
	}
	if len(holders) == 0 {
		return nil // the last one came back just now
	}
	return &providers.CloseError{Holders: holders, Err: context.Cause(ctx)}
}

// currentLease is the borrowing in progress, if pgkeel itself lent the
// connection.
func (s *session) currentLease() (lease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return lease{s: s, no: s.lease}, s.borrowed != nil
}

// ended is a context that has ended: what gets it does not wait.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
