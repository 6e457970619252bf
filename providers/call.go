package providers

import (
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// errDriverBytes refuses what pgx's own Row refuses.
var errDriverBytes = errors.New("pgkeel: cannot scan into *pgtype.DriverBytes from QueryRow: " +
	"the bytes belong to the connection, which is back in the pool; scan into *[]byte")

// CallKind says which operation a [Call] is.
type CallKind uint8

// The kinds of calls.
const (
	// CallQuery returns rows.
	CallQuery CallKind = iota
	// CallExec returns a command tag only.
	CallExec
)

// String returns the operation's name as hooks and errors print it.
func (k CallKind) String() string {
	if k == CallExec {
		return "exec"
	}
	return "query"
}

// Setting is a run-time parameter that holds for one call, or, inside a
// transaction, until the next call of the transaction that sets it again.
type Setting struct {
	// Name of the parameter, such as "statement_timeout".
	Name string
	// Value in the parameter's text form. In milliseconds for timeouts.
	Value string
}

// Call is one thing that a user asked for, on its way through the layers to
// the provider. A layer never makes a round trip of its own: it writes on the
// call what it needs, and the provider sends all of it in one flush.
type Call struct {
	// Kind is the operation.
	Kind CallKind
	// SQL is the statement, in pgx's syntax.
	SQL string
	// Args are its arguments. As in pgx, the first ones may be options.
	Args []any
	// InTx says that the call belongs to a transaction in progress.
	InTx bool
	// Scope are settings for this call alone.
	Scope []Setting

	// Rows is the result of a CallQuery.
	Rows pgx.Rows
	// Tag is the result of a CallExec.
	Tag pgconn.CommandTag
}

// FirstRow makes a [pgx.Row] of rows: its Scan reads the first row and closes
// them. Without a row its error is [pgx.ErrNoRows].
func FirstRow(rows pgx.Rows) pgx.Row { return firstRow{rows} }

type firstRow struct{ rows pgx.Rows }

// Scan reads the first row into dest.
func (r firstRow) Scan(dest ...any) error { return ScanFirst(r.rows, dest) }

// ScanFirst reads the first row into dest and closes the rows, also when a Scanner
// of the application panics. Without a row its error is [pgx.ErrNoRows].
func ScanFirst(rows pgx.Rows, dest []any) error {
	defer rows.Close()
	for _, d := range dest {
		if _, ok := d.(*pgtype.DriverBytes); ok {
			return errDriverBytes
		}
	}
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	scanErr := rows.Scan(dest...)
	rows.Close() // the statement has only succeeded once its end was read
	if err := rows.Err(); err != nil {
		return err
	}
	return scanErr
}
