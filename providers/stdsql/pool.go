package stdsql

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// Pool is a pool of connections of database/sql.
type Pool struct {
	cfg   providers.Config
	hooks *providers.HookManager
	db    *sql.DB
	// connector is what makes the connections; nil over a *sql.DB of the
	// caller's.
	connector   *connector
	maxSize     int32
	pingTimeout time.Duration
	types       sync.Pool // of *pgtype.Map, which one result uses at a time

	waiting  waiting
	dialing  atomic.Int32
	lastDial atomic.Pointer[dialResult]

	acquires, connects, connectErrors, resets atomic.Int64
	// generation counts the resets of the pool.
	generation atomic.Int64

	recentMu sync.Mutex
	recent   map[any]time.Time

	leasesMu sync.Mutex
	leases   map[*lease]struct{}

	// life ends when Close begins; background is what Close waits for.
	life       context.Context //nolint:containedctx // the pool's own life
	endLife    context.CancelCauseFunc
	closing    atomic.Bool
	closeOnce  sync.Once
	closeErr   error
	drained    chan struct{}
	isDrained  bool
	background sync.WaitGroup
}

var _ providers.Pool = (*Pool)(nil)

func newPool(cfg providers.Config) *Pool {
	p := &Pool{
		cfg: cfg, hooks: cfg.Hooks, pingTimeout: providers.OrDefault(cfg.PingTimeout, providers.DefaultPingTimeout, 0),
		recent: map[any]time.Time{}, leases: map[*lease]struct{}{}, drained: make(chan struct{}),
	}
	p.types.New = func() any { return pgtype.NewMap() }
	p.life, p.endLife = context.WithCancelCause(context.Background())
	return p
}

// setSize sets how many connections there are; 0 is no limit.
func (p *Pool) setSize(n int) {
	p.maxSize = int32(min(n, 1<<30)) //nolint:gosec // it is bounded
	p.waiting.size = n
}

// Acquire takes a connection out of the pool until its Release. Its wait is
// bounded by ctx and by AcquireTimeout; a [*providers.ExhaustedError] says that
// all were in use, a [*providers.UnreachableError] that none could be made.
func (p *Pool) Acquire(ctx context.Context) (providers.Conn, error) {
	scope, err := p.confine(ctx)
	if err != nil {
		return nil, err
	}
	l, err := p.borrow(ctx, opConn, scope.Gate)
	if err != nil {
		return nil, err
	}
	return &Conn{lease: l, confined: scope.Settings}, nil
}

// statement takes a connection for one statement with its scope.
func (p *Pool) statement(ctx context.Context, op string, scope []providers.Setting, sql string, args []any) (statement, error) {
	confined, err := p.confine(ctx)
	if err != nil {
		return statement{}, err
	}
	l, err := p.borrow(ctx, op, confined.Gate)
	if err != nil {
		return statement{}, err
	}
	st := statement{lease: l, owned: true, sql: sql, args: args, effects: sqltext.Classify(sql)}
	st.confine(ctx, confined.Settings, scope)
	return st, nil
}

// Query runs sql on a connection that comes back when the rows are closed or
// read to their end.
func (p *Pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	st, err := p.statement(ctx, opQuery, nil, sql, args)
	if err != nil {
		return failedRows(err), err
	}
	return p.query(ctx, st)
}

// QueryRow runs sql on a connection that comes back when the row is scanned.
func (p *Pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := p.Query(ctx, sql, args...) // its error waits for Scan
	return newRow(rows)
}

