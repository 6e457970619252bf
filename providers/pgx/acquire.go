package pgx

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
)

// gauges are the pool's counters.
type gauges struct {
	// open counts the connections fit for use.
	open atomic.Int32

	acquires, connects, connectErrors, closed atomic.Int64
	resets, reclaimed, leaks                  atomic.Int64
}

// wait is the context that pgxpool acquires a connection with. It knows when
// the acquire has to wait: pgxpool asks for Done once, ahead of everything, to
// see whether the context has ended, and again only when there is something to
// wait for (a connection that comes back, one that is made, a ping). From then
// on the wait is counted, bounded, and its error says what ended it. An acquire
// that is served at once costs an atomic counter.
type wait struct {
	context.Context //nolint:containedctx // it is a context: the caller's, with what hooks added

	pool   *Pool
	caller context.Context //nolint:containedctx // as the caller gave it
	// own marks an acquire of pgkeel's own, which statistics leave out.
	own    bool
	onDial func()
	// lent marks an acquire by borrow, which then notes the borrowing itself.
	lent bool
	// session is that of the connection that came of it.
	session *session
	firing  *providers.Firing
	asked   atomic.Int32
	// dials is the epoch of the attempt to connect that it began, if it did.
	dials atomic.Pointer[epoch]

	// What follows is set once the wait begins.

	begin   sync.Once
	begun   bool
	start   time.Time
	over    time.Time
	held    int
	place   *list.Element
	limited context.Context //nolint:containedctx // bounds the wait
	stop    func()
	refused bool
	end     sync.Once
	ended   error
}

// waits holds those that never waited, for the next.
var waits = sync.Pool{New: func() any { return new(wait) }}

type waitKey struct{}

// Value finds the wait itself, from inside the connecting that it began.
func (w *wait) Value(key any) any {
	if key == (waitKey{}) {
		return w
	}
	return w.Context.Value(key)
}

// Deadline hides the caller's: pgxpool would hand it to the ping of an idle
// connection, and close a healthy connection because its borrower was in a
// hurry. The ping has its own limit, and the wait ends by Done.
func (w *wait) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done is closed when the wait must end.
func (w *wait) Done() <-chan struct{} {
	if w.asked.Add(1) == 1 {
		return w.Context.Done()
	}
	w.begin.Do(w.beginWait)
	return w.limited.Done()
}

// Err is what ended the wait, as an error that says so.
func (w *wait) Err() error {
	if w.asked.Load() <= 1 {
		return w.Context.Err()
	}
	w.begin.Do(w.beginWait)
	if w.refused {
		return providers.ErrNestedAcquire
	}
	err := w.limited.Err()
	if err == nil {
		return nil
	}
	// Asked more than once; the answer must stay the same, and it is not cheap.
	w.end.Do(func() { w.ended = w.pool.waitEnded(w, err) })
	return w.ended
}

func (w *wait) beginWait() {
	w.begun, w.start = true, time.Now()
	if !w.own {
		w.held = providers.Held(w.Context, w.pool)
		if !w.pool.waiting.enter(w, int(w.pool.maxConns)) {
			w.refused = true
			w.limited = ended()
			return
		}
	}
	w.limited, w.stop = w.pool.limitWait(w)
}

// waiting are the callers that wait.
type waiting struct {
	mu   sync.Mutex
	line list.List // of *wait, the oldest first
	// nested is how many connections are held by the callers that wait.
	nested int
	counts providers.WaitHistogram
}

// internal marks an acquire of pgkeel's own. onDial, if set, is called when it
// begins to make a connection.
type internal struct {
	context.Context //nolint:containedctx // it is a context
	onDial          func()
}

func (p *Pool) newWait(ctx context.Context) *wait {
	w := waits.Get().(*wait)
	w.pool, w.Context, w.caller = p, ctx, ctx
	if own, ok := ctx.(internal); ok {
		w.own, w.onDial = true, own.onDial
	}
	return w
}

// acquireStart runs before pgxpool looks for a connection. The user's tracer
// has had its turn, unless the acquire is pgkeel's own.
func (p *Pool) acquireStart(w *wait) {
	if !w.own && p.observed(providers.EventAcquire) {
		w.Context, w.firing = p.hooks.Start(w.caller, providers.HookInfo{Event: providers.EventAcquire})
	}
}

