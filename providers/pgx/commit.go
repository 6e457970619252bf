package pgx

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// rollbackTimeout bounds a rollback, which does not end with the caller's
// context: a transaction whose context is dead is just the one to roll back.
const rollbackTimeout = 2 * time.Second

// The operations that end a transaction.
const (
	opCommit   = "commit"
	opRollback = "rollback"
)

// Commit makes the transaction durable, or releases the savepoint. An error is
// a [*providers.TxError] that says what became of the work.
func (t *Tx) Commit(ctx context.Context) error {
	ctx, cancel, err := t.enter(ctx, opCommit)
	if err != nil {
		return err
	}
	defer t.leave(cancel)
	if t != t.root {
		return t.release(ctx)
	}
	if t.savepoints.IsPoisoned() {
		return t.abandon(ctx, providers.ErrTxPoisoned)
	}
	if ctx.Err() != nil {
		return t.abandon(ctx, t.pool.mapError(ctx, opCommit, &notSentError{ctx.Err()}))
	}
	return t.commitRoot(ctx)
}

// abandon rolls back instead of committing.
func (t *Tx) abandon(ctx context.Context, why error) error {
	_ = t.rollbackRoot(ctx) // at the worst the connection is closed, which rolls back
	return &providers.TxError{Result: providers.OutcomeRolledBack, Operation: opCommit, Attempts: 1, Err: why}
}

func (t *Tx) commitRoot(ctx context.Context) error {
	t.mu.Lock()
	t.committing = true
	t.mu.Unlock()
	ctx, f := t.pool.startHook(ctx, providers.EventCommit, "", t.lease.s.pid)
	lost := t.lease.conn().PgConn().IsClosed()
	if !lost && t.lease.conn().PgConn().TxStatus() == 'I' {
		return t.endedBehind(ctx, f, opCommit)
	}
	o := t.orderOfCommit(ctx)
	if t.lease.s.unreplicated.Load() {
		t.lease.s.unreplicated.Store(false) // of what went past pgkeel
	}
	err := t.lease.s.replicated(ctx, opCommit, t.commit(t.lease.s.watch(ctx), o))
	if err != nil {
		result := providers.OutcomeRolledBack
		if !lost { // else COMMIT was not sent
			result = commitOutcome(err)
		}
		err = &providers.TxError{Result: result, Operation: opCommit, Attempts: 1, Err: t.pool.mapError(ctx, opCommit, err)}
	}
	o.tell(ctx, err)
	f.End(0, err)
	t.finish()
	return err
}

// endedBehind ends a transaction that a statement of its user ended, or another
// holder of the connection. How, nobody here can say.
func (t *Tx) endedBehind(ctx context.Context, f *providers.Firing, op string) error {
	err := &providers.TxError{Result: providers.OutcomeUnknown, Operation: op, Attempts: 1, Err: errEndedBehind}
	t.orderOfCommit(ctx).tell(ctx, err)
	f.End(0, err)
	t.finish()
	return err
}

// commit has the server commit. A limit of time that belonged to the last call
// would apply to COMMIT as well, so it ends in the same flush. Other settings
// stay for the triggers that run at the end.
func (t *Tx) commit(ctx context.Context, o *order) error {
	var limits strings.Builder
	for _, s := range t.applied {
		if name := strings.ToLower(s.Name); name == "statement_timeout" || name == "lock_timeout" {
			limits.WriteString("set local " + name + " to default; ")
		}
	}
	conn := t.lease.conn()
	if conn.PgConn().TxStatus() != 'T' {
		return t.inner.Commit(ctx)
	}
	var err error
	switch {
	case o.asks():
		err = o.commit(ctx, limits.String())
	case limits.Len() > 0:
		before := t.lease.s.dirt
		_, err = conn.Exec(ctx, limits.String()+"commit")
		t.lease.s.dirt = before
	default:
		return t.inner.Commit(ctx)
	}
	if err != nil && conn.PgConn().TxStatus() != 'I' {
		_ = conn.Close(ctx) // as the driver does; the server rolls back
	}
	if t.large.Load() {
		_ = t.inner.Commit(ended()) // sends nothing, and closes what large objects work with
	}
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
	case errors.Is(err, pgconn.ErrConnClosed):
		// pgx says so of a connection that it lost while it waited, too, and
		// calls it safe to retry.
		return providers.OutcomeUnknown
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
// under them, which undoes it as well; a savepoint then cannot be undone, and
// the transaction around it not be committed.
func (t *Tx) Rollback(ctx context.Context) error {
	_, cancel, err := t.enter(ctx, opRollback)
	if errors.Is(err, providers.ErrConcurrentUse) {
		return t.rollbackInUse(err)
	}
	if err != nil {
		return err
	}
	defer t.leave(cancel)
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
	ctx, f := t.pool.startHook(context.WithoutCancel(ctx), providers.EventRollback, "", t.lease.s.pid)
	if pg := t.lease.conn().PgConn(); !pg.IsClosed() && !pg.IsBusy() && pg.TxStatus() == 'I' {
		return t.endedBehind(ctx, f, opRollback)
	}
	err := t.rollback(ctx)
	if err != nil {
		err = &providers.TxError{
			Result: providers.OutcomeRolledBack, Operation: opRollback, Attempts: 1,
			Err: t.pool.mapError(ctx, opRollback, err),
		}
	}
	t.order.undone(ctx, err)
	f.End(0, err)
	t.finish()
	return err
}

// rollback has the server roll back. When its time is over the connection is closed,
// which does the same: there is nothing to cancel.
func (t *Tx) rollback(ctx context.Context) error {
	conn := t.lease.conn()
	limit := time.AfterFunc(rollbackTimeout, func() { _ = conn.PgConn().Conn().Close() })
	err := t.inner.Rollback(ctx)
	if !limit.Stop() {
		_ = conn.Close(ended()) // also if the answer came in the same moment
	}
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
	if t.owned {
		t.lease.release()
	}
}

// detached keeps a context's values but not its end.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
}
