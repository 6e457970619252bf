package pgx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// rollbackTimeout bounds a rollback, which does not end with the caller's
// context: a transaction whose context is dead is just the one to roll back.
const rollbackTimeout = 5 * time.Second

// maxIdentifier is the longest identifier that PostgreSQL does not cut.
const maxIdentifier = 63

// Tx is a transaction, or a savepoint inside one. It is a [pgx.Tx], so what
// takes one takes this.
type Tx struct {
	// root is the transaction itself; for it, root is the Tx.
	root *Tx
	// savepoint is the quoted name; empty for the root.
	savepoint string
	closed    bool

	// What follows is used in the root only.

	pool     *Pool
	lease    lease
	owned    bool
	inner    pgx.Tx
	use      use
	rows     rowSource
	nested   int
	poisoned bool
	// applied are the settings that a call left behind in the transaction.
	applied []string

	deadline time.Time
	timer    *time.Timer
	expired  atomic.Bool
}

var (
	_ providers.Tx      = (*Tx)(nil)
	_ providers.Batcher = (*Tx)(nil)
	_ providers.Copier  = (*Tx)(nil)
	_ pgx.Tx            = (*Tx)(nil)
)

// begin starts a transaction on a borrowed connection.
func (p *Pool) begin(ctx context.Context, l lease, owned bool, opts providers.TxOptions) (*Tx, error) {
	ctx, f := p.startHook(ctx, providers.EventBegin, "", l.s.pid)
	inner, err := l.conn().BeginTx(ctx, pgxTxOptions(opts))
	if err != nil {
		err = &providers.TxError{
			Result: providers.OutcomeNotSent, Operation: "begin", Attempts: 1,
			Err: p.mapError(ctx, "begin", err),
		}
		f.End(0, err)
		if owned {
			l.release()
		}
		return nil, err
	}
	f.End(0, nil)
	t := p.newTx(l, owned, inner)
	if opts.Timeout > 0 {
		t.limit(opts.Timeout)
	}
	return t, nil
}

