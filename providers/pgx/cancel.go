package pgx

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

const (
	// cancelDeadline is how long a connection may take to answer cancel
	// requests before it is closed after all. It is as long as the caller waits
	// beyond the end of its context for a server that is silent.
	cancelDeadline = 2 * time.Second
	// cancelSettle is the time between a cancel request and the next, or the
	// connection's next statement, which the request must not hit.
	cancelSettle = 100 * time.Millisecond
)

// canceller has the server stop a statement whose context ended, and keeps the
// connection. Unlike pgx's handler it repeats the request: one that overtakes
// its statement finds the server idle and is lost, and the statement would run
// until the connection is closed.
type canceller struct {
	conn *pgconn.PgConn
	stop context.CancelFunc
	done chan struct{}
}

func newCanceller(conn *pgconn.PgConn) ctxwatch.Handler { return &canceller{conn: conn} }

// HandleCancel runs when the context ends.
func (c *canceller) HandleCancel(context.Context) {
	deadline := time.Now().Add(cancelDeadline)
	_ = c.conn.Conn().SetDeadline(deadline)
	var ctx context.Context
	ctx, c.stop = context.WithDeadline(context.Background(), deadline)
	done := make(chan struct{})
	c.done = done
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = c.conn.CancelRequest(ctx) // at the worst the deadline ends the connection
			<-time.After(cancelSettle)
		}
	}()
}

// HandleUnwatchAfterCancel runs when the statement is over.
func (c *canceller) HandleUnwatchAfterCancel() {
	c.stop()
	<-c.done
	_ = c.conn.Conn().SetDeadline(time.Time{})
}

// pingWatcher ends what a connection does when the context ends: by the handler
// of the profile, except for a ping.
type pingWatcher struct {
	ctxwatch.Handler
	conn *pgconn.PgConn
	cut  bool
}

func (p *Pool) watchPings(build func(*pgconn.PgConn) ctxwatch.Handler) func(*pgconn.PgConn) ctxwatch.Handler {
	return func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pingWatcher{Handler: build(conn), conn: conn}
	}
}

// HandleCancel runs when the context ends. Where that was a ping, the peer is a
// black hole. There is nothing to cancel, and nobody who would answer. Others
// made at the same time most likely are dead as well: drop them at once, instead
// of one ping after another.
func (w *pingWatcher) HandleCancel(ctx context.Context) {
	s, _ := w.conn.CustomData()[sessionKey].(*session)
	w.cut = s != nil && s.pinging
	if !w.cut {
		w.Handler.HandleCancel(ctx)
		return
	}
	s.pool.pool.Reset()
	// Without an answer pgx would take long to send a cancel request after it,
	// and keep the place in the pool meanwhile.
	s.silent.Store(true)
	_ = w.conn.Conn().Close()
}

// dialUnlessSilent has no request to cancel go to a server that did not answer a
// ping. The driver sends it while the ping is being ended, so what it dials with is
// there from the beginning.
func (s *session) dialUnlessSilent() {
	dial := s.config.DialFunc
	s.config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if s.silent.Load() {
			return nil, errBlackHole
		}
		return dial(ctx, network, addr)
	}
}

var errBlackHole = errors.New("the server did not answer a ping")

// HandleUnwatchAfterCancel undoes HandleCancel where the connection lives on.
func (w *pingWatcher) HandleUnwatchAfterCancel() {
	if !w.cut {
		w.Handler.HandleUnwatchAfterCancel()
	}
}
