package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Session is a connection to the server that the engine has for itself.
type Session struct {
	// Conn is the socket, in the state between two statements.
	Conn net.Conn
	// PID is the server's process.
	PID uint32
	// Types are those that are registered for the connection.
	Types *pgtype.Map
	// StatementTimeout is the session's own, in milliseconds; 0 for none.
	StatementTimeout int64
	// RoundTrip is how long one took while connecting, at most.
	RoundTrip time.Duration
	// Cancel asks the server to stop what the session does.
	Cancel func(ctx context.Context) error
	// Evicted reports that the connection was made before an eviction, and ends
	// with it.
	Evicted func() bool
	// Close ends the connection, also under somebody who uses it.
	Close func()
}

// Options are the engine's limits. All must be set.
type Options struct {
	// Connections are those for whatever may write, ReadConnections those whose
	// session is read-only. Each is opened when it is first of use.
	Connections, ReadConnections int
	// MaxInFlight is how many statements a connection has queued or unanswered.
	MaxInFlight int
	// MaxGroup is how many reads share a Sync.
	MaxGroup int
	// MaxRequestBytes is how many bytes of statements a connection has queued or
	// unanswered. The socket's send buffer must hold them.
	MaxRequestBytes int
	// MaxResultBytes is how much of a read's result is kept.
	MaxResultBytes int
	// MaxStatements is how many statements are prepared.
	MaxStatements int
	// SlowAfter is the average time from which on a statement is left to others,
	// the round trip left out.
	SlowAfter time.Duration
	// MaxLifetime and MaxIdleTime end a connection; PingAfter is how long an
	// idle one is trusted, PingTimeout how long its answer may take.
	MaxLifetime, MaxIdleTime, PingAfter, PingTimeout time.Duration
	// Room is how many statements could be run elsewhere at once, Waited how long the
	// first of those has waited that wait to be.
	Room   func() int
	Waited func() time.Duration
	// Dial makes a session.
	Dial func(ctx context.Context, readOnly bool) (*Session, error)
	// Failed hears why a session could not be made, or was lost.
	Failed func(err error)
}

// ErrElsewhere means that the statement should run on a connection of its own:
// it does not fit, or none takes it now. Either it was not sent, or it was a
// read, so that running it again is safe.
var ErrElsewhere = errors.New("pipeline: to be run elsewhere")

// NotSentError is the end of a context before its statement was sent.
type NotSentError struct{ Cause error }

func (e *NotSentError) Error() string { return e.Cause.Error() + "; nothing was sent" }

// Unwrap returns the context's error.
func (e *NotSentError) Unwrap() error { return e.Cause }

// LostError means that the connection died after the statement was sent.
type LostError struct{ Cause error }

func (e *LostError) Error() string {
	return "the connection was lost after the statement was sent: " + e.Cause.Error()
}

// Unwrap returns what ended the connection.
func (e *LostError) Unwrap() error { return e.Cause }

// TooLargeError means that a statement which may have written returned more
// than is kept. It was not rolled back.
type TooLargeError struct{ Limit int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the statement succeeded, but returned more than the %d bytes that are kept of a pipelined result", e.Limit)
}

// Statement is what the engine is asked to run.
type Statement struct {
	SQL  string
	Args []any
	// ReadOnly runs it in a session that cannot write.
	ReadOnly bool
	// NoRows says that nobody looks at the rows.
	NoRows bool
	// Settings are names and values in turns, in force for this statement only.
	// None of them may change what names in the statement mean.
	Settings []string
	// Sending runs right before the statement is sent, each time that it is.
	// Optional.
	Sending func()

	// known is what Knows found.
	known *statement
}

// Engine shares connections among concurrent callers. It is safe for
// concurrent use.
type Engine struct {
	opts       Options
	setters    [maxSettings + 1]*statement
	limiter    *statement
	statements statements
	codecs     sync.Pool
	types      atomic.Pointer[pgtype.Map]
	began      time.Time
	stats      stats
	// passed counts what got on: segments here, statements elsewhere.
	passed atomic.Int64

	write, read []slot

	life    context.Context //nolint:containedctx // the engine's own life
	end     context.CancelFunc
	closing atomic.Bool
	// running is what Close waits for. Nothing is added once over is set.
	running  sync.WaitGroup
	starting sync.Mutex
	over     bool
	// watching says that the watch goroutine is awake.
	watching atomic.Bool
	watchNow chan struct{}
}

// New makes an engine. It connects when it is first used.
func New(o Options) *Engine {
	e := &Engine{
		opts: o, setters: setters(), limiter: newLimiter(), statements: statements{bound: o.MaxStatements}, began: time.Now(),
		write: make([]slot, o.Connections), read: make([]slot, o.ReadConnections),
		watchNow: make(chan struct{}, 1),
	}
	e.life, e.end = context.WithCancel(context.Background())
	e.running.Go(e.watch)
	return e
}

// now is the time since the engine began, never 0. It costs half of what the time of
// day does, and can be kept without a lock.
func (e *Engine) now() time.Duration { return time.Since(e.began) + 1 }

// Knows reports whether a statement was run before. Do need not look for it then.
func (e *Engine) Knows(st *Statement) bool {
	st.known = e.statements.get(st.SQL)
	return st.known != nil
}

