package pgkeel

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/chain"
	"github.com/pgkeel/pgkeel/outcome"
	"github.com/pgkeel/pgkeel/providers"
)

// DB is the handle. It is safe for concurrent use; make one per database and
// share it.
type DB struct {
	querier

	pool   providers.Pool
	hooks  *providers.HookManager
	layers []chain.Layer
	reader Reader
	writer Writer
	sql    sqlHandle
	// markers are those of the transactions that take effect exactly once.
	markers *outcome.Markers
}

var _ Querier = (*DB)(nil)

func newDB(pool providers.Pool, hooks *providers.HookManager, layers []chain.Layer) *DB {
	q := newQuerier(pool, layers, false)
	db := &DB{querier: q, pool: pool, hooks: hooks, layers: layers, reader: Reader{querier{direct: readOnly{q}}}, writer: Writer{q}}
	if db.Cluster() != nil {
		db.writer = Writer{querier{direct: onPrimary{q}}}
	}
	return db
}

// Acquire takes a connection out of the pool, for statements that need the
// same session. Release it. What they leave in the session is undone then.
func (db *DB) Acquire(ctx context.Context) (*Conn, error) {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	return &Conn{querier: newQuerier(conn, db.layers, false), conn: conn, db: db}, nil
}

// AcquireFunc runs fn with a connection of the pool and releases it. Unlike
// Acquire it lets the pool recognise a deadlock, when fn asks for another
// connection with its context while everybody else does so too.
func (db *DB) AcquireFunc(ctx context.Context, fn func(ctx context.Context, conn *Conn) error) error {
	conn, err := db.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if fn == nil {
		return errFuncNil
	}
	return fn(db.held(ctx, providers.IsReadOnly(ctx)), conn)
}

// SendBatch sends every queued statement in one flush, as one transaction.
// Close the results.
func (db *DB) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return sendBatch(ctx, db.pool, b)
}

// held notes that the call chain holds a connection of the pool. In a cluster that is
// the primary's: what only reads may hold one of any server, of which nobody can say
// that it would be waited for.
func (db *DB) held(ctx context.Context, reads bool) context.Context {
	c := db.Cluster()
	switch {
	case c == nil:
		return providers.WithHeld(ctx, db.pool)
	case reads:
		return ctx
	default:
		return providers.WithHeld(ctx, c.Primary())
	}
}

// Ping makes one round trip.
func (db *DB) Ping(ctx context.Context) error { return db.pool.Ping(ctx) }

// Reset replaces every connection: idle ones now, busy ones when they come
// back.
func (db *DB) Reset() { db.pool.Reset() }

// Stats returns a snapshot of the pool's statistics.
func (db *DB) Stats() PoolStats { return db.pool.Stats() }

// Hooks is where hooks are registered while the handle is open.
func (db *DB) Hooks() *HookManager { return db.hooks }

// Unwrap returns the pgx pool underneath, for libraries that want one. It is
// supervised like the handle, but the handle's layers do not see what it does.
// With a provider that is not built on pgx it is nil.
func (db *DB) Unwrap() *pgxpool.Pool {
	if u, ok := db.pool.(providers.Unwrapper); ok {
		return u.Unwrap()
	}
	return nil
}

// SQL returns a *sql.DB over the same pool, for libraries that want one. It
// keeps no connections of its own, and is the same at each call until somebody
// closes it, which does not close the handle; Close of the handle closes it as
// well. With a provider that is not built on pgx it is nil. With tenancy.Database
// each connection goes to the database of its context's tenant.
func (db *DB) SQL() *sql.DB {
	connector := connectorOf(db.pool)
	if connector == nil {
		return nil
	}
	return db.sql.get(connector)
}

// Close stops intake, waits for the connections in use until ctx ends, then
// ends those by force and names their holders in a [*CloseError]. It may be
// called twice.
func (db *DB) Close(ctx context.Context) error {
	db.sql.close()
	db.markers.Stop()
	defer db.markers.Wait()
	return db.pool.Close(ctx)
}

func sendBatch(ctx context.Context, target any, b *pgx.Batch) pgx.BatchResults {
	if b == nil {
		return pgx.FailedBatchResults(&pgx.Batch{}, refusef("SendBatch: the batch is nil"))
	}
	batcher, ok := target.(providers.Batcher)
	if !ok {
		return pgx.FailedBatchResults(b, refusef("SendBatch: %w by this provider", errors.ErrUnsupported))
	}
	return batcher.SendBatch(ctx, b)
}
