package pgx

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// trouble tells OnTrouble of an error that puts the server in doubt.
func (p *Pool) trouble(err error) {
	if p.cfg.OnTrouble != nil && !p.closing.Load() {
		p.cfg.OnTrouble(err)
	}
}

// doubt is trouble for the error of an operation, of which most say nothing of the
// server.
func (p *Pool) doubt(ctx context.Context, op string, err error) {
	if err != nil && p.cfg.OnTrouble != nil && p.inDoubt(ctx, op, err) {
		p.trouble(wrapPG(err))
	}
}

func (p *Pool) inDoubt(ctx context.Context, op string, err error) bool {
	var attempt *pgconn.ConnectError
	if errors.As(err, &attempt) {
		return false // was told where it failed
	}
	if pg := providers.NewPGError(err); pg != nil {
		return isOutage(pg) || pg.IsReadOnly() && !p.cfg.ReadOnly && !readsOnlyIn(ctx)
	}
	if errors.Is(err, net.ErrClosed) || pgconn.Timeout(err) {
		return false // closed by the pool itself, or in the caller's time
	}
	if errors.Is(err, pgconn.ErrConnClosed) {
		// The driver does not say why. As long as one that was evicted is around, it may be that.
		return p.old.Load() == 0
	}
	var lost *lostError
	return errors.As(err, &lost) || op != opCopy && isBroken(err)
}

// isOutage reports that the server is going down or coming up, or that the
// connection was lost on its side.
func isOutage(pg *providers.PGError) bool {
	switch pg.Code {
	case "57P01", "57P02", "57P03":
		return true
	}
	return strings.HasPrefix(pg.Code, "08") && pg.IsConnectionError()
}

// isBroken reports an error of the socket.
func isBroken(err error) bool {
	var socket *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &socket)
}

// doubtCopy is doubt for a COPY, whose errors of the socket can be those of the
// caller's reader or writer: then the connection is still there.
func (p *Pool) doubtCopy(ctx context.Context, conn *pgx.Conn, err error) {
	if err != nil && p.cfg.OnTrouble != nil && ctx.Err() == nil && conn.IsClosed() && providers.NewPGError(err) == nil {
		p.doubt(ctx, opQuery, err)
	}
}

// doubtRaw is doubt for what runs on a connection of the unwrapped pool, past the
// pool's own methods.
func (p *Pool) doubtRaw(ctx context.Context, conn *pgx.Conn, err error) {
	if err == nil || p.cfg.OnTrouble == nil {
		return
	}
	if s := sessionOf(conn); s != nil && !s.isOld() && !s.isLent() {
		p.doubt(ctx, opQuery, err)
	}
}

// doubtIdle is trouble for an idle connection that did not answer a ping.
func (p *Pool) doubtIdle(s *session) {
	if s.pinging && s.conn.IsClosed() && !s.isOld() {
		p.trouble(errPing)
	}
}

var errPing = errors.New("pgkeel: an idle connection was lost, or did not answer a ping in time")

// isLent reports whether the borrower uses the pool's own methods.
func (s *session) isLent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.borrowed != nil
}

type readerKey struct{}

// readerContext is that of what runs in a transaction that was declared to only
// read.
type readerContext struct {
	context.Context //nolint:containedctx // it is a context
}

// Value says so.
func (c readerContext) Value(key any) any {
	if key == (readerKey{}) {
		return true
	}
	return c.Context.Value(key)
}

// asReader has somebody who is told of trouble know that the transaction only
// reads.
func (t *Tx) asReader(ctx context.Context) context.Context {
	if t.reads && t.pool.cfg.OnTrouble != nil {
		return readerContext{ctx}
	}
	return ctx
}

// readsOnlyIn reports whether it was declared that nothing is written.
func readsOnlyIn(ctx context.Context) bool {
	return providers.IsReadOnly(ctx) || ctx.Value(readerKey{}) != nil
}
