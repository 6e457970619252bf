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
	// confined is the scope that it was taken in.
	confined []providers.Setting
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
	return statement{lease: c.lease, use: &c.use, sql: sql, args: c.pool().guarded(args, c.confined, false)}
}

// scope adds what the context declares. In a transaction that counts for it all,
// it declares nothing.
func (c *Conn) scope(ctx context.Context, scope []providers.Setting) []providers.Setting {
	if c.lease.conn().PgConn().TxStatus() != 'I' {
		return scope
	}
	return c.pool().declared(ctx, scope)
}

// enterStatement begins a use for a statement, whose own settings come behind
// those of the connection's scope.
func (c *Conn) enterStatement(ctx context.Context, sql string, settings []providers.Setting) ([]providers.Setting, error) {
	if err := c.pool().within(ctx, c.confined); err != nil {
		return nil, err
	}
	if len(c.confined) > 0 {
		if c.pool().endsScope(sql) {
			return nil, providers.ErrEndsScope
		}
		settings = providers.WithinScope(c.confined, settings)
	}
	if err := c.enter(); err != nil {
		return nil, err
	}
	return c.scope(ctx, settings), nil
}

// Query runs sql and returns its rows. Close them before the next statement.
func (c *Conn) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	scope, err := c.enterStatement(ctx, sql, nil)
	if err != nil {
		return failedRows(err), err
	}
	st := c.statement(sql, args)
	return c.pool().queryOn(ctx, c.rows.next(), &st, scope, nil)
}

// QueryRow runs sql and returns its first row. Scan it before the next
// statement.
func (c *Conn) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	scope, err := c.enterStatement(ctx, sql, nil)
	if err != nil {
		return failedRow(err)
	}
	st := c.statement(sql, args)
	rows, _ := c.pool().queryOn(ctx, c.rows.next(), &st, scope, nil)
	return asRow(rows) // its error waits for Scan
}

// Exec runs sql.
func (c *Conn) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	scope, err := c.enterStatement(ctx, sql, nil)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	st := c.statement(sql, args)
	return c.pool().execOn(ctx, &st, scope, nil)
}

// Run executes a call with its scope.
func (c *Conn) Run(ctx context.Context, call *providers.Call) error {
	scope, err := c.enterStatement(ctx, call.SQL, call.Scope)
	if err != nil {
		return err
	}
	st := c.statement(call.SQL, call.Args)
	return c.pool().run(ctx, &st, c.rows.next, call, scope, nil)
}

// Begin starts a transaction on this connection, which stays the borrower's
// after its end.
func (c *Conn) Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	t, err := c.begin(ctx, opts)
	if err != nil {
		return nil, err // not a nil *Tx
	}
	return t, nil
}

func (c *Conn) begin(ctx context.Context, opts providers.TxOptions) (*Tx, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if err := c.pool().within(ctx, c.confined); err != nil {
		return nil, err
	}
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.use.leave()
	return c.pool().beginOn(ctx, c.lease, c, opts, c.confined, nil)
}

// SendBatch sends every statement of b in one flush.
func (c *Conn) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if changesMeaning(c.confined, nil) {
		return sendInBlock(ctx, c, b)
	}
	confined, err := c.pool().confinedBatch(b, c.confined)
	if err == nil {
		err = c.pool().within(ctx, c.confined)
	}
	if err == nil {
		err = c.enter()
	}
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	if c.lease.conn().PgConn().TxStatus() != 'I' && beginsTx(b) {
		c.use.leave()
		return pgx.FailedBatchResults(b, errInTx)
	}
	r := &batchResults{ctx: ctx, batch: b, st: statement{lease: c.lease, use: &c.use}}
	c.pool().sendBatch(r, c.lease.conn(), confined)
	r.adopt(c, c.confined)
	return r
}

// CopyFrom loads rows by COPY.
func (c *Conn) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	if c.pool().cfg.Scope != nil {
		return inScope(ctx, c, func(tx *Tx) (int64, error) { return tx.CopyFrom(ctx, table, columns, src) })
	}
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

// confineRaw has the session itself keep the scope, for those who go past the
// methods.
func (c *Conn) confineRaw() error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.use.leave()
	if c.lease.s.raw {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), abandonTimeout)
	defer cancel()
	err := c.pool().confineSession(ctx, c.lease.s, c.confined)
	c.lease.s.raw, c.lease.s.scope = err == nil, c.confined
	return err
}

// Unwrap returns the pgx connection underneath, or nil after Release, or while it
// cannot be confined to its scope. Since whoever has it could go on using it, the
// connection is closed at its release instead of reused.
func (c *Conn) Unwrap() *pgx.Conn {
	if c.lease.lost() {
		return nil
	}
	c.lease.s.retire()
	if len(c.confined) > 0 && c.confineRaw() != nil {
		return nil
	}
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
