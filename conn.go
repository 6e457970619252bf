package pgkeel

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// Conn is a connection that its borrower holds until Release. It belongs to one
// goroutine at a time.
type Conn struct {
	querier

	conn providers.Conn
	db   *DB
}

var _ Querier = (*Conn)(nil)

// Begin starts a transaction on this connection. End it with Commit or
// Rollback before the Release.
func (c *Conn) Begin(ctx context.Context, options ...TxOptions) (Tx, error) {
	return begin(ctx, c.db, c.conn, options)
}

// SendBatch sends every queued statement in one flush, as one transaction.
// Close the results.
func (c *Conn) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return sendBatch(ctx, c.conn, b)
}

// Ping makes one round trip.
func (c *Conn) Ping(ctx context.Context) error { return c.conn.Ping(ctx) }

// Unwrap returns the pgx connection underneath, or nil after Release, or with
// a provider that is not built on pgx. As whoever has it could go on using it,
// the connection is closed at its release instead of reused.
func (c *Conn) Unwrap() *pgx.Conn {
	if u, ok := c.conn.(interface{ Unwrap() *pgx.Conn }); ok {
		return u.Unwrap()
	}
	return nil
}

// Release gives the connection back to the pool. It may be called twice.
func (c *Conn) Release() { c.conn.Release() }
