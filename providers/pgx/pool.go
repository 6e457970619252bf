package pgx

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
)

// Pool is a supervised pool of connections to one server.
type Pool struct {
	cfg            providers.Config
	pool           *pgxpool.Pool
	hooks          *providers.HookManager
	maxConns       int32
	minConns       int32
	acquireTimeout time.Duration
	connectTimeout time.Duration
	pingTimeout    time.Duration
	pingAfter      time.Duration
	resets         bool
	readsOnly      bool

	pipelined  *pipelined // nil without
	watchdog   watchdog
	copyTracer pgx.CopyFromTracer // nil without
	onEnd      func(*pgconn.PgConn) ctxwatch.Handler
	gauges     gauges
	waiting    waiting
	classifier classifier
	names      statementNames

	// dials holds a token for each attempt to connect under way.
	dials    chan struct{}
	lastDial atomic.Pointer[dialResult]
	routes   routes

	// epoch changes under sessionsMu, and so does old, how many connections of
	// earlier ones there still are.
	epoch atomic.Pointer[epoch]
	old   atomic.Int32

	sessionsMu sync.Mutex
	sessions   map[*session]struct{}

	// life ends when Close begins; background is what Close waits for.
	life       context.Context //nolint:containedctx // the pool's own life
	endLife    context.CancelCauseFunc
	closing    atomic.Bool
	closeOnce  sync.Once
	closeErr   error
	background sync.WaitGroup
	// kick wakes the goroutine that restores MinSize.
	kick chan struct{}
}

var (
	_ providers.Pool      = (*Pool)(nil)
	_ providers.Batcher   = (*Pool)(nil)
	_ providers.Copier    = (*Pool)(nil)
	_ providers.Unwrapper = (*Pool)(nil)
)

// Open validates cfg, makes a pool, and warms it up: it opens
// Pool.InitialSize connections, at most MaxDials at a time, and returns the
// first error that it meets. With an InitialSize and MinSize of 0 it makes no
// connection, and cannot know whether the server is there.
func Open(ctx context.Context, cfg providers.Config) (*Pool, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	pc, err := newPoolConfig(cfg)
	if err != nil {
		return nil, err
	}
	if err := checkPipelining(cfg, pc.ConnConfig.DefaultQueryExecMode); err != nil {
		return nil, err
	}
	p := newPool(cfg, pc)
	if p.pool, err = pgxpool.NewWithConfig(withoutStartup(ctx), pc); err != nil {
		return nil, err
	}
	p.pipelined = p.newPipelined()
	p.background.Go(p.supervise)
	p.background.Go(p.keepMinSize)
	if err := p.warmUp(ctx); err != nil {
		expired, cancel := context.WithCancel(context.Background())
		cancel()
		_ = p.Close(expired) // nobody can hold a connection yet
		return nil, err
	}
	return p, nil
}

func newPool(cfg providers.Config, pc *pgxpool.Config) *Pool {
	dials := cfg.MaxDials
	if dials == 0 {
		dials = providers.DefaultMaxDials
	}
	p := &Pool{
		cfg: cfg, hooks: cfg.Hooks,
		maxConns: pc.MaxConns, minConns: pc.MinConns,
		acquireTimeout: providers.OrDefault(cfg.AcquireTimeout, providers.DefaultAcquireTimeout, 0),
		connectTimeout: pc.ConnConfig.ConnectTimeout,
		pingTimeout:    pc.PingTimeout,
		pingAfter:      idleBeforePing,
		resets:         cfg.SessionReset != providers.ResetNever && cfg.Profile != providers.ProfilePgBouncer,
		readsOnly:      readsOnly(cfg),
		dials:          make(chan struct{}, dials),
		sessions:       map[*session]struct{}{},
		kick:           make(chan struct{}, 1),
	}
	p.epoch.Store(newEpoch())
	p.life, p.endLife = context.WithCancelCause(context.Background())
	pc.ConnConfig.Tracer = newTracer(p, cfg.Tracer)
	p.copyTracer, _ = cfg.Tracer.(pgx.CopyFromTracer)
	pc.BeforeConnect = p.beforeConnect
	pc.AfterConnect = p.connected
	pc.BeforeClose = p.disconnecting
	pc.ShouldPing = p.shouldPing
	if cfg.Scope != nil {
		pc.PrepareConn = p.prepareRaw
	}
	p.onEnd = p.watchPings(pc.ConnConfig.BuildContextWatcherHandler)
	pc.ConnConfig.BuildContextWatcherHandler = p.onEnd
	p.watchdog.timer = time.AfterFunc(lookEvery, p.lookAround)
	return p
}

// connected readies a new connection and gives it a session.
func (p *Pool) connected(ctx context.Context, conn *pgx.Conn) error {
	if err := p.prepareEvictable(ctx, conn); err != nil {
		return err
	}
	s := &session{pool: p, conn: conn, pid: conn.PgConn().PID(), epoch: epochOf(conn), unreplicated: unreplicated(conn.PgConn())}
	s.statement.handler, s.statement.ctx.s = p.onEnd(conn.PgConn()), s
	s.config, _ = conn.PgConn().CustomData()[configKey].(*pgx.ConnConfig)
	if s.config != nil {
		s.dialUnlessSilent()
	}
	conn.PgConn().CustomData()[sessionKey] = s
	s.count()
	if err := p.register(s); err != nil {
		s.uncount()
		return err
	}
	return nil
}

