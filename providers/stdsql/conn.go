package stdsql

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// Conn is a connection that one borrower holds until Release. A session that its
// statements left dirty is closed then.
type Conn struct {
	lease *lease
	use   use
	// confined is the scope that it was taken in.
	confined []providers.Setting

	mu sync.Mutex
	// tx is the transaction that is open on it.
	tx *Tx
}

var _ providers.Conn = (*Conn)(nil)

func (c *Conn) enter() error {
	if err := c.use.enter(); err != nil {
		return err
	}
	if c.lease.isOver() {
		c.use.leave()
		return providers.ErrReleased
	}
	if c.lease.gone.Load() {
		c.use.leave()
		return errConnLost
	}
	return nil
}

// openTx is the transaction that is open on the connection, if any.
func (c *Conn) openTx() *Tx {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tx == nil || c.tx.closed {
		return nil
	}
	return c.tx
}

// statement begins a statement of the connection's. Inside a transaction that is
// open on it, it is the transaction's as well.
func (c *Conn) statement(ctx context.Context, op string, scope []providers.Setting, sql string, args []any) (statement, error) {
	if err := c.lease.pool.stays(ctx, c.confined); err != nil {
		return statement{}, err
	}
	if err := c.enter(); err != nil {
		return statement{}, err
	}
	st := statement{lease: c.lease, use: &c.use, tx: c.openTx(), sql: sql, args: args, effects: sqltext.Classify(sql)}
	if st.tx == nil {
		st.confine(ctx, c.confined, scope)
		return st, nil
	}
	var err error
	if ctx.Err() == nil {
		if err = st.tx.settle(ctx, op, scope); err != nil {
			st.end()
		}
	}
	return st, err
}

// Query runs sql and returns its rows. Close them before the next statement.
func (c *Conn) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	st, err := c.statement(ctx, opQuery, nil, sql, args)
	if err != nil {
		return failedRows(err), err
	}
	return c.lease.pool.query(ctx, st)
}

// QueryRow runs sql and returns its first row. Scan it before the next
// statement.
func (c *Conn) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := c.Query(ctx, sql, args...) // its error waits for Scan
	return newRow(rows)
}

// Exec runs sql. Without arguments it may hold several statements.
func (c *Conn) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	st, err := c.statement(ctx, opExec, nil, sql, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return c.lease.pool.exec(ctx, st)
}

// Run executes a call with its scope.
func (c *Conn) Run(ctx context.Context, call *providers.Call) error {
	st, err := c.statement(ctx, call.Kind.String(), call.Scope, call.SQL, call.Args)
	if err != nil {
		return err
	}
	return c.lease.pool.run(ctx, st, call)
}

// Begin starts a transaction on this connection, which stays the borrower's
// after its end.
func (c *Conn) Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if err := c.lease.pool.stays(ctx, c.confined); err != nil {
		return nil, err
	}
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.use.leave()
	t, err := c.lease.pool.begin(ctx, c.lease, c, c.confined, opts)
	if err != nil {
		return nil, err
	}
	c.setTx(t)
	return t, nil
}

func (c *Conn) setTx(t *Tx) {
	c.mu.Lock()
	c.tx = t
	c.mu.Unlock()
}

// Ping makes one round trip, in no scope.
func (c *Conn) Ping(ctx context.Context) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.use.leave()
	return c.lease.ping(ctx)
}

// Release gives the connection back to the pool. It may be called twice. While a
// statement or a result that was not closed occupies the connection, it is closed
// under them. A transaction still open on it is rolled back.
func (c *Conn) Release() {
	if c.use.enter() != nil {
		c.lease.evict()
		return
	}
	if !c.lease.isOver() && c.lease.inTx.Load() {
		c.lease.undo(context.Background())
	}
	c.lease.release()
	c.use.leave()
}
