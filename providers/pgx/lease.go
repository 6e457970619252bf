package pgx

import (
	"context"
	"runtime"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
)

// lease is one borrowing of a connection. The zero lease holds nothing.
type lease struct {
	s  *session
	no uint64
}

// borrow takes a connection of the pool for an operation.
func (p *Pool) borrow(ctx context.Context, op string, gate providers.Gate) (lease, error) {
	l, _, err := p.lend(ctx, op, gate, nil)
	return l, err
}

// borrowFor takes one for an object that stands for the borrowing: when nobody can
// reach it any more, the borrower forgot the connection.
func (p *Pool) borrowFor(ctx context.Context, op string, gate providers.Gate, object any) (lease, error) {
	l, _, err := p.lend(ctx, op, gate, object)
	return l, err
}

// borrowForRows takes one for a query, and an object for its result.
func (p *Pool) borrowForRows(ctx context.Context, gate providers.Gate) (lease, *rows, error) {
	return p.lend(ctx, opQuery, gate, nil)
}

// lend holds the session's lock once, since every statement comes this way.
func (p *Pool) lend(ctx context.Context, op string, gate providers.Gate, object any) (l lease, r *rows, err error) {
	if p.closing.Load() {
		return l, nil, errPoolClosed
	}
	if err := p.enterGate(ctx, gate); err != nil {
		return l, nil, err
	}
	w, conn, err := p.acquire(ctx)
	defer w.recycle()
	if err != nil {
		leaveGate(gate)
		return l, nil, p.acquireError(ctx, err)
	}
	stack := ""
	if p.cfg.LeakAfter > 0 && (op == opTx || op == opConn) {
		stack = callerStack()
	}
	s := w.session
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take(w.caller, p.takenAt(w), op)
	s.borrowed, s.stack, s.gate, s.anchor = conn, stack, gate, object
	if op == opQuery {
		r = s.nextRows()
	}
	return lease{s: s, no: s.lease}, r, nil
}

// acquire takes a connection out of the pool. One that was evicted while it was
// being made is made again.
func (p *Pool) acquire(ctx context.Context) (*wait, *pgxpool.Conn, error) {
	for {
		w := p.newWait(ctx)
		w.lent = true
		conn, err := p.pool.Acquire(w)
		if !w.evicted(err) {
			return w, conn, err
		}
	}
}

// The operations that a connection is taken for, as holders are named.
const (
	opQuery = "query"
	opExec  = "exec"
	opBatch = "batch"
	opCopy  = "copy"
	opTx    = "transaction"
	opConn  = "acquired connection"
	opPing  = "ping"
)

// conn is the connection underneath.
func (l lease) conn() *pgx.Conn { return l.s.conn }

// lost reports whether the connection was taken from the borrower.
func (l lease) lost() bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.s.lease != l.no
}

// release gives the connection back. Only the first of several calls, by the
// borrower, the garbage collector's clean-up or Close, has an effect.
func (l lease) release() bool {
	if l.s == nil {
		return false
	}
	l.s.mu.Lock()
	conn := l.s.borrowed
	if l.s.lease != l.no || conn == nil {
		l.s.mu.Unlock()
		return false
	}
	l.s.borrowed, l.s.returning = nil, true
	gate := l.s.takeGate()
	ended := l.s.endWatch()
	l.s.statement.ctx.Context = context.Background()
	l.s.mu.Unlock()
	ended.wait()
	conn.Release()
	leaveGate(gate)
	return true
}

// evict takes the connection from its borrower and closes the socket under it.
// Unlike release it is safe while the borrower uses the connection.
func (l lease) evict() bool {
	l.s.mu.Lock()
	conn := l.s.borrowed
	if l.s.lease != l.no || conn == nil {
		l.s.mu.Unlock()
		return false
	}
	l.s.borrowed = nil
	l.s.lease++
	gate := l.s.takeGate()
	ended := l.s.endWatch()
	l.s.mu.Unlock()
	p := l.s.pool
	_, f := p.startHook(context.Background(), providers.EventRelease, "", l.s.pid)
	conn.Hijack() // frees the place in the pool; the object stays the borrower's
	p.gone(l.s)
	l.s.returned()
	leaveGate(gate)
	l.s.cut() // ends whatever the borrower waits for
	ended.wait()
	f.End(0, nil)
	p.nudge()
	return true
}

// slabSize is how many result objects are allocated at once for a connection,
// so that a query costs no allocation for them. As many fill 2 KiB.
const slabSize = 25

// slab holds result objects. They are never reused: a borrower may keep and
// close one long after its connection went on to somebody else.
type slab struct {
	rows [slabSize]rows
	next int
}

// nextRows takes the next result object of the connection. It needs the lock.
func (s *session) nextRows() *rows {
	if s.slab == nil || s.slab.next == slabSize {
		s.slab = new(slab)
	}
	r := &s.slab.rows[s.slab.next]
	s.slab.next++
	s.anchor = s.slab
	return r
}

// anchor notes another object that stands for the borrowing from now on.
func (l lease) anchor(object any) {
	l.s.mu.Lock()
	l.s.anchor = object
	l.s.mu.Unlock()
}

// watchForgotten has the connection reclaimed once the borrower's object is
// unreachable. Watching costs something, so the supervisor only does it for
// borrowings that last. It gives up the session's own references to the
// object, after which only the borrower can reach it.
func (s *session) watchForgotten() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.borrowed == nil || s.anchor == nil || s.retired.Load() {
		// Somebody who got hold of the raw connection can use it without the
		// object that it came from.
		return
	}
	l := lease{s: s, no: s.lease}
	switch object := s.anchor.(type) {
	case *slab:
		// Objects of finished borrowings share the slab. One that a caller
		// keeps delays the reclaim, but never causes a wrong one.
		runtime.AddCleanup(object, reclaim, l)
		if s.slab == object {
			s.slab = nil
		}
	case *Tx:
		runtime.AddCleanup(object, reclaim, l)
	case *Conn:
		runtime.AddCleanup(object, reclaim, l)
	case *batchResults:
		runtime.AddCleanup(object, reclaim, l)
	}
	s.anchor = nil
	s.watched = true
}

// reclaim runs when the garbage collector has proved that nobody can use the
// borrowed object any more, so the connection is nobody's.
func reclaim(l lease) {
	// Releasing can take a round trip; the runtime's clean-ups share one goroutine.
	go func() {
		if !l.s.retired.Load() && l.release() {
			l.s.pool.gauges.reclaimed.Add(1)
			l.s.pool.logger().Warn("pgkeel: a connection came back because its borrower forgot it: " +
				"scan every QueryRow, close all rows and batch results, end every transaction")
		}
	}()
}
