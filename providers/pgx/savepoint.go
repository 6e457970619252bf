package pgx

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/savepoints"
)

// Begin starts a savepoint with a name of pgkeel's choice.
func (t *Tx) Begin(ctx context.Context) (pgx.Tx, error) {
	sp, err := t.Savepoint(ctx, "")
	if err != nil {
		return nil, err
	}
	return sp.(*Tx), nil
}

// Savepoint starts a savepoint. A name must fit an identifier: not over 63
// bytes, no NUL, valid UTF-8.
func (t *Tx) Savepoint(ctx context.Context, name string) (providers.Tx, error) {
	if err := savepoints.Check(name); err != nil {
		return nil, &notSentError{err}
	}
	ctx, cancel, err := t.enter(ctx, "savepoint")
	if err != nil {
		return nil, err
	}
	defer t.leave(cancel)
	r := t.root
	sp := &Tx{root: r, savepoint: r.savepoints.New(name), before: r.applied}
	if err := sp.control(ctx, "savepoint", sp.savepoint.BeginSQL()); err != nil {
		return nil, err
	}
	sp.savepoint.Begun()
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

// release ends a savepoint and keeps its work. Where that is not possible the
// work is undone, so that it is not committed by the transaction around it
// although it failed.
func (t *Tx) release(ctx context.Context) error {
	r := t.root
	var err error
	switch {
	case ctx.Err() != nil:
		err = r.pool.mapError(ctx, "release", ctx.Err())
	case r.lease.conn().PgConn().TxStatus() == 'E':
		err = pgx.ErrTxCommitRollback // as COMMIT does after a statement failed
	default:
		err = t.control(ctx, "release", t.savepoint.ReleaseSQL())
	}
	if err == nil {
		t.savepoint.Released()
		return nil
	}
	_ = t.undo(ctx) // at the worst the whole transaction is
	return &providers.TxError{Result: providers.OutcomeRolledBack, Operation: "release", Attempts: 1, Err: err}
}

// undo goes back to a savepoint and ends it.
func (t *Tx) undo(ctx context.Context) error {
	r := t.root
	ctx, stop := detached(ctx)
	defer stop()
	if err := t.control(ctx, "rollback to", t.savepoint.UndoSQL()); err != nil {
		t.savepoint.Failed()
		return err
	}
	t.savepoint.Undone()
	r.applied = t.before
	return nil
}
