package pgx

import (
	"context"
	"math"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// forceGrace is how long Close waits for connections that it closed by force to
// be gone.
const forceGrace = time.Second

// Close stops intake, waits for the connections in use until ctx ends, then
// closes those under their borrowers and names these in a
// [*providers.CloseError]. Those that were forgotten come back meanwhile. Later calls
// wait for the first and return the same.
//
// A connection taken from the unwrapped pool and never released keeps a
// goroutine of pgxpool's waiting for it.
func (p *Pool) Close(ctx context.Context) error {
	p.closeOnce.Do(func() {
		p.closing.Store(true)
		p.endLife(errPoolClosed)
		p.closeErr = p.drain(ctx)
		p.background.Wait()
	})
	return p.closeErr
}

// drain waits until every connection came back and is closed.
func (p *Pool) drain(ctx context.Context) error {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		p.pipelined.close(ctx)
		// It refuses new borrowers and closes idle connections at once.
		p.pool.Close()
	}()
	if p.awaitBorrowers(ctx, drained) {
		return nil
	}
	holders := p.holders(math.MaxInt)
	for _, s := range p.allSessions() {
		p.closeByForce(s)
	}
	select {
	case <-drained:
	case <-time.After(forceGrace):
		// What came from the unwrapped pool only its borrower can release, and
		// a peer that does not answer is left to its timeout.
	}
	if len(holders) == 0 {
		return nil // what was left came back just now
	}
	return &providers.CloseError{Holders: holders, Err: context.Cause(ctx)}
}

// awaitBorrowers waits until all is drained, or reports false when ctx ends. It
// has the supervisor's work to do meanwhile, whose time is over: what a borrower
// forgot nobody else would bring back.
func (p *Pool) awaitBorrowers(ctx context.Context, drained <-chan struct{}) bool {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var collected time.Time
	for {
		select {
		case <-drained:
			return true
		case <-ctx.Done():
			return false
		case now := <-ticker.C:
			p.watchBorrowers(now)
			p.collectForgotten(now, &collected)
		}
	}
}

// closeByForce closes a connection under its borrower.
func (p *Pool) closeByForce(s *session) {
	if l, lent := s.currentLease(); lent {
		l.evict()
	} else if _, held := s.heldBy(time.Time{}); held {
		s.cut()
	}
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
