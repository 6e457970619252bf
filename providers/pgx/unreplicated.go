package pgx

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/pgx/pipeline"
)

// A server that is told to stop while a commit waits for its synchronous standby stops
// the wait, not the commit: it reports success behind a warning. The place in its
// source tells that warning from others in every language.
const unreplicatedKey = "pgkeel.unreplicated"

// watchReplication has connections note that warning.
func watchReplication(cc *pgx.ConnConfig) {
	cc.AfterConnect = func(_ context.Context, conn *pgconn.PgConn) error {
		conn.CustomData()[unreplicatedKey] = new(atomic.Bool)
		return nil
	}
	cc.OnNotice = func(conn *pgconn.PgConn, n *pgconn.Notice) {
		if n.Routine == pipeline.ReplicationWaits {
			unreplicated(conn).Store(true)
		}
	}
}

// unreplicated is what a connection noted.
func unreplicated(conn *pgconn.PgConn) *atomic.Bool {
	noted, _ := conn.CustomData()[unreplicatedKey].(*atomic.Bool)
	if noted == nil {
		return new(atomic.Bool) // it is still being made
	}
	return noted
}

// replicated is the error of an operation that commits by itself: err, unless it went
// well for the server and its commit stopped waiting.
func (s *session) replicated(ctx context.Context, op string, err error) error {
	if err == nil && s.unreplicated.Load() && s.unreplicated.Swap(false) {
		return errUnreplicated(ctx, op)
	}
	return err
}

// errUnreplicated is the error of a commit whose wait was cut short.
func errUnreplicated(ctx context.Context, op string) error {
	if ended := ctx.Err(); ended != nil {
		return &providers.TimeoutError{Operation: op, Limit: limitOf(ctx), Err: providers.ErrUnreplicated, Context: ended}
	}
	return providers.ErrUnreplicated
}