// Exec runs sql. Without arguments it may hold several statements.
func (p *Pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	st, err := p.statement(ctx, opExec, nil, sql, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return p.exec(ctx, st)
}

// Run executes a call with its scope.
func (p *Pool) Run(ctx context.Context, call *providers.Call) error {
	st, err := p.statement(ctx, call.Kind.String(), call.Scope, call.SQL, call.Args)
	if err != nil {
		return err
	}
	return p.run(ctx, st, call)
}

// Begin starts a transaction on a connection of its own.
func (p *Pool) Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	scope, err := p.confine(ctx)
	if err != nil {
		return nil, err
	}
	l, err := p.borrow(ctx, opTx, scope.Gate)
	if err != nil {
		return nil, err
	}
	t, err := p.begin(ctx, l, nil, scope.Settings, opts)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Ping acquires a connection and makes one round trip on it. It reaches no data
// and needs no scope.
func (p *Pool) Ping(ctx context.Context) error {
	l, err := p.borrow(ctx, opPing, nil)
	if err != nil {
		return err
	}
	defer l.release()
	return l.ping(ctx)
}

func (l *lease) ping(ctx context.Context) error {
	if ctx.Err() != nil {
		return notSent(ctx, opPing, ctx.Err())
	}
	bound, done := l.bound(ctx)
	defer done()
	return l.fault(ctx, opPing, l.conn.PingContext(bound))
}

// resetTimeout bounds how long Reset looks for idle connections.
const resetTimeout = time.Second

// Reset replaces every connection: idle ones now, busy ones when they come back.
// Over a *sql.DB of the caller's, those in use by code that goes past the
// provider stay.
func (p *Pool) Reset() {
	if p.closing.Load() {
		return
	}
	p.generation.Add(1)
	ctx, cancel := context.WithTimeout(p.life, resetTimeout)
	defer cancel()
	var idle []*sql.Conn
	for range p.db.Stats().Idle {
		conn, err := p.db.Conn(ctx)
		if err != nil {
			break
		}
		idle = append(idle, conn)
	}
	for _, conn := range idle {
		discard(conn)
	}
}

// Stats returns a snapshot of the pool's statistics. Over a *sql.DB of the
// caller's, connections that are made are not counted, and Open and Idle are
// about all of them.
func (p *Pool) Stats() providers.PoolStats {
	st := p.db.Stats()
	dialing := p.dialing.Load()
	s := providers.PoolStats{
		MaxSize: p.maxSize, Open: max(0, int32(st.OpenConnections)-dialing), Idle: int32(st.Idle), Dialing: dialing, //nolint:gosec // counts of connections
		Acquires: p.acquires.Load(), Connects: p.connects.Load(), ConnectErrors: p.connectErrors.Load(),
		Resets: p.resets.Load(), HookPanics: p.hooks.RecoveredPanics(),
	}
	p.leasesMu.Lock()
	s.InUse = int32(len(p.leases)) //nolint:gosec // not more than connections
	p.leasesMu.Unlock()
	if p.connector != nil {
		s.Closed = max(0, s.Connects-int64(s.Open))
	}
	s.Waiters, s.OldestWait = p.waiting.oldest()
	p.waiting.mu.Lock()
	s.Waits = p.waiting.counts
	p.waiting.mu.Unlock()
	return s
}

// startHook fires the event's Before hooks.
func (p *Pool) startHook(ctx context.Context, e providers.HookEvent, sql string) (context.Context, *providers.Firing) {
	if p.hooks == nil {
		return ctx, nil
	}
	return p.hooks.Start(ctx, providers.HookInfo{Event: e, SQL: sql})
}

// dialResult is how the last attempt to connect ended.
type dialResult struct{ err error }

// dialed counts an attempt to connect and returns its error without secrets.
func (p *Pool) dialed(err error) error {
	if err == nil {
		p.connects.Add(1)
		p.lastDial.Store(&dialResult{})
		return nil
	}
	p.connectErrors.Add(1)
	err = p.redact(err)
	p.lastDial.Store(&dialResult{err})
	return err
}

func (p *Pool) lastDialError() error {
	if d := p.lastDial.Load(); d != nil {
		return d.err
	}
	return nil
}

// connectFailure replaces the driver's error, which can carry the password.
type connectFailure struct {
	text  string
	cause error
}

func (e *connectFailure) Error() string { return e.text }
func (e *connectFailure) Unwrap() error { return e.cause }

func (p *Pool) redact(err error) error {
	cause := err
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		cause = connect.Unwrap() // without its Config
	}
	if pg := pgError(cause); pg != nil {
		cause = pg
	}
	return &connectFailure{text: providers.Redact(err.Error(), p.cfg.DSN), cause: cause}
}