// tries bounds how often a statement that was skipped is sent again.
const tries = 3

// Do runs a statement and returns its result, which must be released. An error
// of the server is part of the result.
func (e *Engine) Do(ctx context.Context, st Statement) (Result, error) {
	if len(st.Settings) > 2*maxSettings {
		return Result{}, ErrElsewhere
	}
	if err := ctx.Err(); err != nil {
		return Result{}, &NotSentError{err}
	}
	s := st.known
	for try := range tries {
		if s == nil || try > 0 {
			s = e.statements.get(st.SQL)
		}
		r, err := e.try(ctx, &st, s, try > 0)
		if err != nil {
			return Result{}, err
		}
		if r == nil {
			continue
		}
		if r.verdict == skipped {
			e.stats.again.Add(1)
			continue
		}
		return e.result(r, st.ReadOnly)
	}
	return Result{}, ErrElsewhere
}

// result makes a result of a request that ended.
func (e *Engine) result(r *request, readOnly bool) (Result, error) {
	switch {
	case r.verdict == moved:
		r.recycle()
		e.stats.moved.Add(1)
		return Result{}, ErrElsewhere
	case r.verdict == lost:
		err := &LostError{r.err}
		r.recycle()
		return Result{}, err
	case r.overflow && readOnly:
		r.recycle()
		e.stats.large.Add(1)
		return Result{}, ErrElsewhere
	case r.overflow && r.err == nil:
		r.recycle()
		return Result{}, &TooLargeError{e.opts.MaxResultBytes * writeFactor}
	}
	return Result{request: r, codec: e.codec()}, nil
}

// try sends a statement once; s is what is known of it, or nil. It returns nil where
// the statement first had to be described, and that was in vain.
func (e *Engine) try(ctx context.Context, st *Statement, s *statement, solo bool) (*request, error) {
	if s != nil && (s.large.Load() || s.isSlow(e.slowLimit())) {
		e.stats.slow.Add(1)
		return nil, ErrElsewhere
	}
	c := e.pick(ctx, st.ReadOnly)
	if c == nil {
		e.stats.full.Add(1)
		return nil, ErrElsewhere
	}
	if s != nil && e.isBetterBeside(s, c) {
		e.stats.slow.Add(1)
		return nil, ErrElsewhere
	}
	known := s != nil && !s.isDoubted()
	if !known {
		var err error
		if s, err = e.describe(ctx, c, st.SQL); s == nil || err != nil {
			return nil, err
		}
	}
	r := requests.Get().(*request)
	r.kind, r.statement, r.noRows, r.solo = kindExec, s, st.NoRows, solo
	if err := e.encode(r, s, st.Args); err != nil {
		r.recycle()
		if known && isMisfit(err) {
			s.doubted.Store(true)
			return nil, nil
		}
		return nil, err
	}
	e.limit(ctx, c, r, st.Settings)
	if st.Sending != nil && c.hasRoom(r) {
		st.Sending()
	}
	return e.send(ctx, c, r)
}

// isMisfit reports arguments that cannot be encoded as what the statement was
// described for.
func isMisfit(err error) bool {
	var notSent *NotSentError
	return !errors.Is(err, ErrElsewhere) && !errors.As(err, &notSent)
}

// send submits a request and waits for its end.
func (e *Engine) send(ctx context.Context, c *conn, r *request) (*request, error) {
	if !c.submit(r) {
		r.recycle()
		e.stats.full.Add(1)
		return nil, ErrElsewhere
	}
	e.wakeWatch()
	if err := c.await(ctx, r); err != nil {
		return nil, err
	}
	return r, nil
}

// slowLimit is the service time from which on a statement has a connection for
// itself.
func (e *Engine) slowLimit() time.Duration {
	return e.opts.SlowAfter + time.Duration(e.stats.roundTrip.Load())
}

// encode makes the bytes of a request.
func (e *Engine) encode(r *request, s *statement, args []any) error {
	if len(args) != len(s.paramOIDs) {
		return &NotSentError{fmt.Errorf("expected %d arguments, got %d", len(s.paramOIDs), len(args))}
	}
	c := e.codec()
	defer c.release()
	var err error
	if r.bind, err = c.encode(r.bind[:0], s, args); err != nil {
		return err
	}
	r.size = len(r.bind)
	if r.size+len(s.sql) > e.opts.MaxRequestBytes {
		return ErrElsewhere
	}
	return nil
}

// limit writes the settings and what is left of the deadline on a request. Of two
// limits the shorter one counts.
func (e *Engine) limit(ctx context.Context, c *conn, r *request, settings []string) {
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		r.hasty = left < hastyWithin
		if r.limit = limitFor(left); c.session.StatementTimeout > 0 && c.session.StatementTimeout <= r.limit {
			r.limit = 0
		}
		settings = within(settings, left)
	}
	r.settings = settings
	for i := 0; i < len(settings); i += 2 {
		r.ownLimit = r.ownLimit || settings[i] == statementTimeout
		r.size += len(settings[i]) + len(settings[i+1])
	}
}

// codec is one that nobody else uses, with the types of the newest connection.
func (e *Engine) codec() *codec {
	types := e.types.Load()
	if c, ok := e.codecs.Get().(*codec); ok && c.source == types {
		return c
	}
	return &codec{home: &e.codecs, source: types, types: types.Copy()}
}
