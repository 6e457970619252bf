package stdsql

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// maxIdentifier is the longest identifier that PostgreSQL does not cut.
const maxIdentifier = 63

// Savepoint starts a savepoint. A name must fit an identifier: not over 63 bytes,
// no NUL, valid UTF-8. An empty one lets the provider choose.
func (t *Tx) Savepoint(ctx context.Context, name string) (providers.Tx, error) {
	if len(name) > maxIdentifier || strings.ContainsRune(name, 0) || !utf8.ValidString(name) {
		return nil, refused(fmt.Errorf("pgkeel: savepoint name of %d bytes: at most %d of UTF-8, without NUL", len(name), maxIdentifier))
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
	if name == "" {
		r.nested++
		name = "pgkeel_" + strconv.Itoa(r.nested)
	}
	sp := &Tx{root: r, savepoint: pgx.Identifier{name}.Sanitize(), before: r.applied}
	if err := sp.control(ctx, "savepoint", "savepoint "+sp.savepoint); err != nil {
		return nil, err
	}
	r.open = append(r.open, sp)
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
		err = t.control(ctx, "release", strings.Repeat("release savepoint "+t.savepoint+";", t.namesakes()))
	}
	if err == nil {
		t.pop()
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
	// ROLLBACK TO alone would keep the savepoint.
	one := "rollback to savepoint " + t.savepoint + "; release savepoint " + t.savepoint + ";"
	err := t.control(ctx, "rollback to", strings.Repeat(one, t.namesakes()))
	ended := t.pop()
	if err != nil {
		// What the savepoint was to undo is still there, and must not be
		// committed with the rest.
		r.poisons.Add(1)
		return err
	}
	r.applied, r.tainted = t.before, false
	for _, sp := range ended {
		if sp.kept.Swap(false) {
			r.poisons.Add(-1) // undone with this one
		}
	}
	return nil
}

// namesakes counts the savepoints of this name from here inwards. The server
// takes a name for the innermost of them.
func (t *Tx) namesakes() int {
	n := 0
	for _, sp := range t.inwards() {
		if sp.savepoint == t.savepoint {
			n++
		}
	}
	return n
}

// inwards are the savepoint and those inside of it.
func (t *Tx) inwards() []*Tx { return t.root.open[slices.Index(t.root.open, t):] }

// pop ends the savepoint and those inside of it, as the server does.
func (t *Tx) pop() []*Tx {
	ended := t.inwards()
	for _, sp := range ended {
		sp.closed = true
	}
	t.root.open = t.root.open[:len(t.root.open)-len(ended)]
	return ended
}
