package pgx

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// Conn is a connection that one borrower holds until Release. What its
// statements leave in the session is undone when it goes back.
type Conn struct {
	lease lease
	use   use
	rows  rowSource
}

var (
	_ providers.Conn    = (*Conn)(nil)
	_ providers.Batcher = (*Conn)(nil)
	_ providers.Copier  = (*Conn)(nil)
)

func (c *Conn) pool() *Pool { return c.lease.s.pool }

func (c *Conn) enter() error {
	if err := c.use.enter(); err != nil {
		return err
	}
	if c.lease.lost() {
		c.use.leave()
		return providers.ErrReleased
	}
	if c.lease.conn().PgConn().IsClosed() {
		c.use.leave()
		return errConnLost
	}
	return nil
}

func (c *Conn) statement(sql string, args []any) statement {
	return statement{lease: c.lease, use: &c.use, sql: sql, args: args}
}

// scope adds what the context declares. In a transaction that counts for it all,
// it declares nothing.
func (c *Conn) scope(ctx context.Context, scope []providers.Setting) []providers.Setting {
	if c.lease.conn().PgConn().TxStatus() != 'I' {
		return scope
	}
	return declared(ctx, scope)
}

// Query runs sql and returns its rows. Close them before the next statement.
func (c *Conn) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := c.enter(); err != nil {
		return failedRows(err), err
	}
	st := c.statement(sql, args)
	return c.pool().queryOn(ctx, c.rows.next(), &st, c.scope(ctx, nil), nil)
}

// QueryRow runs sql and returns its first row. Scan it before the next
// statement.
func (c *Conn) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if err := c.enter(); err != nil {
		return failedRow(err)
	}
	st := c.statement(sql, args)
	rows, _ := c.pool().queryOn(ctx, c.rows.next(), &st, c.scope(ctx, nil), nil)
	return asRow(rows) // its error waits for Scan
}

// Exec runs sql.
func (c *Conn) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := c.enter(); err != nil {
		return pgconn.CommandTag{}, err
	}
	st := c.statement(sql, args)
	return c.pool().execOn(ctx, &st, c.scope(ctx, nil), nil)
}

// Run executes a call with its scope.
func (c *Conn) Run(ctx context.Context, call *providers.Call) error {
	if err := c.enter(); err != nil {
		return err
	}
	call.Scope = c.scope(ctx, call.Scope)
	st := c.statement(call.SQL, call.Args)
	return c.pool().run(ctx, &st, c.rows.next, call, nil)
}

// Begin starts a transaction on this connection, which stays the borrower's
// after its end.
func (c *Conn) Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.use.leave()
	t, err := c.pool().begin(ctx, c.lease, c, opts)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// SendBatch sends every statement of b in one flush.
func (c *Conn) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := c.enter(); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	if c.lease.conn().PgConn().TxStatus() != 'I' && beginsTx(b) {
		c.use.leave()
		return pgx.FailedBatchResults(b, errInTx)
	}
	r := c.pool().sendBatch(ctx, statement{lease: c.lease, use: &c.use}, c.lease.conn(), b)
	r.adopt(c)
	return r
}

// CopyFrom loads rows by COPY.
func (c *Conn) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	if err := c.enter(); err != nil {
		return 0, err
	}
	defer c.use.leave()
	return c.pool().copyFrom(ctx, c.lease.conn(), table, columns, src)
}

// Ping makes one round trip.
func (c *Conn) Ping(ctx context.Context) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.use.leave()
	return c.pool().mapError(ctx, opPing, c.lease.conn().Ping(ctx))
}

// Unwrap returns the pgx connection underneath, or nil after Release. Since
// whoever has it could go on using it, the connection is closed at its release
// instead of reused.
func (c *Conn) Unwrap() *pgx.Conn {
	if c.lease.lost() {
		return nil
	}
	c.lease.s.retire()
	return c.lease.conn()
}

// Release gives the connection back to the pool. It may be called twice. While
// a statement or a result that was not closed occupies the connection, it is
// closed under them. A transaction still open on it is rolled back.
func (c *Conn) Release() {
	if c.use.enter() != nil {
		c.lease.evict()
		return
	}
	c.lease.release()
	c.use.leave()
}