func (p *Pool) newTx(l lease, owned bool, inner pgx.Tx) *Tx {
	t := &Tx{pool: p, lease: l, owned: owned, inner: inner}
	t.root = t
	if owned {
		l.anchor(t)
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

// limit has the transaction rolled back after a time, whatever its user does.
func (t *Tx) limit(timeout time.Duration) {
	t.deadline = time.Now().Add(timeout)
	t.use.after = t.rollbackExpired
	t.timer = time.AfterFunc(timeout, func() {
		t.expired.Store(true)
		t.rollbackExpired()
	})
}

// rollbackExpired rolls back a transaction whose time is over, unless a
// statement is under way: that one ends by its own deadline and comes back here.
func (t *Tx) rollbackExpired() {
	if !t.expired.Load() || !t.use.busy.CompareAndSwap(false, true) {
		return
	}
	if !t.closed {
		_ = t.rollbackRoot(context.Background())
	}
	t.use.busy.Store(false)
}

// enter begins a use of the transaction. The context it returns ends with the
// transaction's own limit as well.
func (t *Tx) enter(ctx context.Context, op string) (context.Context, context.CancelFunc, error) {
	r := t.root
	if err := r.use.enter(); err != nil {
		return ctx, nil, err
	}
	if t.closed || r.closed {
		defer r.use.leave()
		if r.expired.Load() {
			return ctx, nil, &providers.TxError{Result: providers.OutcomeRolledBack, Operation: op, Attempts: 1, Err: &providers.TimeoutError{
				Operation: op, Limit: limitTx, Err: pgx.ErrTxClosed, Context: context.DeadlineExceeded,
			}}
		}
		return ctx, nil, pgx.ErrTxClosed
	}
	if r.deadline.IsZero() {
		return ctx, nil, nil
	}
	ctx, cancel := context.WithDeadlineCause(ctx, r.deadline, errTxTimeout)
	return ctx, cancel, nil
}

func (t *Tx) statement(cancel context.CancelFunc, sql string, args []any) statement {
	return statement{lease: t.root.lease, use: &t.root.use, cancel: cancel, sql: sql, args: args}
}

// Query runs sql and returns its rows. Close them before the next statement.
func (t *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	ctx, cancel, err := t.enter(ctx, opQuery)
	if err != nil {
		return failedRows(err), err
	}
	if len(t.root.applied) > 0 {
		call := &providers.Call{Kind: providers.CallQuery, SQL: sql, Args: args}
		err := t.run(ctx, cancel, call)
		if call.Rows == nil {
			return failedRows(err), err
		}
		return call.Rows, err
	}
	return t.root.pool.query(ctx, t.root.rows.next(), t.statement(cancel, sql, args))
}

// QueryRow runs sql and returns its first row. Scan it before the next
// statement.
func (t *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	ctx, cancel, err := t.enter(ctx, opQuery)
	if err != nil {
		return failedRow(err)
	}
	if len(t.root.applied) > 0 {
		call := &providers.Call{Kind: providers.CallQuery, SQL: sql, Args: args}
		if err := t.run(ctx, cancel, call); err != nil {
			return failedRow(err)
		}
		return providers.FirstRow(call.Rows)
	}
	return t.root.pool.queryRow(ctx, t.root.rows.next(), t.statement(cancel, sql, args))
}

// Exec runs sql.
func (t *Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	ctx, cancel, err := t.enter(ctx, opExec)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	if len(t.root.applied) > 0 {
		call := &providers.Call{Kind: providers.CallExec, SQL: sql, Args: args}
		err := t.run(ctx, cancel, call)
		return call.Tag, err
	}
	defer t.statement(cancel, "", nil).end()
	return t.root.pool.exec(ctx, t.root.lease.conn(), sql, args)
}

// Run executes a call with its scope, which holds until the transaction's next
// call.
func (t *Tx) Run(ctx context.Context, call *providers.Call) error {
	ctx, cancel, err := t.enter(ctx, call.Kind.String())
	if err != nil {
		return err
	}
	return t.run(ctx, cancel, call)
}

// run executes a call. Settings of an earlier call that this one does not make
// go back to their defaults in the same flush.
func (t *Tx) run(ctx context.Context, cancel context.CancelFunc, call *providers.Call) error {
	r := t.root
	stale := slices.DeleteFunc(slices.Clone(r.applied), func(name string) bool {
		return slices.ContainsFunc(call.Scope, func(s providers.Setting) bool { return s.Name == name })
	})
	err := r.pool.run(ctx, t.statement(cancel, call.SQL, call.Args), r.rows.next, call, stale)
	if err == nil {
		r.applied = r.applied[:0]
		for _, s := range call.Scope {
			r.applied = append(r.applied, s.Name)
		}
	}
	return err
}

// SendBatch sends every statement of b in one flush.
func (t *Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	ctx, cancel, err := t.enter(ctx, opBatch)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return t.root.pool.sendBatch(ctx, t.statement(cancel, "", nil), b)
}

// CopyFrom loads rows by COPY.
func (t *Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	ctx, cancel, err := t.enter(ctx, opCopy)
	if err != nil {
		return 0, err
	}
	defer t.statement(cancel, "", nil).end()
	return t.root.pool.copyFrom(ctx, t.root.lease.conn(), table, columns, src)
}

// Prepare makes a prepared statement under a name.
func (t *Tx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	ctx, cancel, err := t.enter(ctx, "prepare")
	if err != nil {
		return nil, err
	}
	defer t.statement(cancel, "", nil).end()
	t.root.lease.s.dirt |= dirtPrepared
	sd, err := t.root.lease.conn().Prepare(ctx, name, sql)
	return sd, t.root.pool.mapError(ctx, "prepare", err)
}

// LargeObjects returns pgx's interface to large objects.
func (t *Tx) LargeObjects() pgx.LargeObjects { return t.root.inner.LargeObjects() }

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

// Begin starts a savepoint with a name of pgkeel's choice.
func (t *Tx) Begin(ctx context.Context) (pgx.Tx, error) {
	sp, err := t.Savepoint(ctx, "")
	if err != nil {
		return nil, err
	}
	return sp.(*Tx), nil
}

// Savepoint starts a savepoint. A name must fit an identifier: not over 63
// bytes, no NUL.
func (t *Tx) Savepoint(ctx context.Context, name string) (providers.Tx, error) {
	if len(name) > maxIdentifier || strings.ContainsRune(name, 0) {
		return nil, fmt.Errorf("pgkeel: savepoint name of %d bytes: at most %d, without NUL; nothing was sent", len(name), maxIdentifier)
	}
	ctx, cancel, err := t.enter(ctx, "savepoint")
	if err != nil {
		return nil, err
	}
	defer t.statement(cancel, "", nil).end()
	if name == "" {
		t.root.nested++
		name = fmt.Sprintf("pgkeel_%d", t.root.nested)
	}
	sp := &Tx{root: t.root, savepoint: pgx.Identifier{name}.Sanitize()}
	if err := sp.control(ctx, "savepoint", "savepoint "+sp.savepoint); err != nil {
		return nil, err
	}
	return sp, nil
}

// control runs a savepoint's statement.
func (t *Tx) control(ctx context.Context, op, sql string) error {
	p, conn := t.root.pool, t.root.lease.conn()
	var f *providers.Firing
	if p.observed(providers.EventSavepoint) {
		ctx, f = p.hooks.Start(ctx, providers.HookInfo{Event: providers.EventSavepoint, Name: op, SQL: sql, PID: pidOf(conn)})
	}
	_, err := conn.Exec(ctx, sql)
	err = p.mapError(ctx, op, err)
	f.End(0, err)
	return err
}

// Commit makes the transaction durable, or releases the savepoint. An error is
// a [*providers.TxError] that says what became of the work.
func (t *Tx) Commit(ctx context.Context) error {
	ctx, cancel, err := t.enter(ctx, "commit")
	if err != nil {
		return err
	}
	defer t.statement(cancel, "", nil).end()
	if t != t.root {
		t.closed = true
		return t.control(ctx, "release", "release savepoint "+t.savepoint)
	}
	if t.poisoned {
		return t.abandon(ctx, providers.ErrTxPoisoned)
	}
	if ctx.Err() != nil {
		return t.abandon(ctx, t.pool.mapError(ctx, "commit", ctx.Err()))
	}
	return t.commitRoot(ctx)
}

// abandon rolls back instead of committing.
func (t *Tx) abandon(ctx context.Context, why error) error {
	_ = t.rollbackRoot(ctx) // at the worst the connection is closed, which rolls back
	return &providers.TxError{Result: providers.OutcomeRolledBack, Operation: "commit", Attempts: 1, Err: why}
}

func (t *Tx) commitRoot(ctx context.Context) error {
	ctx, f := t.pool.startHook(ctx, providers.EventCommit, "", t.lease.s.pid)
	err := t.inner.Commit(ctx)
	if err != nil {
		err = &providers.TxError{
			Result: commitOutcome(err), Operation: "commit", Attempts: 1,
			Err: t.pool.mapError(ctx, "commit", err),
		}
	}
	f.End(0, err)
	t.finish()
	return err
}

// commitOutcome tells what a failed COMMIT did.
func commitOutcome(err error) providers.Outcome {
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return providers.OutcomeRolledBack // the server said ROLLBACK
	case errors.As(err, &pg):
		return providers.OutcomeOf(err)
	case pgconn.SafeToRetry(err):
		// COMMIT never left, and pgx closed the connection, so the server
		// rolls back.
		return providers.OutcomeRolledBack
	default:
		return providers.OutcomeUnknown
	}
}

// Rollback undoes the transaction, or what was done since the savepoint. It
// works with a context that has ended. While another goroutine, or a result
// that was not closed, occupies the transaction, it closes the connection
// under them, which undoes it as well.
func (t *Tx) Rollback(ctx context.Context) error {
	_, cancel, err := t.enter(ctx, "rollback")
	if errors.Is(err, providers.ErrConcurrentUse) && t == t.root {
		t.root.lease.evict()
		return nil
	}
	if err != nil {
		return err
	}
	defer t.statement(cancel, "", nil).end()
	if t == t.root {
		return t.rollbackRoot(ctx)
	}
	t.closed = true
	ctx, stop := detached(ctx)
	defer stop()
	err = t.control(ctx, "rollback to", "rollback to savepoint "+t.savepoint+"; release savepoint "+t.savepoint)
	if err != nil {
		// What the savepoint was to undo is still there, and must not be
		// committed with the rest.
		t.root.poisoned = true
	}
	return err
}

func (t *Tx) rollbackRoot(ctx context.Context) error {
	ctx, stop := detached(ctx)
	defer stop()
	ctx, f := t.pool.startHook(ctx, providers.EventRollback, "", t.lease.s.pid)
	err := t.inner.Rollback(ctx)
	if err != nil {
		err = &providers.TxError{
			Result: providers.OutcomeRolledBack, Operation: "rollback", Attempts: 1,
			Err: t.pool.mapError(ctx, "rollback", err),
		}
	}
	f.End(0, err)
	t.finish()
	return err
}

// finish ends the transaction and gives the connection back.
func (t *Tx) finish() {
	t.closed = true
	if t.timer != nil {
		t.timer.Stop()
	}
	if t.owned {
		t.lease.release()
	}
}

// detached keeps a context's values but not its end.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
}