// disconnecting runs right before a connection of the pool is closed.
func (p *Pool) disconnecting(conn *pgx.Conn) {
	s := sessionOf(conn)
	if s == nil {
		return // it never became one of the pool
	}
	p.doubtIdle(s)
	p.gone(s)
	p.nudge()
}

// gone forgets a connection.
func (p *Pool) gone(s *session) {
	s.uncount()
	if p.forget(s) {
		p.gauges.closed.Add(1)
	}
}

// idleBeforePing is how long a connection may be idle and still be trusted.
const idleBeforePing = time.Second

func (p *Pool) shouldPing(_ context.Context, params pgxpool.ShouldPingParams) bool {
	if p.old.Load() > 0 && sessionOf(params.Conn).isOld() {
		return true // it fails, and another connection is looked for
	}
	if params.IdleDuration <= p.pingAfter {
		return false
	}
	sessionOf(params.Conn).pinging = true
	return true
}

// releasing runs at the beginning of a connection's return to the pool.
func (p *Pool) releasing(s *session) {
	if s.own.Load() {
		s.returned()
		return // nothing ran on it
	}
	s.raw, s.scope = false, nil
	if s.unreplicated.Load() {
		s.unreplicated.Store(false) // what went past pgkeel did not ask
	}
	_, f := p.startHook(context.Background(), providers.EventRelease, "", s.pid)
	p.readyForNext(s)
	s.returned()
	f.End(0, nil)
}

// readyForNext resets the session, or sees to it that it is closed.
func (p *Pool) readyForNext(s *session) {
	pg := s.conn.PgConn()
	if (s.retired.Load() || s.isOld()) && !pg.IsClosed() {
		_ = s.conn.Close(ended())
	}
	if p.needsReset(s) && isReusable(pg) && !p.closing.Load() {
		p.clean(s)
	}
	if !isReusable(pg) {
		s.uncount() // pgxpool will destroy it
		p.nudge()
	}
}

// isReusable reports what pgxpool wants of a connection that comes back.
func isReusable(pg *pgconn.PgConn) bool {
	return !pg.IsClosed() && !pg.IsBusy() && pg.TxStatus() == 'I'
}

// adopt notes the configuration that the new connection works with and its epoch, has a COPY
// hear of errors, and has the pool hear of notifications without taking them from
// pgx's own queue.
func (p *Pool) adopt(conn *pgx.Conn, config *pgx.ConnConfig, e *epoch) {
	conn.PgConn().CustomData()[configKey] = config
	conn.PgConn().CustomData()[epochKey] = e
	watchErrors(config)
	if p.hooks == nil {
		return
	}
	deliver := config.OnNotification
	config.OnNotification = func(pg *pgconn.PgConn, n *pgconn.Notification) {
		deliver(pg, n)
		p.notified(pg, n)
	}
}

func (p *Pool) notified(conn *pgconn.PgConn, n *pgconn.Notification) {
	if p.observed(providers.EventNotification) {
		p.hooks.Notify(p.life, providers.HookInfo{Event: providers.EventNotification, Name: n.Channel, PID: conn.PID()})
	}
}

// Acquire takes a connection out of the pool until its Release. Its wait is
// bounded by ctx and by AcquireTimeout; a [*providers.ExhaustedError] says that
// all were in use, a [*providers.UnreachableError] that none could be made.
func (p *Pool) Acquire(ctx context.Context) (providers.Conn, error) {
	scope, err := p.confined(ctx)
	if err != nil {
		return nil, err
	}
	c := &Conn{confined: scope.Settings}
	if c.lease, err = p.borrowFor(ctx, opConn, scope.Gate, c); err != nil {
		return nil, err
	}
	return c, nil
}

// Query runs sql on a connection that comes back when the rows are closed or
// read to their end, or on one that it shares.
func (p *Pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return p.queryIn(ctx, sql, args, nil)
}

// QueryRow runs sql on a connection that comes back when the row is scanned, or
// on one that it shares.
func (p *Pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := p.queryIn(ctx, sql, args, nil) // its error waits for Scan
	return asRow(rows)
}

// Exec runs sql. Without arguments it may hold several statements, which pgx
// sends over the simple protocol as one transaction.
func (p *Pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return p.execIn(ctx, sql, args, nil)
}

// Run executes a call with its scope.
func (p *Pool) Run(ctx context.Context, call *providers.Call) (err error) {
	if call.Kind == providers.CallExec {
		call.Tag, err = p.execIn(ctx, call.SQL, call.Args, call.Scope)
	} else {
		call.Rows, err = p.queryIn(ctx, call.SQL, call.Args, call.Scope)
	}
	return err
}

