package stdsql

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// The operations that a connection is taken for, as holders are named.
const (
	opQuery  = "query"
	opExec   = "exec"
	opTx     = "transaction"
	opConn   = "acquired connection"
	opPing   = "ping"
	opWarmUp = "warm-up"
)

// lease is one borrowing of a connection.
type lease struct {
	pool        *Pool
	conn        *sql.Conn
	pid         uint32
	native      bool
	op          string
	since       time.Time
	correlation string
	// gate is what it was taken through. Optional.
	gate providers.Gate
	// generation is the pool's when the connection was taken.
	generation int64

	// life ends when the connection is taken from its borrower, and with it
	// what the borrower waits for.
	life    context.Context //nolint:containedctx // the borrowing's own life
	endLife context.CancelCauseFunc

	// dirty is what statements left in the session.
	dirty atomic.Uint32
	// gone says that the connection is known to be lost.
	gone atomic.Bool
	// inTx says that a transaction of the provider's is open on it.
	inTx atomic.Bool

	mu   sync.Mutex
	over bool
}

// lend makes a lease of a connection, whose place in the pool it takes over.
func (p *Pool) lend(conn *sql.Conn, op, correlation string, gate providers.Gate) (*lease, error) {
	l := &lease{
		pool: p, conn: conn, op: op, correlation: correlation, gate: gate, since: time.Now(), generation: p.generation.Load(),
	}
	l.life, l.endLife = context.WithCancelCause(context.Background())
	err := conn.Raw(func(dc any) error {
		l.pid, l.native = about(dc)
		return nil
	})
	p.leasesMu.Lock()
	closed := p.closing.Load()
	if err == nil && !closed {
		p.leases[l] = struct{}{}
	}
	p.leasesMu.Unlock()
	switch {
	case closed:
		err = providers.ErrPoolClosed
	case err != nil: // lost between its check and now
		err = &providers.UnreachableError{Err: err}
	default:
		return l, nil
	}
	discard(conn)
	p.waiting.free()
	return nil, err
}

// isOver reports whether the connection is no longer the borrower's.
func (l *lease) isOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// finish ends the borrowing for whoever comes first.
func (l *lease) finish() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.over = true
	return true
}

// release gives the connection back.
func (l *lease) release() {
	if !l.finish() {
		return
	}
	_, f := l.pool.startHook(context.Background(), providers.EventRelease, "")
	f.SetPID(l.pid)
	l.giveBack()
	f.End(0, nil)
}

// giveBack returns the connection to the database, or closes it if it would
// bring something along.
func (l *lease) giveBack() {
	p := l.pool
	l.endLife(errTaken)
	if l.gone.Load() || l.isDirty() || l.inTx.Load() || l.generation != p.generation.Load() || p.closing.Load() && p.connector != nil {
		discard(l.conn)
	} else {
		_ = l.conn.Raw(func(dc any) error { p.trust(dc); return nil })
		_ = l.conn.Close()
	}
	p.leasesMu.Lock()
	delete(p.leases, l)
	if len(p.leases) == 0 && p.closing.Load() {
		p.noLeases()
	}
	p.leasesMu.Unlock()
	p.waiting.free()
	if l.gate != nil {
		l.gate.Leave()
	}
}

// isDirty reports whether the session must not reach the next borrower.
func (l *lease) isDirty() bool {
	d := sqltext.Effects(l.dirty.Load()) //nolint:gosec // what soil put in
	switch l.pool.cfg.SessionReset {
	case providers.ResetNever:
		d &= sqltext.Begins // which is no state of the session that one could want to keep
	case providers.ResetAlways:
		d |= sqltext.State
	default:
	}
	if d != 0 {
		l.pool.resets.Add(1)
	}
	return d != 0
}

// begunInSQL reports whether a statement began a transaction.
func (l *lease) begunInSQL() bool { return l.dirty.Load()&uint32(sqltext.Begins) != 0 }

// soil notes what a statement leaves in the session.
func (l *lease) soil(e sqltext.Effects) { l.dirty.Or(uint32(e.Left() | e&sqltext.Begins)) }

// evict takes the connection from its borrower, ends what the borrower waits for,
// and closes it. Unlike release it is safe while the borrower uses it.
func (l *lease) evict() bool {
	if !l.finish() {
		return false
	}
	_, f := l.pool.startHook(context.Background(), providers.EventRelease, "")
	f.SetPID(l.pid)
	l.gone.Store(true)
	l.endLife(errTaken)
	l.pool.background.Go(l.giveBack) // which waits for the driver
	f.End(0, nil)
	return true
}

// bound ties a statement's context to the borrowing's life.
func (l *lease) bound(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(l.life, func() { cancel(errTaken) })
	return ctx, func() { unhook(); cancel(nil) }
}

// examine finds out, after an error that is not the server's, whether the
// connection is still good.
func (l *lease) examine(err error) {
	if err == nil || l.gone.Load() {
		return
	}
	if pg := serverError(err); pg != nil {
		if severity(pg) != "ERROR" {
			l.gone.Store(true)
		}
		return
	}
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || !l.isValid() {
		l.gone.Store(true)
	}
}

// isValid asks the driver, or the server where the driver does not know.
func (l *lease) isValid() bool {
	valid, told := false, false
	err := l.conn.Raw(func(dc any) error {
		if with, ok := dc.(interface{ Conn() *pgx.Conn }); ok {
			valid, told = !with.Conn().IsClosed(), true
		} else if v, ok := dc.(driver.Validator); ok {
			valid, told = v.IsValid(), true
		}
		return nil
	})
	if err != nil || told {
		return err == nil && valid
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.pool.pingTimeout)
	defer cancel()
	return l.conn.PingContext(ctx) == nil
}

// holders describes those who hold connections, the longest first.
func (p *Pool) holders(most int) []providers.Holder {
	now := time.Now()
	p.leasesMu.Lock()
	hs := make([]providers.Holder, 0, len(p.leases))
	for l := range p.leases {
		if !l.isOver() {
			hs = append(hs, providers.Holder{PID: l.pid, Operation: l.op, Held: now.Sub(l.since), CorrelationID: l.correlation})
		}
	}
	p.leasesMu.Unlock()
	slices.SortFunc(hs, func(a, b providers.Holder) int { return cmp.Compare(b.Held, a.Held) })
	return hs[:min(len(hs), most)]
}
