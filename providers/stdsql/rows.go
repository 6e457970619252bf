package stdsql

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// rows are database/sql's rows as pgx's. Values go through PostgreSQL's text
// form, so that pgx's own types scan them.
type rows struct {
	// Rows answers what pgx adds to its interface later.
	pgx.Rows

	st       statement
	ctx      context.Context //nolint:containedctx // that of the statement, whose results these are
	unbind   func()
	firing   *providers.Firing
	inner    *sql.Rows
	prepared *sql.Stmt
	// inScope says that the rows end the transaction of the statement's scope.
	inScope bool

	types  *pgtype.Map
	fields []pgconn.FieldDescription
	values []any
	dest   []any
	raw    [][]byte
	// current says that there is a row, loaded that raw holds it.
	current, loaded bool
	read            int64
	command         string

	done bool
	err  error
}

func newRows(ctx context.Context, st statement) *rows {
	r := &rows{st: st, command: st.sql}
	r.st.holdToOrder(ctx)
	r.ctx, r.firing = st.lease.pool.startHook(ctx, providers.EventQuery, st.sql)
	r.firing.SetPID(st.lease.pid)
	return r
}

// open sends the statement.
func (r *rows) open() (pgx.Rows, error) {
	returned := false
	defer func() {
		if !returned { // an argument of the application panicked
			r.finish(errPanicked)
		}
	}()
	err := r.send()
	returned = true
	if err != nil {
		r.Rows = failedRows(err)
		r.finish(r.closeScope(err))
		return r, r.err
	}
	r.Rows = failedRows(errNoRow)
	return r, nil
}

func (r *rows) send() error {
	if err := r.st.ready(r.ctx, opQuery); err != nil {
		return err
	}
	if len(r.st.scope) > 0 {
		if err := r.st.openScope(r.ctx); err != nil {
			return err
		}
		r.inScope = true
	}
	err := r.ask()
	if err == nil {
		err = r.describe()
	}
	if err != nil {
		_ = r.shut() // what the driver closes with is this error again
		r.st.failed()
		return r.st.lease.fault(r.ctx, opQuery, err)
	}
	return nil
}

// ask has the driver run the statement.
func (r *rows) ask() (err error) {
	var bound context.Context
	bound, r.unbind = r.st.lease.bound(r.ctx)
	conn := r.st.lease.conn
	if (!r.st.lease.native || r.st.single) && len(r.st.args) == 0 && sqltext.IsSeveral(r.st.sql) {
		// Without arguments a driver would let the server run all of them, and
		// show the first result only.
		if r.prepared, err = conn.PrepareContext(bound, r.st.sql); err != nil {
			return err
		}
		r.inner, err = r.prepared.QueryContext(bound) //nolint:sqlclosecheck,rowserrcheck // shut does both
		return err
	}
	r.inner, err = conn.QueryContext(bound, r.st.sql, r.st.args...) //nolint:sqlclosecheck,rowserrcheck // shut does both
	return err
}

func (r *rows) describe() error {
	columns, err := r.inner.ColumnTypes()
	if err != nil {
		return err
	}
	names, kinds := make([]string, len(columns)), make([]string, len(columns))
	for i, c := range columns {
		names[i], kinds[i] = c.Name(), c.DatabaseTypeName()
	}
	r.types = r.st.lease.pool.types.Get().(*pgtype.Map)
	r.fields = describe(r.types, names, kinds)
	r.values, r.dest, r.raw = make([]any, len(columns)), make([]any, len(columns)), make([][]byte, len(columns))
	for i := range r.values {
		r.dest[i] = &r.values[i]
	}
	return nil
}

// Next moves to the next row. After the last one, or an error, everything is
// given back.
func (r *rows) Next() bool {
	if r.done {
		return false
	}
	r.current, r.loaded = r.inner.Next(), false
	if r.current {
		r.read++
		return true
	}
	r.Close()
	return false
}

// load reads the row in text form.
func (r *rows) load() error {
	if !r.current {
		return errNoRow
	}
	if r.loaded {
		return nil
	}
	if err := r.inner.Scan(r.dest...); err != nil {
		return err
	}
	for i, v := range r.values {
		var err error
		if r.raw[i], err = asText(r.fields[i].DataTypeOID, v); err != nil {
			return err
		}
	}
	r.loaded = true
	return nil
}

