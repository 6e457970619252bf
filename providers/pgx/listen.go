package pgx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
)

// ListenConn is a connection for LISTEN, outside of the pool.
type ListenConn struct {
	pool *Pool
	conn *pgx.Conn
	// detach lets go of the pool's end, and of the epoch's.
	detach func()
}

var (
	_ providers.Listener   = (*Pool)(nil)
	_ providers.ListenConn = (*ListenConn)(nil)
)

var errNoCancel = errors.New("a connection for LISTEN has nothing to cancel")

// Listen opens a connection of its own for LISTEN. It counts towards MaxDials
// while it is being made, fires EventConnect and EventNotification, and runs
// AfterConnect; the pool's size and statistics do not know it.
func (p *Pool) Listen(ctx context.Context, opts providers.ListenOptions) (providers.ListenConn, error) {
	if p.closing.Load() {
		return nil, errPoolClosed
	}
	pc, dsn, err := p.listenConfig(opts)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	l, err := p.listen(ctx, pc)
	switch {
	case err == nil:
		return l, nil
	case p.closing.Load():
		return nil, errPoolClosed
	case ctx.Err() != nil && providers.NewPGError(err) == nil:
		err = &providers.TimeoutError{Operation: "listen", Limit: limitOf(ctx), Err: &notSentError{p.redactFor(err, dsn)}, Context: ctx.Err()}
		return nil, &providers.UnreachableError{Waited: time.Since(start), Err: err}
	default:
		return nil, &providers.UnreachableError{Waited: time.Since(start), Err: wrapPG(p.redactFor(err, dsn))}
	}
}

// listenConfig is the pool's configuration, fit for LISTEN, and its DSN.
func (p *Pool) listenConfig(opts providers.ListenOptions) (*pgxpool.Config, string, error) {
	pc := p.pool.Config()
	dsn := p.cfg.DSN
	switch {
	case opts.DSN != "":
		cfg := p.cfg
		cfg.DSN, dsn = opts.DSN, opts.DSN
		if cfg.Profile == providers.ProfilePgBouncer {
			cfg.Profile = providers.ProfileDirect
		}
		direct, err := newPoolConfig(cfg)
		if err != nil {
			return nil, "", err
		}
		pc.ConnConfig, pc.BeforeConnect = direct.ConnConfig, nil
	case p.cfg.Profile == providers.ProfilePgBouncer:
		return nil, "", &providers.ConfigError{
			Field: "ListenOptions.DSN",
			Problem: "is empty, and LISTEN does not work through PgBouncer in transaction mode; " +
				"give it the address of the server itself",
		}
	}
	if pc.ConnConfig.ValidateConnect == nil {
		// A standby cannot LISTEN. Of several hosts it must be the primary, also
		// where the pool's statements may go to any.
		pc.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	pool, _ := p.pool.Config().ConnConfig.Tracer.(*tracer)
	pc.ConnConfig.Tracer = &listenTracer{tracer: pool, dsn: dsn}
	return pc, dsn, nil
}

// listen makes the connection.
func (p *Pool) listen(ctx context.Context, pc *pgxpool.Config) (*ListenConn, error) {
	l := &ListenConn{pool: p}
	if pc.BeforeConnect != nil { // an address of its own is as it is
		if err := pc.BeforeConnect(ctx, pc.ConnConfig); err != nil {
			return nil, err
		}
	}
	pc.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		// By the deadline of the socket: it ends a wait and leaves the connection
		// as it is. A statement or ping that is not answered has nothing to cancel.
		return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
	}
	conn, err := pgx.ConnectConfig(ctx, pc.ConnConfig)
	if err != nil {
		return nil, err
	}
	l.conn = conn
	// The pool's own ends are closed by Close; this one hears of it here. The
	// socket alone is closed, as the connection is its owner's.
	unclose, unevict := context.AfterFunc(p.life, l.cut), context.AfterFunc(epochOf(conn).ctx, l.cut)
	l.detach = func() { unclose(); unevict() }
	if p.cfg.AfterConnect != nil {
		if err := p.cfg.AfterConnect(ctx, conn); err != nil {
			l.detach()
			l.cut()
			_ = l.Close(ctx)
			return nil, fmt.Errorf("AfterConnect: %w", err)
		}
	}
	return l, nil
}

// Exec runs statements without arguments as one transaction. When the context
// ends, the connection is closed: half a LISTEN is of no use.
func (l *ListenConn) Exec(ctx context.Context, sql string) error {
	_, err := l.conn.Exec(ctx, sql)
	return l.ended(ctx, "listen", err)
}

// WaitForNotification waits for the next notification. When the context ends,
// the wait ends with its error and the connection stays usable: what was read of
// a message so far is kept for the next wait.
func (l *ListenConn) WaitForNotification(ctx context.Context) (*pgconn.Notification, error) {
	n, err := l.conn.WaitForNotification(ctx)
	if n != nil {
		return n, nil // one that arrived together with an error goes first
	}
	if ended := ctx.Err(); ended != nil && !l.conn.IsClosed() {
		return nil, ended
	}
	if errors.Is(err, pgconn.ErrConnClosed) { // nothing was sent that it could be unsure of
		err = &notSentError{fmt.Errorf("pgkeel: the connection for LISTEN was lost: %w", err)}
	}
	return nil, l.ended(context.Background(), "listen", err)
}

// Ping makes one round trip. When the context ends, the peer counts as dead and
// the connection is closed.
func (l *ListenConn) Ping(ctx context.Context) error {
	return l.ended(ctx, opPing, l.conn.Ping(ctx))
}

// PID is the server's process.
func (l *ListenConn) PID() uint32 { return l.conn.PgConn().PID() }

// Close ends the connection in good order, or cuts it when the context ends.
func (l *ListenConn) Close(ctx context.Context) error {
	l.detach()
	err := l.conn.Close(ctx)
	<-l.conn.PgConn().CleanupDone()
	if errors.Is(err, net.ErrClosed) {
		err = nil // the pool's end, or a context's, had cut it
	}
	return err
}

// ended makes an error say what happened. pgx ends a broken connection in the
// background, and would wait there for a server that does not answer.
func (l *ListenConn) ended(ctx context.Context, op string, err error) error {
	if l.conn.IsClosed() {
		l.cut()
		if l.pool.closing.Load() {
			return errPoolClosed
		}
	}
	return l.pool.mapError(ctx, op, err)
}

// cut closes the socket under whoever uses the connection.
func (l *ListenConn) cut() { cut(l.conn) }

// listenTracer is the pool's tracer for a connection that is not the pool's: it
// caps the attempts and fires the hooks, but the statistics are left alone.
type listenTracer struct {
	*tracer
	dsn string
}

var (
	_ pgx.QueryTracer   = (*listenTracer)(nil)
	_ pgx.ConnectTracer = (*listenTracer)(nil)
)

// TraceConnectEnd frees the place among the attempts.
func (t *listenTracer) TraceConnectEnd(ctx context.Context, data pgx.TraceConnectEndData) {
	calledOff := ctx.Err() != nil
	c := t.connected(ctx, data)
	if data.Conn != nil {
		// What pgx asks of it once it is broken, to cancel what runs, would
		// only keep its end waiting.
		c.config.DialFunc = func(context.Context, string, string) (net.Conn, error) { return nil, errNoCancel }
	}
	err := t.pool.redactFor(data.Err, t.dsn)
	if err != nil && !calledOff {
		t.pool.trouble(err)
	}
	c.firing.End(0, err)
}