// limitWait bounds a wait by the acquire timeout and by the pool's end.
func (p *Pool) limitWait(w *wait) (context.Context, func()) {
	limited, cancel := context.WithCancelCause(w.Context)
	unhook := context.AfterFunc(p.life, func() { cancel(errPoolClosed) })
	stop := func() { unhook(); cancel(nil) }
	if p.acquireTimeout <= 0 || w.own {
		return limited, stop
	}
	timed, cancelTimer := context.WithTimeoutCause(limited, p.acquireTimeout, errAcquireTimeout)
	return timed, func() { cancelTimer(); stop() }
}

// beforeConnect runs when a connection begins to be made, on behalf of the wait
// in the context if there is one.
func (p *Pool) beforeConnect(ctx context.Context, config *pgx.ConnConfig) error {
	if ctx.Value(startupKey{}) != nil {
		return errStartup
	}
	w, _ := ctx.Value(waitKey{}).(*wait)
	if w != nil && w.onDial != nil {
		w.onDial()
	}
	for {
		e := p.epoch.Load()
		if w != nil {
			w.dials.Store(e)
		}
		if err := p.route(ctx, config); err != nil {
			return err
		}
		if !e.over() {
			config.DialFunc = e.guard(config.DialFunc)
			return nil
		}
	}
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
	took := w.over.Sub(w.start)
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
func (p *Pool) acquireEnd(w *wait, data pgxpool.TraceAcquireEndData) {
	if w.begun {
		p.endWait(w, data.Err)
	}
	if data.Conn != nil {
		w.session = sessionOf(data.Conn)
		w.session.pinging = false
		w.firing.SetPID(w.session.pid)
		if !w.lent {
			w.session.taken(w.caller, p.takenAt(w), w.own)
		}
	}
	if data.Err == nil && !w.own {
		p.gauges.acquires.Add(1)
	}
	if w.firing != nil {
		w.firing.End(0, p.acquireError(w.Context, data.Err))
	}
}

// takenAt is when a connection was taken, if that is known: asking the clock
// costs a noticeable part of an acquire. Where nobody looks for leaks, the
// supervisor notes the time of those that last.
func (p *Pool) takenAt(w *wait) time.Time {
	if w.over.IsZero() && p.cfg.LeakAfter > 0 {
		return time.Now()
	}
	return w.over
}

func (p *Pool) endWait(w *wait, err error) {
	w.over = time.Now()
	if w.place != nil {
		p.waiting.leave(w, waitOutcome(err))
	}
	if w.stop != nil {
		w.stop()
	}
}

// recycle keeps the wait for the next, unless somebody else may have seen it.
func (w *wait) recycle() {
	if w.begun {
		return
	}
	w.Context, w.pool, w.caller, w.own, w.onDial, w.firing = nil, nil, nil, false, nil, nil
	w.lent, w.session = false, nil
	w.asked.Store(0)
	waits.Put(w)
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

// waitEnded says why a wait was in vain: the caller called it off, the pool was
// closed, every connection was in use, or the one being made did not come about.
func (p *Pool) waitEnded(w *wait, cause error) error {
	why := context.Cause(w.limited)
	switch {
	case errors.Is(why, errPoolClosed):
		return errPoolClosed
	case errors.Is(cause, context.Canceled):
		return &providers.TimeoutError{Operation: "acquire", Limit: limitCanceled, Err: &notSentError{cause}, Context: cause}
	}
	limit := limitOf(w.limited)
	if errors.Is(why, errAcquireTimeout) {
		limit = limitAcquire
	}
	waited := time.Since(w.start)
	holders := p.holders(maxHolders)
	if p.noneCameBack(w, holders) {
		waiters, _ := p.waiting.oldest()
		return &providers.ExhaustedError{
			Waited: waited, Limit: limit, MaxSize: p.maxConns, Waiters: max(waiters, 1),
			Holders: holders, Err: cause,
		}
	}
	reason := p.lastDialError()
	switch {
	case p.routes.asking.Load() > 0:
		reason = errNoRoute
	case reason == nil:
		reason = errors.New("the server did not answer in time")
	}
	return &providers.UnreachableError{Waited: waited, Err: errors.Join(reason, cause)}
}

// noneCameBack tells a wait for a connection in use from one for a connection
// being made, which means that the server cannot be reached.
func (p *Pool) noneCameBack(w *wait, holders []providers.Holder) bool {
	if w.dials.Load() != nil || len(holders) == 0 {
		return false
	}
	return p.pool.Stat().ConstructingConns() == 0 || p.lastDialError() == nil && p.routes.asking.Load() == 0
}

// maxHolders is how many holders an error names.
const maxHolders = 5
