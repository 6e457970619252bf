package stdsql

import (
	"container/list"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"reflect"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// trusted is how long a connection may be idle and still be used unasked.
const trusted = time.Second

// waiting are the callers that wait, and the places that are free. The line is
// the provider's own, as database/sql does not tell a wait for a connection in
// use from one for a connection being made.
type waiting struct {
	mu sync.Mutex
	// size is how many places there are; 0 is no limit.
	size, taken int
	line        list.List // of *waiter, the oldest first
	// nested is how many connections are held by the callers that wait.
	nested int
	counts providers.WaitHistogram
}

type waiter struct {
	ready chan struct{}
	start time.Time
	held  int
	place *list.Element
}

// enter takes a place, or joins the line: then the waiter is not nil. It refuses
// what would complete a deadlock: every connection held by callers that wait for
// another one. As long as one holder does not wait, there is hope.
func (q *waiting) enter(held int) (*waiter, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size == 0 || q.taken < q.size {
		q.taken++
		return nil, nil
	}
	if held > 0 && q.nested+held >= q.size {
		return nil, providers.ErrNestedAcquire
	}
	w := &waiter{ready: make(chan struct{}), start: time.Now(), held: held}
	q.nested += held
	w.place = q.line.PushBack(w)
	return w, nil
}

// leave ends a wait that was in vain. It reports false where the place was
// handed over in the same moment.
func (q *waiting) leave(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place == nil {
		return false
	}
	q.line.Remove(w.place)
	q.nested -= w.held
	w.place = nil
	return true
}

// free gives a place to the first in line.
func (q *waiting) free() {
	q.mu.Lock()
	defer q.mu.Unlock()
	front := q.line.Front()
	if front == nil {
		q.taken--
		return
	}
	w := q.line.Remove(front).(*waiter)
	q.nested -= w.held
	w.place = nil
	close(w.ready)
}

// count notes how a wait ended.
func (q *waiting) count(outcome providers.WaitOutcome, took time.Duration) {
	bucket := 0
	for bucket < len(providers.WaitBuckets) && took > providers.WaitBuckets[bucket] {
		bucket++
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counts.Counts[outcome][bucket]++
	q.counts.Total[outcome] += took
}

// oldest returns how many wait, and for how long the first of them.
func (q *waiting) oldest() (n int64, waited time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if front := q.line.Front(); front != nil {
		waited = max(time.Since(front.Value.(*waiter).start), 1)
	}
	return int64(q.line.Len()), waited
}

// attempt is one acquire under way.
type attempt struct {
	pool   *Pool
	ctx    context.Context //nolint:containedctx // that of the acquire, which this is
	start  time.Time
	queued bool
	dialed bool
}

// borrow takes a connection for an operation, through the gate of its scope if
// there is one.
func (p *Pool) borrow(ctx context.Context, op string, gate providers.Gate) (l *lease, err error) {
	if p.closing.Load() {
		return nil, providers.ErrPoolClosed
	}
	if gate != nil {
		if err := p.enterGate(ctx, gate); err != nil {
			return nil, err
		}
		defer func() {
			if l == nil { // else it leaves when the connection goes back
				gate.Leave()
			}
		}()
	}
	ctx, f := p.startHook(ctx, providers.EventAcquire, "")
	l, err = p.acquire(ctx, op, gate)
	if err == nil {
		f.SetPID(l.pid)
	}
	f.End(0, err)
	return l, err
}

func (p *Pool) acquire(ctx context.Context, op string, gate providers.Gate) (*lease, error) {
	if ctx.Err() != nil {
		return nil, notSent(ctx, "acquire", ctx.Err())
	}
	limited, stop := p.limitWait(ctx)
	defer stop()
	a := &attempt{pool: p, ctx: limited, start: time.Now()}
	conn, err := a.run(providers.Held(ctx, p))
	if err != nil {
		if !errors.Is(err, providers.ErrNestedAcquire) {
			p.waiting.count(waitOutcome(err), time.Since(a.start))
		}
		return nil, err
	}
	if a.queued || a.dialed {
		p.waiting.count(providers.WaitAcquired, time.Since(a.start))
	}
	if op != opWarmUp {
		p.acquires.Add(1)
	}
	correlation, _ := providers.GetCorrelationID(ctx)
	return p.lend(conn, op, correlation, gate)
}

// limitWait bounds a wait by the acquire timeout and by the pool's end.
func (p *Pool) limitWait(ctx context.Context) (context.Context, func()) {
	limited, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(p.life, func() { cancel(providers.ErrPoolClosed) })
	stop := func() { unhook(); cancel(nil) }
	timeout := providers.OrDefault(p.cfg.AcquireTimeout, providers.DefaultAcquireTimeout, 0)
	if timeout == 0 {
		return limited, stop
	}
	timed, cancelTimer := context.WithTimeoutCause(limited, timeout, errAcquireTimeout)
	return timed, func() { cancelTimer(); stop() }
}

func (a *attempt) run(held int) (*sql.Conn, error) {
	p := a.pool
	w, err := p.waiting.enter(held)
	if err != nil {
		return nil, err
	}
	if w != nil {
		a.queued = true
		select {
		case <-w.ready:
		case <-a.ctx.Done():
			if p.waiting.leave(w) {
				return nil, a.ended(a.ctx.Err(), true)
			}
			p.waiting.free()
			return nil, a.ended(a.ctx.Err(), false)
		}
	}
	return a.take() // from here on it owns the place
}

// take takes a connection of the database that is alive.
func (a *attempt) take() (*sql.Conn, error) {
	for {
		conn, abandoned, err := a.connect()
		if err != nil {
			if !abandoned {
				a.pool.waiting.free()
			}
			return nil, a.failed(err)
		}
		if a.isAlive(conn) {
			return conn, nil
		}
		discard(conn)
		if a.ctx.Err() != nil {
			a.pool.waiting.free()
			return nil, a.ended(a.ctx.Err(), false)
		}
	}
}

// connect asks the database for a connection, on a goroutine of its own when it
// may have to make one: not every driver stops with its context. An attempt that
// was abandoned keeps its place until it ends.
func (a *attempt) connect() (conn *sql.Conn, abandoned bool, err error) {
	p := a.pool
	if p.db.Stats().Idle > 0 {
		conn, err = p.db.Conn(a.ctx)
		return conn, false, err
	}
	a.dialed = true
	type result struct {
		conn *sql.Conn
		err  error
	}
	made := make(chan result, 1)
	go func() {
		conn, err := p.db.Conn(a.ctx)
		made <- result{conn, err}
	}()
	select {
	case r := <-made:
		return r.conn, false, r.err
	case <-a.ctx.Done():
	}
	go func() {
		if r := <-made; r.err == nil {
			_ = r.conn.Close() // back to the database
		}
		p.waiting.free()
	}()
	return nil, true, a.ctx.Err()
}

// isAlive pings a connection that was idle for long, with a limit of its own: a
// caller in a hurry must not cost a healthy connection.
func (a *attempt) isAlive(conn *sql.Conn) bool {
	known := false
	err := conn.Raw(func(dc any) error {
		known = a.pool.isTrusted(dc)
		return nil
	})
	if err != nil || known {
		return err == nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), a.pool.pingTimeout)
	defer cancel()
	return conn.PingContext(ctx) == nil
}

// failed makes the error of a connection that could not be had.
func (a *attempt) failed(err error) error {
	if a.ctx.Err() != nil {
		return a.ended(a.ctx.Err(), false)
	}
	if a.pool.connector == nil {
		err = a.pool.dialed(err)
	}
	if errors.Is(err, sql.ErrConnDone) || a.pool.closing.Load() {
		return providers.ErrPoolClosed
	}
	return &providers.UnreachableError{Waited: time.Since(a.start), Err: err}
}

// ended says why a wait was in vain: the caller called it off, the pool was
// closed, every connection was in use, or the one being made did not come about.
func (a *attempt) ended(cause error, inLine bool) error {
	p, why := a.pool, context.Cause(a.ctx)
	limit := limitContext
	switch {
	case errors.Is(why, providers.ErrPoolClosed):
		return providers.ErrPoolClosed
	case errors.Is(cause, context.Canceled):
		return notSent(a.ctx, "acquire", cause)
	case errors.Is(why, errAcquireTimeout):
		limit = limitAcquire
	}
	waited := time.Since(a.start)
	if holders := p.holders(maxHolders); len(holders) > 0 && inLine || p.heldByOthers() {
		waiters, _ := p.waiting.oldest()
		return &providers.ExhaustedError{
			Waited: waited, Limit: limit, MaxSize: p.maxSize, Waiters: waiters + 1, Holders: holders, Err: cause,
		}
	}
	reason := p.lastDialError()
	if reason == nil {
		reason = errors.New("the server did not answer in time")
	}
	return &providers.UnreachableError{Waited: waited, Err: errors.Join(reason, cause)}
}

// maxHolders is how many holders an error names.
const maxHolders = 5

// heldByOthers reports that the database's connections are in use by code that
// goes past the provider.
func (p *Pool) heldByOthers() bool {
	if p.connector != nil {
		return false
	}
	p.waiting.mu.Lock()
	taken := p.waiting.taken
	p.waiting.mu.Unlock()
	st := p.db.Stats()
	return st.MaxOpenConnections > 0 && st.InUse >= st.MaxOpenConnections && st.InUse >= taken && st.WaitCount > 0
}

func waitOutcome(err error) providers.WaitOutcome {
	switch {
	case errors.Is(err, providers.ErrPoolExhausted):
		return providers.WaitExhausted
	case errors.Is(err, providers.ErrUnreachable):
		return providers.WaitUnreachable
	default:
		return providers.WaitCanceled
	}
}

// trust notes that a connection was just used, or made.
func (p *Pool) trust(dc any) {
	if !reflect.TypeOf(dc).Comparable() {
		return
	}
	p.recentMu.Lock()
	defer p.recentMu.Unlock()
	now := time.Now()
	if len(p.recent) > 64 {
		for other, at := range p.recent {
			if now.Sub(at) > trusted {
				delete(p.recent, other)
			}
		}
	}
	p.recent[dc] = now
}

// isTrusted reports whether a connection can be used without a ping. It forgets
// the connection until its return.
func (p *Pool) isTrusted(dc any) bool {
	if !reflect.TypeOf(dc).Comparable() {
		return false
	}
	p.recentMu.Lock()
	defer p.recentMu.Unlock()
	at, seen := p.recent[dc]
	delete(p.recent, dc)
	return seen && time.Since(at) <= trusted
}

// about tells what is known of a driver's connection: the server's process, and
// whether the driver is pgx, which takes every argument that pgx takes.
func about(dc any) (pid uint32, native bool) {
	with, ok := dc.(interface{ Conn() *pgx.Conn })
	if !ok {
		return 0, false
	}
	return with.Conn().PgConn().PID(), true
}

// discard closes a connection instead of returning it to the database.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = conn.Close()
}
