package stdsql

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/savepoints"
)

// Savepoint starts a savepoint. A name must fit an identifier: not over 63 bytes,
// no NUL, valid UTF-8. An empty one lets the provider choose.
func (t *Tx) Savepoint(ctx context.Context, name string) (providers.Tx, error) {
	if err := savepoints.Check(name); err != nil {
		return nil, refused(err)
	}
	ctx, cancel, err := t.enterIn(ctx, "savepoint")
	if err != nil {
		return nil, err
	}
	st := t.statement(cancel, "", nil)
	defer st.end()
	if ctx.Err() != nil {
		return nil, notSent(ctx, "savepoint", ctx.Err())
	}
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
	r := t.root
	var f *providers.Firing
	if r.pool.hooks != nil {
		ctx, f = r.pool.hooks.Start(ctx, providers.HookInfo{Event: providers.EventSavepoint, Name: op, SQL: sql, PID: r.lease.pid})
	}
	err := errConnLost
	if !r.lease.gone.Load() {
		err = r.lease.fault(ctx, op, r.lease.control(ctx, sql))
	}
	if err != nil {
		r.tainted = true
	}
	f.End(0, err)
	return err
}

// release ends a savepoint and keeps its work. Where that is not possible the
// work is undone, so that it is not committed by the transaction around it
// although it failed.
func (t *Tx) release(ctx context.Context) error {
	var err error
	if ctx.Err() != nil {
		err = notSent(ctx, "release", ctx.Err())
	} else {
		err = t.control(ctx, "release", t.savepoint.ReleaseSQL())
	}
	if err == nil {
		t.savepoint.Released()
		return nil
	}
	if hasCode(err, codeFailedTx) {
		err = pgx.ErrTxCommitRollback // as COMMIT does after a statement failed
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
	r.applied, r.tainted = t.before, false
	return nil
}
