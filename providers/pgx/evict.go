package pgx

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

var _ providers.Evictor = (*Pool)(nil)

// errEvicted is that of an attempt to connect that was given up.
var errEvicted = fmt.Errorf("pgkeel: the pool's connections were evicted: %w", net.ErrClosed)

// epochKey is where a connection carries its epoch until there is a session.
const epochKey = "pgkeel.epoch"

// epoch is the time between two evictions. A connection belongs to the one in
// which the attempt to make it began, and ends with it.
type epoch struct {
	ctx context.Context //nolint:containedctx // ends with the epoch
	end context.CancelFunc
}

func newEpoch() *epoch {
	e := &epoch{}
	e.ctx, e.end = context.WithCancel(context.Background())
	return e
}

func (e *epoch) over() bool { return e.ctx.Err() != nil }

// bound returns a context that ends with the epoch as well, and what frees it.
func (e *epoch) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(e.ctx, cancel)
	return ctx, func() { unhook(); cancel() }
}

// guard keeps what was learnt in one epoch, such as where to connect, from being
// of use in the next.
func (e *epoch) guard(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if e.over() {
			return nil, errEvicted
		}
		return dial(ctx, network, address)
	}
}

// epochOf is that of a connection. Only one that pgkeel made has one.
func epochOf(conn *pgx.Conn) *epoch {
	e, _ := conn.PgConn().CustomData()[epochKey].(*epoch)
	return e
}

// Evict ends every connection that there is, and every attempt to make one: idle
// ones, shared ones, those for LISTEN, and those in use, whose statements fail as
// they do when a connection is lost. Acquires go on with new connections, and
// MinSize is restored at once.
func (p *Pool) Evict() {
	if p.closing.Load() {
		return
	}
	p.nextEpoch()
	for _, s := range p.allSessions() {
		if s.isOld() {
			s.uncount()
			s.cut()
		}
	}
	for _, c := range p.takeIdle() {
		if sessionOf(c.Conn()).isOld() {
			_ = c.Conn().Close(ended())
		}
		c.Release()
	}
	p.pipelined.evict()
	p.nudge()
}

// nextEpoch ends the epoch. From here on nobody gets a connection that began in it.
func (p *Pool) nextEpoch() {
	p.sessionsMu.Lock()
	defer p.sessionsMu.Unlock()
	old := p.epoch.Swap(newEpoch())
	p.old.Store(int32(len(p.sessions))) //nolint:gosec // no more than the pool may have
	old.end()
}

// isOld reports whether the connection was evicted.
func (s *session) isOld() bool { return s.epoch != s.pool.epoch.Load() }

// prepareEvictable is prepareSession for a connection that may be evicted
// meanwhile.
func (p *Pool) prepareEvictable(ctx context.Context, conn *pgx.Conn) error {
	defer context.AfterFunc(epochOf(conn).ctx, func() { cut(conn) })()
	err := p.prepareSession(ctx, conn)
	p.doubt(ctx, opConn, err)
	return err
}

// register makes a new connection one of the pool's, unless all that began with it
// were evicted meanwhile.
func (p *Pool) register(s *session) error {
	p.sessionsMu.Lock()
	defer p.sessionsMu.Unlock()
	if s.isOld() {
		s.cut()
		return errEvicted
	}
	p.sessions[s] = struct{}{}
	return nil
}

// forget is the reverse, and reports whether it was one of the pool's.
func (p *Pool) forget(s *session) bool {
	p.sessionsMu.Lock()
	defer p.sessionsMu.Unlock()
	_, known := p.sessions[s]
	delete(p.sessions, s)
	if known && s.isOld() {
		p.old.Add(-1)
	}
	return known
}

// evicted reports whether an acquire failed because the attempt to connect that it
// waited for was evicted. It did not fail for what the next attempt may meet.
func (w *wait) evicted(err error) bool {
	e := w.dials.Load()
	if err == nil || e == nil || !e.over() || w.pool.closing.Load() {
		return false
	}
	var told interface{ Outcome() providers.Outcome } // how the wait ended
	return !errors.As(err, &told)
}
