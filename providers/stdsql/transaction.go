package stdsql

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/savepoints"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// rollbackTimeout bounds a rollback, which does not end with the caller's
// context: a transaction whose context is dead is just the one to roll back.
const rollbackTimeout = 5 * time.Second

// The operations that end a transaction.
const (
	opCommit   = "commit"
	opRollback = "rollback"
)

// Tx is a transaction, or a savepoint inside one.
type Tx struct {
	// root is the transaction itself; for it, root is the Tx.
	root *Tx
	// savepoint is nil for the root.
	savepoint *savepoints.Savepoint
	// before are the settings that were in force when the savepoint began.
	before []providers.Setting

	// What follows is used in the root only.

	closed     bool
	pool       *Pool
	lease      *lease
	borrower   *Conn // nil if the connection is the transaction's own
	use        *use
	ownUse     use
	savepoints savepoints.Stack
	// confined is the scope that the transaction began in.
	confined []providers.Setting
	// order is what the context that it began with holds it to; reads says that it
	// was declared to only read.
	order *order
	reads bool
	// applied are the settings in force: those, and what a call left behind.
	// touched are all that calls ever made.
	applied, touched []providers.Setting
	// tainted says that something failed, so that the server may have failed
	// the transaction. database/sql does not tell; the server does when asked.
	tainted bool

	// undone says that the transaction's limit rolled it back.
	undone   bool
	deadline time.Time
	expired  atomic.Bool

	mu         sync.Mutex
	timer      *time.Timer
	ended      bool
	committing bool
}

var _ providers.Tx = (*Tx)(nil)

// begin starts a transaction on a borrowed connection, which borrower keeps, or
// which goes back with the transaction if there is none.
func (p *Pool) begin(ctx context.Context, l *lease, borrower *Conn, confined []providers.Setting, opts providers.TxOptions) (*Tx, error) {
	ctx, f := p.startHook(ctx, providers.EventBegin, "")
	f.SetPID(l.pid)
	o, reads := l.order(ctx), opts.Access == providers.ReadOnly
	if o != nil {
		o.reads, o.ends = reads, true
	}
	err := l.beginTx(ctx, o, confined, opts)
	f.End(0, err)
	if err != nil {
		if borrower == nil {
			l.release()
		}
		return nil, err
	}
	t := &Tx{pool: p, lease: l, borrower: borrower, confined: confined, applied: confined, order: o, reads: reads}
	t.root, t.use = t, &t.ownUse
	if borrower != nil {
		t.use = &borrower.use
	}
	if opts.Timeout > 0 {
		t.limit(opts.Timeout)
	}
	return t, nil
}

func (l *lease) beginTx(ctx context.Context, o *order, confined []providers.Setting, opts providers.TxOptions) error {
	var err error
	switch {
	case l.inTx.Load(): // BEGIN inside a transaction only makes the server warn
		err = refused(errInTx)
	case l.begunInSQL():
		err = refused(errSQLTx)
	case ctx.Err() != nil:
		err = notSent(ctx, "begin", ctx.Err())
	default:
		if err = o.pass(ctx, "begin"); err != nil {
			break
		}
		l.inTx.Store(true)
		err = l.control(ctx, beginSQL(opts))
		if err == nil && len(confined) > 0 {
			err = l.set(ctx, confined, nil)
		}
		if err = l.fault(ctx, "begin", err); err != nil {
			l.undo(ctx)
		}
	}
	if err != nil {
		return &providers.TxError{Result: providers.OutcomeNotSent, Operation: "begin", Attempts: 1, Err: err}
	}
	return nil
}

// beginSQL begins with just what was asked for. That is not left to the driver:
// some add READ WRITE by themselves, which fails on a standby.
func beginSQL(o providers.TxOptions) string {
	var b strings.Builder
	b.WriteString("begin")
	if o.Isolation != providers.IsolationDefault {
		b.WriteString(" isolation level " + string(o.Isolation))
	}
	if o.Access != providers.AccessDefault {
		b.WriteString(" " + string(o.Access))
	}
	if o.Deferrable {
		b.WriteString(" deferrable")
	}
	return b.String()
}

