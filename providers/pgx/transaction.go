package pgx

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/savepoints"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// Tx is a transaction, or a savepoint inside one. It is a [pgx.Tx], so what
// takes one takes this.
type Tx struct {
	// root is the transaction itself; for it, root is the Tx.
	root *Tx
	// savepoint is nil for the root.
	savepoint *savepoints.Savepoint
	// before are the settings that were in force when the savepoint began.
	before []providers.Setting

	// What follows is used in the root only.

	closed   bool
	pool     *Pool
	lease    lease
	owned    bool
	borrower *Conn // keeps the borrowed connection reachable
	inner    pgx.Tx
	// confined is the scope that it began in.
	confined []providers.Setting
	// order is what the context that it began with holds it to.
	order *order
	// reads says that it was declared to only read.
	reads bool
	// use is the transaction's own, or that of the borrowed connection, which
	// the two share.
	use        *use
	ownUse     use
	rows       rowSource
	savepoints savepoints.Stack
	// applied are the settings that a call left behind in the transaction,
	// touched the names of all that ever were.
	applied []providers.Setting
	touched []string
	// large says that somebody has pgx's own access to large objects.
	large atomic.Bool

	// undone says that the transaction's limit rolled it back, undoing the same
	// to those who come meanwhile.
	undone   bool
	undoing  atomic.Bool
	deadline time.Time
	expired  atomic.Bool

	mu         sync.Mutex
	timer      *time.Timer
	ended      bool
	committing bool
}

var (
	_ providers.Tx      = (*Tx)(nil)
	_ providers.Batcher = (*Tx)(nil)
	_ providers.Copier  = (*Tx)(nil)
	_ pgx.Tx            = (*Tx)(nil)
)

// beginOn starts a transaction on a borrowed connection, which borrower keeps, or
// which goes back with the transaction if there is none. The first statement is
// optional.
func (p *Pool) beginOn(ctx context.Context, l lease, borrower *Conn, opts providers.TxOptions, scope []providers.Setting, first *providers.Statement) (*Tx, error) {
	ctx, f := p.startHook(ctx, providers.EventBegin, sqlOf(first), l.s.pid)
	if p.cfg.ReadOnly && !p.readsOnly && opts.Access == providers.AccessDefault {
		opts.Access = providers.ReadOnly
	}
	var inner pgx.Tx
	o := p.orderOfTx(ctx, l.s, opts)
	err := errInTx // BEGIN inside a transaction only makes the server warn
	if l.conn().PgConn().TxStatus() == 'I' {
		inner, err = p.beginOrdered(l.s.watch(ctx), o, l.s, pgxTxOptions(opts), scope, first)
		l.unwatch()
	}
	if err != nil {
		err = p.mapError(ctx, "begin", err)
		if first == nil {
			err = &providers.TxError{Result: providers.OutcomeNotSent, Operation: "begin", Attempts: 1, Err: err}
		} else {
			err = failedStart(err)
		}
		f.End(0, err)
		if borrower == nil {
			l.release()
		}
		return nil, err
	}
	f.End(0, nil)
	t := p.newTx(l, borrower, inner, scope)
	t.order = o
	t.reads = opts.Access == providers.ReadOnly
	if opts.Timeout > 0 {
		t.limit(opts.Timeout)
	}
	return t, nil
}

func (p *Pool) newTx(l lease, borrower *Conn, inner pgx.Tx, scope []providers.Setting) *Tx {
	t := &Tx{pool: p, lease: l, borrower: borrower, owned: borrower == nil, inner: inner, confined: scope}
	t.root = t
	if t.owned {
		t.use = &t.ownUse
		l.anchor(t)
	} else {
		t.use = &borrower.use
	}
	return t
}

func pgxTxOptions(o providers.TxOptions) pgx.TxOptions {
	opts := pgx.TxOptions{IsoLevel: pgx.TxIsoLevel(o.Isolation), AccessMode: pgx.TxAccessMode(o.Access)}
	if o.Deferrable {
		opts.DeferrableMode = pgx.Deferrable
	}
	return opts
}

// enter begins a use of the transaction. The context it returns ends with the
// transaction's own limit as well.
func (t *Tx) enter(ctx context.Context, op string) (context.Context, context.CancelFunc, error) {
	r := t.root
	ends := op == opCommit || op == opRollback
	if !ends {
		if err := r.pool.within(ctx, r.confined); err != nil {
			return ctx, nil, err
		}
	}
	if err := r.use.enter(); err != nil {
		if r.undoing.Load() {
			err = undoneByLimit(op) // what uses it is the rollback
		}
		return ctx, nil, err
	}
	if t.savepoint.IsOver() || r.closed || r.lease.lost() {
		defer r.use.leave()
		if r.undone || !r.closed && r.expired.Load() {
			return ctx, nil, undoneByLimit(op)
		}
		return ctx, nil, pgx.ErrTxClosed
	}
	if r.lease.conn().PgConn().IsClosed() && !ends {
		r.use.leave()
		return ctx, nil, errConnLost
	}
	if len(r.confined) > 0 && !ends && r.lease.conn().PgConn().TxStatus() == 'I' {
		r.use.leave()
		return ctx, nil, &notSentError{errEndedBehind} // the scope ended with it
	}
	ctx = r.asReader(ctx)
	if r.deadline.IsZero() {
		return ctx, nil, nil
	}
	ctx, cancel := context.WithDeadlineCause(ctx, r.deadline, errTxTimeout)
	return ctx, cancel, nil
}