// queryIn runs a statement with a scope.
func (p *Pool) queryIn(ctx context.Context, sql string, args []any, scope []providers.Setting) (pgx.Rows, error) {
	scope, gate, err := p.confine(ctx, sql, scope)
	if err != nil {
		return failedRows(err), err
	}
	var firing *providers.Firing
	if p.pipelined != nil {
		var rows pgx.Rows
		if rows, ctx, firing, err = p.pipelined.query(ctx, sql, args, scope, gate); !isElsewhere(err) {
			return rows, err
		}
	}
	l, r, err := p.borrowForRows(ctx, gate)
	if err != nil {
		firing.End(0, err)
		return failedRows(err), err
	}
	p.pipelined.passed()
	st := statement{lease: l, owned: true, sql: sql, args: p.guarded(args, scope, false), firing: firing}
	return p.queryOn(ctx, r, &st, p.declared(ctx, scope), nil)
}

// execIn runs a statement without rows, with a scope.
func (p *Pool) execIn(ctx context.Context, sql string, args []any, scope []providers.Setting) (pgconn.CommandTag, error) {
	scope, gate, err := p.confine(ctx, sql, scope)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	var firing *providers.Firing
	if p.pipelined != nil {
		var tag pgconn.CommandTag
		if tag, ctx, firing, err = p.pipelined.exec(ctx, sql, args, scope, gate); !isElsewhere(err) {
			return tag, err
		}
	}
	l, err := p.borrow(ctx, opExec, gate)
	if err != nil {
		firing.End(0, err)
		return pgconn.CommandTag{}, err
	}
	p.pipelined.passed()
	st := statement{lease: l, owned: true, sql: sql, args: p.guarded(args, scope, false), firing: firing}
	return p.execOn(ctx, &st, p.declared(ctx, scope), nil)
}

// Begin starts a transaction on a connection of its own.
func (p *Pool) Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	t, err := p.begin(ctx, opts)
	if err != nil {
		return nil, err // not a nil *Tx
	}
	return t, nil
}

func (p *Pool) begin(ctx context.Context, opts providers.TxOptions) (*Tx, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	scope, err := p.confined(ctx)
	if err != nil {
		return nil, err
	}
	l, err := p.borrow(ctx, opTx, scope.Gate)
	if err != nil {
		return nil, err
	}
	return p.beginOn(ctx, l, nil, opts, scope.Settings, nil)
}

// Ping acquires a connection and makes one round trip on it.
func (p *Pool) Ping(ctx context.Context) error {
	l, err := p.borrow(ctx, opPing, nil)
	if err != nil {
		return err
	}
	defer l.release()
	return p.mapError(ctx, opPing, l.conn().Ping(ctx))
}

// Unwrap returns the pgx pool underneath. What is taken from it is supervised
// like everything else; only query and transaction hooks do not see it.
func (p *Pool) Unwrap() *pgxpool.Pool { return p.pool }

// Reset replaces every connection: idle ones now, busy ones when they come
// back. MinSize is restored at once.
func (p *Pool) Reset() {
	p.pool.Reset()
	p.pipelined.reset()
	p.nudge()
}

// Stats returns a snapshot of the pool's statistics.
func (p *Pool) Stats() providers.PoolStats {
	stat := p.pool.Stat()
	waiters, since := p.waiting.oldest()
	s := providers.PoolStats{
		MaxSize: stat.MaxConns(), Open: stat.TotalConns() - stat.ConstructingConns(), Idle: stat.IdleConns(),
		InUse: stat.AcquiredConns(), Dialing: stat.ConstructingConns(),
		Acquires: p.gauges.acquires.Load(), Waiters: waiters,
		Connects: p.gauges.connects.Load(), ConnectErrors: p.gauges.connectErrors.Load(), Closed: p.gauges.closed.Load(),
		Resets: p.gauges.resets.Load(), Reclaimed: p.gauges.reclaimed.Load(), Leaks: p.gauges.leaks.Load(),
		HookPanics: p.hooks.RecoveredPanics(), Pipeline: p.pipelined.stats(),
	}
	if waiters > 0 {
		s.OldestWait = time.Since(since)
	}
	p.waiting.mu.Lock()
	s.Waits = p.waiting.counts
	p.waiting.mu.Unlock()
	return s
}

// observed reports whether a hook looks at the event, or at errors.
func (p *Pool) observed(e providers.HookEvent) bool {
	return !p.hooks.Empty() && (p.hooks.Has(e) || p.hooks.Has(providers.EventError))
}

// startHook fires the event's Before hooks. Without hooks it costs nothing.
func (p *Pool) startHook(ctx context.Context, e providers.HookEvent, sql string, pid uint32) (context.Context, *providers.Firing) {
	if !p.observed(e) {
		return ctx, nil
	}
	return p.hooks.Start(ctx, providers.HookInfo{Event: e, SQL: sql, PID: pid})
}

func (p *Pool) logger() *slog.Logger {
	if p.cfg.Logger != nil {
		return p.cfg.Logger
	}
	return slog.Default()
}

// String names the pool without its secrets.
func (p *Pool) String() string {
	cc := p.pool.Config().ConnConfig
	return fmt.Sprintf("pgx pool of %d connections to %s:%d/%s", p.maxConns, cc.Host, cc.Port, cc.Database)
}
