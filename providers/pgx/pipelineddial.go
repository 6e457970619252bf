package pgx

import (
	"context"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkeel/pgkeel/providers/pgx/pipeline"
)

// dial makes a connection that statements share.
func (pl *pipelined) dial(ctx context.Context, readOnly bool) (*pipeline.Session, error) {
	epoch := pl.pool.epoch.Load()
	s, err := pl.connect(ctx, readOnly)
	if err != nil && epoch.over() {
		return nil, errEvicted
	}
	return s, err
}

func (pl *pipelined) connect(ctx context.Context, readOnly bool) (*pipeline.Session, error) {
	p := pl.pool
	config := p.pool.Config().ConnConfig
	if readOnly {
		config.RuntimeParams["default_transaction_read_only"] = "on"
	}
	if err := p.beforeConnect(ctx, config); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	s, err := pl.adopt(ctx, conn)
	if err != nil {
		_ = conn.Close(ended())
		return nil, err
	}
	return s, nil
}

// roundTrips is how many are measured, of which the shortest counts.
const roundTrips = 3

// sessionLimitSQL asks for the session's own limit in milliseconds.
const sessionLimitSQL = "select (1000 * extract(epoch from current_setting('statement_timeout')::interval))::int8"

// adopt readies a new connection and takes it out of the driver's hands.
func (pl *pipelined) adopt(ctx context.Context, conn *pgx.Conn) (*pipeline.Session, error) {
	epoch := epochOf(conn)
	defer context.AfterFunc(epoch.ctx, func() { cut(conn) })()
	if err := pl.pool.prepareSession(ctx, conn); err != nil {
		return nil, err
	}
	s := &pipeline.Session{PID: pidOf(conn), Types: conn.TypeMap(), Cancel: conn.PgConn().CancelRequest, Evicted: epoch.over}
	for range roundTrips {
		begin := time.Now()
		err := conn.QueryRow(ctx, sessionLimitSQL, pgx.QueryExecModeSimpleProtocol).Scan(&s.StatementTimeout)
		if err != nil {
			return nil, err
		}
		if took := time.Since(begin); s.RoundTrip == 0 || took < s.RoundTrip {
			s.RoundTrip = took
		}
	}
	if err := conn.PgConn().SyncConn(ctx); err != nil {
		return nil, err
	}
	hijacked, err := conn.PgConn().Hijack()
	if err != nil {
		return nil, err
	}
	s.Conn = hijacked.Conn
	s.Close = func() {
		pl.pool.gauges.closed.Add(1)
		terminate(hijacked.Conn)
	}
	pl.conn.Store(conn)
	growSendBuffer(hijacked.Conn)
	return s, nil
}

// terminateTimeout bounds the parting word to the server.
const terminateTimeout = 100 * time.Millisecond

// terminate ends a connection in the way that the server expects.
func terminate(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(terminateTimeout))
	if bye, err := (&pgproto3.Terminate{}).Encode(nil); err == nil {
		_, _ = conn.Write(bye)
	}
	_ = conn.Close()
}

func growSendBuffer(conn net.Conn) {
	if tls, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = tls.NetConn()
	}
	if socket, ok := conn.(interface{ SetWriteBuffer(bytes int) error }); ok {
		_ = socket.SetWriteBuffer(pipelineSendBuffer)
	}
}