// undoneByLimit is the error of an operation that comes after the transaction's
// limit.
func undoneByLimit(op string) error {
	return &providers.TxError{Result: providers.OutcomeRolledBack, Operation: op, Attempts: 1, Err: &providers.TimeoutError{
		Operation: op, Limit: limitTx, Err: &notSentError{pgx.ErrTxClosed}, Context: context.DeadlineExceeded,
	}}
}

// enterPlain begins a use for a statement that has no scope.
func (t *Tx) enterPlain(ctx context.Context, op string) (context.Context, context.CancelFunc, error) {
	ctx, cancel, err := t.enter(ctx, op)
	if err != nil || !t.isScoped() {
		return ctx, cancel, err
	}
	if err := t.restore(ctx, op); err != nil {
		t.leave(cancel)
		return ctx, nil, err
	}
	return ctx, cancel, nil
}

func (t *Tx) statement(cancel context.CancelFunc, sql string, args []any) statement {
	args = t.root.pool.guarded(args, t.root.confined, true)
	return statement{lease: t.root.lease, use: t.root.use, cancel: cancel, sql: sql, args: args}
}

// enterStatement is enterPlain for a statement, which must not end the scope.
func (t *Tx) enterStatement(ctx context.Context, op, sql string) (context.Context, context.CancelFunc, error) {
	if r := t.root; len(r.confined) > 0 && r.pool.endsScope(sql) {
		return ctx, nil, providers.ErrEndsScope
	}
	return t.enterPlain(ctx, op)
}

// leave ends a use of the transaction.
func (t *Tx) leave(cancel context.CancelFunc) {
	st := t.statement(cancel, "", nil)
	st.end()
}

// Query runs sql and returns its rows. Close them before the next statement.
func (t *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	ctx, cancel, err := t.enterStatement(ctx, opQuery, sql)
	if err != nil {
		return failedRows(err), err
	}
	st := t.statement(cancel, sql, args)
	return t.root.pool.queryOn(ctx, t.root.rows.next(), &st, nil, nil)
}

// QueryRow runs sql and returns its first row. Scan it before the next
// statement.
func (t *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	ctx, cancel, err := t.enterStatement(ctx, opQuery, sql)
	if err != nil {
		return failedRow(err)
	}
	st := t.statement(cancel, sql, args)
	rows, _ := t.root.pool.queryOn(ctx, t.root.rows.next(), &st, nil, nil)
	return asRow(rows) // its error waits for Scan
}

// Exec runs sql.
func (t *Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	ctx, cancel, err := t.enterStatement(ctx, opExec, sql)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	st := t.statement(cancel, sql, args)
	return t.root.pool.execOn(ctx, &st, nil, nil)
}

// Run executes a call with its scope, which holds until the transaction's next
// call.
func (t *Tx) Run(ctx context.Context, call *providers.Call) error {
	if len(call.Scope) == 0 {
		ctx, cancel, err := t.enterStatement(ctx, call.Kind.String(), call.SQL)
		if err != nil {
			return err
		}
		st := t.statement(cancel, call.SQL, call.Args)
		return t.root.pool.run(ctx, &st, t.root.rows.next, call, nil, nil)
	}
	if r := t.root; len(r.confined) > 0 && r.pool.endsScope(call.SQL) {
		return providers.ErrEndsScope
	}
	ctx, cancel, err := t.enter(ctx, call.Kind.String())
	if err != nil {
		return err
	}
	st := t.statement(cancel, call.SQL, call.Args)
	return t.runScoped(ctx, &st, call)
}

// SendBatch sends every statement of b in one flush.
func (t *Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	b, err := t.root.pool.checkedBatch(b, t.root.confined, true)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	ctx, cancel, err := t.enterPlain(ctx, opBatch)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	// The driver's transaction refuses a batch that begins one.
	r := &batchResults{ctx: ctx, batch: b, st: t.statement(cancel, "", nil)}
	t.root.pool.sendBatch(r, t.root.inner, b)
	return r
}

// CopyFrom loads rows by COPY.
func (t *Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	ctx, cancel, err := t.enterPlain(ctx, opCopy)
	if err != nil {
		return 0, err
	}
	defer t.leave(cancel)
	return t.root.pool.copyFrom(ctx, t.root.lease.conn(), table, columns, src)
}

// Prepare makes a prepared statement under a name.
func (t *Tx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	ctx, cancel, err := t.enterStatement(ctx, "prepare", sql)
	if err != nil {
		return nil, err
	}
	defer t.leave(cancel)
	t.root.lease.s.dirt |= sqltext.Prepared
	sd, err := t.root.lease.conn().Prepare(ctx, name, sql)
	return sd, t.root.pool.mapError(ctx, "prepare", err)
}

// LargeObjects returns pgx's interface to large objects. What it does is not
// guarded against concurrent use, runs in the scope of the last call, and when
// the transaction's time is over the connection is closed under it.
func (t *Tx) LargeObjects() pgx.LargeObjects {
	t.root.large.Store(true)
	return t.root.inner.LargeObjects()
}

// Conn returns the raw connection, or nil after the end. Since whoever has it
// could go on using it, the connection is closed after the transaction instead
// of reused.
func (t *Tx) Conn() *pgx.Conn {
	if t.root.lease.lost() {
		return nil
	}
	t.root.lease.s.retire()
	return t.root.lease.conn()
}
