package outcome

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgkeel/pgkeel/providers"
)

// DDL makes the table of markers, unless it is there. It is run on first use; an
// administrator has to run it where the application's role may not, and to grant
// that role SELECT, INSERT, UPDATE and DELETE on it.
const DDL = `create table if not exists public.pgkeel_markers (
	key uuid constraint pgkeel_markers_pkey primary key,
	fenced boolean not null default false,
	created_at timestamptz not null default current_timestamp,
	checked_at timestamptz
)`

// constraint is the primary key's name.
const constraint = "pgkeel_markers_pkey"

// The SQLSTATEs that tell of the table.
const (
	codeLockNotAvailable = "55P03"
	codeUndefinedTable   = "42P01"
	codeNoPrivilege      = "42501"
	codeNoSchema         = "3F000"
)

// ErrFenced means that the transaction was fenced: it is not committed and never
// can be.
var ErrFenced = errors.New("pgkeel: outcome: the transaction was fenced off, and can never commit")

// TableError means that the table of markers cannot be used, so that nothing was
// begun.
type TableError struct {
	// Err is the server's error.
	Err error
}

func (e *TableError) Error() string {
	return "pgkeel: outcome: the table public.pgkeel_markers cannot be used; nothing was sent: have an administrator run outcome.DDL " +
		"in this database, and grant select, insert, update, delete on public.pgkeel_markers to the role that works here: " + e.Err.Error()
}

// Unwrap returns the server's error.
func (e *TableError) Unwrap() error { return e.Err }

// Outcome is always OutcomeNotSent.
func (e *TableError) Outcome() providers.Outcome { return providers.OutcomeNotSent }

// create makes the table. Others can do so at the same time.
func (m *Markers) create(ctx context.Context) error {
	err := m.inTx(ctx, func(tx providers.Tx) error {
		_, err := tx.Exec(ctx, DDL)
		return err
	})
	var pg *providers.PGError
	if !errors.As(err, &pg) {
		return err
	}
	switch {
	case pg.IsUniqueViolation(), pg.IsDuplicateObject():
		return nil // somebody else made it in the same moment
	case pg.Code == codeNoPrivilege, pg.Code == codeNoSchema:
		return &TableError{pg}
	default:
		return err
	}
}

// explain makes the error of a transaction that did not begin say what is wrong
// with its marker.
func explain(err error) error {
	var pg *providers.PGError
	if !errors.As(err, &pg) {
		return err
	}
	switch {
	case pg.Code == codeNoPrivilege:
		err = &TableError{pg}
	case pg.IsUniqueViolation() && pg.Constraint == constraint:
		err = fmt.Errorf("%w: %w", ErrFenced, pg)
	default:
		return err
	}
	return &providers.TxError{Result: providers.OutcomeNotSent, Operation: "begin", Attempts: 1, Err: err}
}

// hasCode reports whether the server's error has the code.
func hasCode(err error, code string) bool {
	var pg *providers.PGError
	return errors.As(err, &pg) && pg.Code == code
}

// inTx runs fn in a transaction of the package's own. That it writes is said
// outright: sessions, and the context, may be for reading unless told otherwise.
func (m *Markers) inTx(ctx context.Context, fn func(tx providers.Tx) error) error {
	tx, err := m.pool.Begin(ctx, providers.TxOptions{Isolation: providers.ReadCommitted, Access: providers.ReadWrite})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after a commit it does nothing
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}
