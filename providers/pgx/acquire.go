package pgx

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
)

// gauges are the pool's counters.
type gauges struct {
	// open counts the connections fit for use, inUse those that are held or
	// asked for. While inUse does not exceed open, an idle connection waits
	// for whoever raised inUse, and acquiring takes no time to speak of.
	open, inUse atomic.Int32

	acquires, connects, connectErrors, closed atomic.Int64
	resets, reclaimed, leaks                  atomic.Int64

	// drained is told of each release while the pool closes.
	closing atomic.Bool
	drained chan struct{}
}

// released notes that a connection is held no more.
func (g *gauges) released() {
	g.inUse.Add(-1)
	if g.closing.Load() {
		select {
		case g.drained <- struct{}{}:
		default:
		}
	}
}

// wait is one caller's wait for a connection. It is the context that pgxpool
// waits with, so that the error of an ended wait can say what ended it.
type wait struct {
	context.Context //nolint:containedctx // it is a context

	pool   *Pool
	parent context.Context //nolint:containedctx // the caller's
	start  time.Time
	held   int
	mustWt bool // no idle connection was there: counts in the histogram
	place  *list.Element
	stop   func()
	firing *providers.Firing
	fail   error // set when the wait is refused before it began
	once   sync.Once
	ended  error
}

// Err is what ended the wait, as an error that says so.
func (w *wait) Err() error {
	if w.fail != nil {
		return w.fail
	}
	err := w.Context.Err()
	if err == nil {
		return nil
	}
	if errors.Is(context.Cause(w.Context), errPoolClosed) {
		return errPoolClosed
	}
	// Asked more than once; the answer must stay the same, and it is not cheap.
	w.once.Do(func() { w.ended = w.pool.waitEnded(w, err) })
	return w.ended
}

// waiting are the callers that wait.
type waiting struct {
	mu   sync.Mutex
	line list.List // of *wait, the oldest first
	// nested is how many connections are held by the callers that wait.
	nested int
	counts providers.WaitHistogram
}

// internal marks an acquire of pgkeel's own, which statistics leave out.
type internal struct{ context.Context } //nolint:containedctx // it is a context

// acquireStart runs before pgxpool looks for a connection.
func (p *Pool) acquireStart(ctx context.Context) context.Context {
	if p.closing.Load() {
		return refused(ctx, errPoolClosed)
	}
	if _, ok := ctx.(internal); ok {
		p.gauges.inUse.Add(1)
		return ctx
	}
	atOnce := p.gauges.inUse.Add(1) <= p.gauges.open.Load()
	if atOnce && !p.observed(providers.EventAcquire) {
		return ctx
	}
	return p.beginWait(ctx, !atOnce)
}

func refused(ctx context.Context, err error) *wait {
	done, cancel := context.WithCancel(ctx)
	cancel()
	return &wait{Context: done, parent: ctx, fail: err}
}

func (p *Pool) beginWait(ctx context.Context, mustWait bool) context.Context {
	w := &wait{pool: p, parent: ctx, start: time.Now(), mustWt: mustWait}
	ctx, w.firing = p.hooks.Start(ctx, providers.HookInfo{Event: providers.EventAcquire})
	if mustWait {
		w.held = providers.Held(ctx, p)
		if !p.waiting.enter(w, int(p.maxConns)) {
			failed := refused(ctx, providers.ErrNestedAcquire)
			failed.pool, failed.firing = p, w.firing
			failed.start, failed.mustWt = w.start, false
			return failed
		}
	}
	w.Context, w.stop = p.limitWait(ctx)
	return w
}

// limitWait bounds a wait by the acquire timeout and by the pool's end.
func (p *Pool) limitWait(ctx context.Context) (context.Context, func()) {
	limited, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(p.life, func() { cancel(errPoolClosed) })
	stop := func() { unhook(); cancel(nil) }
	if p.acquireTimeout <= 0 {
		return limited, stop
	}
	timed, cancelTimer := context.WithTimeoutCause(limited, p.acquireTimeout, errAcquireTimeout)
	return timed, func() { cancelTimer(); stop() }
}

// enter joins the line, unless that would complete a deadlock: every
// connection held by callers that wait for another one. It is exact: as long
// as one holder does not wait, there is hope.
func (q *waiting) enter(w *wait, maxConns int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.held > 0 && q.nested+w.held >= maxConns {
		return false
	}
	q.nested += w.held
	w.place = q.line.PushBack(w)
	return true
}

func (q *waiting) leave(w *wait, outcome providers.WaitOutcome) {
	took := time.Since(w.start)
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place != nil {
		q.line.Remove(w.place)
		q.nested -= w.held
		w.place = nil
	}
	bucket := 0
	for bucket < len(providers.WaitBuckets) && took > providers.WaitBuckets[bucket] {
		bucket++
	}
	q.counts.Counts[outcome][bucket]++
	q.counts.Total[outcome] += took
}

// oldest returns how many wait, and since when the first of them.
func (q *waiting) oldest() (n int64, since time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if front := q.line.Front(); front != nil {
		since = front.Value.(*wait).start
	}
	return int64(q.line.Len()), since
}

// acquireEnd runs when pgxpool found a connection, or did not.
func (p *Pool) acquireEnd(ctx context.Context, data pgxpool.TraceAcquireEndData) {
	w, waited := ctx.(*wait)
	if data.Conn != nil {
		holder := ctx
		if waited {
			holder = w.parent
		}
		sessionOf(data.Conn).taken(holder, time.Now())
	}
	if waited && w.pool == nil { // refused before it was counted
		return
	}
	if _, ok := ctx.(internal); !ok && data.Err == nil {
		p.gauges.acquires.Add(1)
	}
	if waited {
		p.endWait(w, data)
	}
	if data.Err != nil {
		p.gauges.released()
	}
}

func (p *Pool) endWait(w *wait, data pgxpool.TraceAcquireEndData) {
	if w.mustWt {
		p.waiting.leave(w, waitOutcome(data.Err))
	}
	if w.stop != nil {
		w.stop()
	}
	if data.Conn != nil {
		w.firing.SetPID(data.Conn.PgConn().PID())
	}
	w.firing.End(0, p.acquireError(w.parent, data.Err))
}

func waitOutcome(err error) providers.WaitOutcome {
	var connect *pgconn.ConnectError
	switch {
	case err == nil:
		return providers.WaitAcquired
	case errors.Is(err, providers.ErrPoolExhausted):
		return providers.WaitExhausted
	case errors.Is(err, providers.ErrUnreachable), errors.As(err, &connect):
		return providers.WaitUnreachable
	default:
		return providers.WaitCanceled
	}
}

// waitEnded says why a wait was in vain: every connection was in use, or the
// one being made did not come about.
func (p *Pool) waitEnded(w *wait, cause error) error {
	waited := time.Since(w.start)
	limit := limitContext
	if errors.Is(context.Cause(w.Context), errAcquireTimeout) {
		limit = limitAcquire
	}
	stat := p.pool.Stat()
	if stat.AcquiredConns() >= stat.MaxConns() || stat.AcquiredConns() >= stat.TotalConns() && stat.ConstructingConns() == 0 {
		waiters, _ := p.waiting.oldest()
		return &providers.ExhaustedError{
			Waited: waited, Limit: limit, MaxSize: stat.MaxConns(), Waiters: max(waiters, 1),
			Holders: p.holders(maxHolders), Err: cause,
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