// Scan reads the row. An error closes the rows, as in pgx.
func (r *rows) Scan(dest ...any) error {
	if r.done {
		return errors.Join(errNoRow, r.err)
	}
	if len(dest) == 1 {
		if whole, ok := dest[0].(pgx.RowScanner); ok {
			return r.fail(whole.ScanRow(r))
		}
	}
	if err := r.load(); err != nil {
		return r.fail(err)
	}
	return r.fail(pgx.ScanRow(r.types, r.fields, r.raw, dest...))
}

// Values reads the row into the types that pgx reads it into. An error closes
// the rows, as in pgx.
func (r *rows) Values() ([]any, error) {
	if r.done {
		return nil, errors.Join(errNoRow, r.err)
	}
	if err := r.load(); err != nil {
		return nil, r.fail(err)
	}
	values := make([]any, len(r.raw))
	for i, raw := range r.raw {
		if raw == nil {
			continue
		}
		t, known := r.types.TypeForOID(r.fields[i].DataTypeOID)
		if !known {
			values[i] = string(raw)
			continue
		}
		v, err := t.Codec.DecodeValue(r.types, t.OID, pgx.TextFormatCode, raw)
		if err != nil {
			return nil, r.fail(err)
		}
		values[i] = v
	}
	return values, nil
}

// RawValues are the values in text form.
func (r *rows) RawValues() [][]byte {
	if r.done || r.load() != nil {
		return nil
	}
	return r.raw
}

// fail closes the rows for an error of the reader's.
func (r *rows) fail(err error) error {
	if err != nil && !r.done {
		if shutErr := r.shut(); shutErr != nil {
			err = errors.Join(err, shutErr)
		}
		r.finish(r.closeScope(r.st.lease.fault(r.ctx, opQuery, err)))
	}
	return err
}

// FieldDescriptions describe the columns, as far as the driver knows them.
func (r *rows) FieldDescriptions() []pgconn.FieldDescription { return r.fields }

// TypeMap is what the values are decoded with, until the rows are closed.
func (r *rows) TypeMap() *pgtype.Map { return r.types }

// Conn is nil: there is no pgx connection.
func (r *rows) Conn() *pgx.Conn { return nil }

// CommandTag has the statement's first word and the number of rows that were
// read.
func (r *rows) CommandTag() pgconn.CommandTag {
	if !r.done {
		return pgconn.CommandTag{}
	}
	return commandTag(r.command, r.read)
}

// Err is what went wrong, known for certain once the rows are closed.
func (r *rows) Err() error { return r.err }

// Close ends the rows and gives the connection back. The driver reads what the
// server still sends, so cancel the context first to abandon a long result.
func (r *rows) Close() {
	if r.done {
		return
	}
	err := r.shut()
	if err != nil {
		r.st.failed()
	}
	r.finish(r.closeScope(r.st.lease.fault(r.ctx, opQuery, err)))
}

// shut closes what the driver has open.
func (r *rows) shut() error {
	var err error
	if r.inner != nil {
		err = r.inner.Err()
		if closeErr := r.inner.Close(); err == nil {
			err = closeErr
		}
		if err == nil {
			err = r.inner.Err()
		}
	}
	if r.prepared != nil {
		err = closePrepared(r.prepared, err)
	}
	if r.unbind != nil {
		r.unbind()
	}
	return err
}

// closeScope ends the transaction of a scope.
func (r *rows) closeScope(err error) error {
	if !r.inScope {
		return err
	}
	r.inScope = false
	return r.st.closeScope(r.ctx, opQuery, err)
}

func (r *rows) finish(err error) {
	r.done, r.err, r.current = true, err, false
	r.st.order.tell(r.ctx, err)
	r.firing.End(r.read, err)
	r.st.end()
	if r.types != nil {
		r.st.lease.pool.types.Put(r.types)
	}
	// The object may outlive the query by long: keep no more than its errors.
	r.ctx, r.unbind, r.firing, r.inner, r.prepared, r.types, r.st = nil, nil, nil, nil, nil, nil, statement{}
	r.values, r.dest, r.raw = nil, nil, nil
}

// row is rows of which only the first is read.
type row struct {
	rows    pgx.Rows
	scanned bool
}

func newRow(rows pgx.Rows) pgx.Row { return &row{rows: rows} }

// Scan reads the first row into dest and gives the connection back. Without a
// row the error is [pgx.ErrNoRows].
func (r *row) Scan(dest ...any) error {
	if r.scanned {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return errScannedTwice
	}
	r.scanned = true
	return providers.ScanFirst(r.rows, dest)
}