// enter begins a use of the transaction. The context it returns ends with the
// transaction's own limit as well.
func (t *Tx) enter(ctx context.Context, op string) (context.Context, context.CancelFunc, error) {
	r := t.root
	if err := r.use.enter(); err != nil {
		return ctx, nil, err
	}
	if t.savepoint.IsOver() || r.closed || r.lease.isOver() {
		defer r.use.leave()
		if r.undone || !r.closed && r.expired.Load() {
			return ctx, nil, expiredError(op)
		}
		return ctx, nil, pgx.ErrTxClosed
	}
	if r.lease.gone.Load() && op != opCommit && op != opRollback {
		r.use.leave()
		return ctx, nil, errConnLost
	}
	if r.deadline.IsZero() {
		return ctx, nil, nil
	}
	ctx, cancel := context.WithDeadlineCause(ctx, r.deadline, errTxTimeout)
	return ctx, cancel, nil
}

func (t *Tx) statement(cancel context.CancelFunc, sql string, args []any) statement {
	return statement{lease: t.root.lease, use: t.root.use, tx: t, cancel: cancel, sql: sql, args: args, effects: sqltext.Classify(sql)}
}

// enterIn begins a use by a context, which must be of the transaction's scope.
func (t *Tx) enterIn(ctx context.Context, op string) (context.Context, context.CancelFunc, error) {
	if err := t.root.pool.stays(ctx, t.root.confined); err != nil {
		return ctx, nil, err
	}
	return t.enter(ctx, op)
}

// enterScope begins a use for a statement, and makes its settings.
func (t *Tx) enterScope(ctx context.Context, op string, scope []providers.Setting, sql string, args []any) (context.Context, statement, error) {
	ctx, cancel, err := t.enterIn(ctx, op)
	if err != nil {
		return ctx, statement{}, err
	}
	st := t.statement(cancel, sql, args)
	if ctx.Err() == nil {
		err = t.settle(ctx, op, scope)
	}
	if err != nil {
		st.end()
	}
	return ctx, st, err
}

// Query runs sql and returns its rows. Close them before the next statement.
func (t *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	ctx, st, err := t.enterScope(ctx, opQuery, nil, sql, args)
	if err != nil {
		return failedRows(err), err
	}
	return t.root.pool.query(ctx, st)
}

// QueryRow runs sql and returns its first row. Scan it before the next
// statement.
func (t *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := t.Query(ctx, sql, args...) // its error waits for Scan
	return newRow(rows)
}

// Exec runs sql. Without arguments it may hold several statements.
func (t *Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	ctx, st, err := t.enterScope(ctx, opExec, nil, sql, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return t.root.pool.exec(ctx, st)
}

// Run executes a call with its scope, which holds until the transaction's next
// call.
func (t *Tx) Run(ctx context.Context, call *providers.Call) error {
	ctx, st, err := t.enterScope(ctx, call.Kind.String(), call.Scope, call.SQL, call.Args)
	if err != nil {
		return err
	}
	return t.root.pool.run(ctx, st, call)
}

// Commit makes the transaction durable, or releases the savepoint. An error is a
// [*providers.TxError] that says what became of the work.
func (t *Tx) Commit(ctx context.Context) error {
	ctx, cancel, err := t.enter(ctx, opCommit)
	if err != nil {
		return err
	}
	st := t.statement(cancel, "", nil)
	defer st.end()
	if t != t.root {
		return t.release(ctx)
	}
	switch {
	case t.savepoints.IsPoisoned():
		err = providers.ErrTxPoisoned
	case ctx.Err() != nil:
		err = notSent(ctx, opCommit, ctx.Err())
	case t.lease.gone.Load():
		err = errConnLost
	}
	if err != nil {
		_ = t.rollbackRoot(ctx) // at the worst the connection is closed, which rolls back
		return &providers.TxError{Result: providers.OutcomeRolledBack, Operation: opCommit, Attempts: 1, Err: err}
	}
	return t.commitRoot(ctx)
}

// probe readies the transaction for COMMIT. One that has failed the server would
// answer with ROLLBACK, which database/sql does not show. A limit of time that
// belonged to the last call would apply to COMMIT as well, so it ends.
func (t *Tx) probe(ctx context.Context) error {
	var limits []string
	for _, s := range t.applied[len(t.confined):] {
		if name := strings.ToLower(s.Name); name == "statement_timeout" || name == "lock_timeout" {
			limits = append(limits, name)
		}
	}
	sql, args := "select 1", []any(nil)
	if len(limits) > 0 {
		sql, args = settingsSQL(t.confined, limits)
	} else if !t.tainted {
		return nil
	}
	err := t.lease.control(ctx, sql, args...)
	if hasCode(err, codeFailedTx) {
		return pgx.ErrTxCommitRollback
	}
	return t.lease.fault(ctx, opCommit, err)
}

func (t *Tx) commitRoot(ctx context.Context) error {
	t.mu.Lock()
	t.committing = true
	t.mu.Unlock()
	ctx, f := t.pool.startHook(ctx, providers.EventCommit, "")
	f.SetPID(t.lease.pid)
	result := providers.OutcomeRolledBack // COMMIT is not sent unless all is well
	err := t.probe(ctx)
	if err == nil {
		if err = t.lease.control(ctx, "commit"); err != nil {
			result = commitOutcome(err)
			err = t.lease.fault(ctx, opCommit, err)
		}
	}
	if err == nil {
		t.lease.inTx.Store(false)
	} else {
		err = &providers.TxError{Result: result, Operation: opCommit, Attempts: 1, Err: err}
		t.lease.undo(ctx) // the session must not stay in a transaction
	}
	t.orderOfCommit(ctx).tell(ctx, err)
	f.End(0, err)
	t.finish()
	return err
}

// isUnsent reports that database/sql did not hand a statement to the driver.
func isUnsent(err error) bool { return errors.Is(err, sql.ErrConnDone) }

// commitOutcome tells what a failed COMMIT did. Nothing that a driver says about
// its connection is believed: some call a connection bad that they lost while
// they waited for the server's answer.
func commitOutcome(err error) providers.Outcome {
	if pg := pgError(err); pg != nil {
		return providers.OutcomeOf(pg)
	}
	if isUnsent(err) {
		return providers.OutcomeRolledBack // the connection is gone, and with it the transaction
	}
	return providers.OutcomeUnknown
}

// Rollback undoes the transaction, or what was done since the savepoint. It works
// with a context that has ended. While another goroutine, or a result that was
// not closed, occupies the transaction, it closes the connection under them,
// which undoes it as well; a savepoint then cannot be undone, and the transaction
// around it not be committed.
func (t *Tx) Rollback(ctx context.Context) error {
	_, cancel, err := t.enter(ctx, opRollback)
	if errors.Is(err, providers.ErrConcurrentUse) {
		return t.rollbackInUse(err)
	}
	if err != nil {
		return err
	}
	st := t.statement(cancel, "", nil)
	defer st.end()
	if t == t.root {
		return t.rollbackRoot(ctx)
	}
	return t.undo(ctx)
}

func (t *Tx) rollbackInUse(inUse error) error {
	if t != t.root {
		if !t.savepoint.Keep() {
			return pgx.ErrTxClosed
		}
		return inUse
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.committing || t.ended {
		return inUse // nobody can say that it is rolled back
	}
	if !t.lease.evict() {
		return pgx.ErrTxClosed
	}
	return nil
}

func (t *Tx) rollbackRoot(ctx context.Context) error {
	ctx, stop := detached(ctx)
	defer stop()
	ctx, f := t.pool.startHook(ctx, providers.EventRollback, "")
	f.SetPID(t.lease.pid)
	err := errConnLost
	if !t.lease.gone.Load() {
		err = t.lease.fault(ctx, opRollback, t.lease.control(ctx, "rollback"))
	}
	if err == nil {
		t.lease.inTx.Store(false)
	} else {
		t.lease.gone.Store(true) // it is closed, and the server rolls back
		err = &providers.TxError{Result: providers.OutcomeRolledBack, Operation: opRollback, Attempts: 1, Err: err}
	}
	t.order.undone(ctx, err)
	f.End(0, err)
	t.finish()
	return err
}

// finish ends the transaction and gives the connection back.
func (t *Tx) finish() {
	t.closed = true
	t.mu.Lock()
	t.ended = true
	if t.timer != nil {
		t.timer.Stop()
		t.use.after = nil
	}
	t.mu.Unlock()
	if t.borrower == nil {
		t.lease.release()
	} else {
		t.borrower.setTx(nil)
	}
}

// detached keeps a context's values but not its end.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
}
