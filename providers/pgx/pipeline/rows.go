package pipeline

import (
	"encoding/binary"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/providers/pgx/decode"
)

// Result is what a statement came to. Release it, or make rows of it and close
// those.
type Result struct {
	*request

	codec *codec
}

// Tag is the command tag. With an error it is empty.
func (r *Result) Tag() pgconn.CommandTag {
	if r.err != nil {
		return pgconn.CommandTag{}
	}
	return r.tag
}

// PID is the server's process that ran the statement.
func (r *Result) PID() uint32 { return r.pid }

// Err is the server's error, or nil.
func (r *Result) Err() error { return r.err }

// Unreplicated reports whether the statement's commit stopped waiting for its
// synchronous standby, so that a failover may lose it.
func (r *Result) Unreplicated() bool { return r.err == nil && r.unreplicated }

// SetErr replaces the error by one that says more.
func (r *Result) SetErr(err error) { r.err = err }

// Release gives the result's memory back. It must be called once.
func (r *Result) Release() {
	r.codec.release()
	r.recycle()
	r.request, r.codec = nil, nil
}

// Rows are a result's rows. Everything is there already: they hold no
// connection.
type Rows struct {
	// Rows is what methods that later releases of pgx add fall back on.
	pgx.Rows

	// Finished runs when the rows are closed. Optional.
	Finished func(tag pgconn.CommandTag, err error)

	result Result
	// at is where the next row begins.
	at     int
	fields []pgconn.FieldDescription
	err    error
	tag    pgconn.CommandTag
	closed bool
	// scanning says that a row is being read.
	scanning bool
}

// noRows answers for what Rows does not.
var noRows, _ = pgx.FailedBatchResults(&pgx.Batch{}, errors.New("pipeline: not a method of a pipelined result")).Query()

// NewRows makes rows of a result, which they then own.
func NewRows(r Result) *Rows {
	r.codec.read(r.request)
	return &Rows{Rows: noRows, result: r, fields: r.codec.columns.Fields}
}

// Next moves to the next row.
func (r *Rows) Next() bool {
	if r.closed || r.at == len(r.result.rows) {
		r.Close()
		return false
	}
	left := r.result.rows[r.at:]
	size := int(binary.BigEndian.Uint32(left))
	r.at += 4 + size
	return r.fail(r.cut(left[4:4+size])) == nil
}

// cut finds the values of a row.
func (r *Rows) cut(body []byte) error {
	if len(body) < 2 {
		return errBadRow
	}
	n := int(binary.BigEndian.Uint16(body))
	body = body[2:]
	values := r.result.codec.values[:0]
	for range n {
		if len(body) < 4 {
			return errBadRow
		}
		size := int(int32(binary.BigEndian.Uint32(body))) //nolint:gosec // -1 is NULL
		body = body[4:]
		if size < 0 {
			values = append(values, nil)
			continue
		}
		if len(body) < size {
			return errBadRow
		}
		values = append(values, body[:size:size])
		body = body[size:]
	}
	r.result.codec.values = values
	return nil
}

var errBadRow = errors.New("pipeline: a row that is not well formed")

// Scan reads the row into dest, as pgx does.
func (r *Rows) Scan(dest ...any) error {
	if r.closed {
		return r.orClosed()
	}
	around := r.scanning // a Scanner of the application can read its own row
	r.scanning = true
	err := r.result.codec.columns.Scan(r, r.result.codec.values, dest)
	r.scanning = around
	return r.fail(err)
}

// Values decodes the row, as pgx does.
func (r *Rows) Values() ([]any, error) {
	if r.closed {
		return nil, r.orClosed()
	}
	values, err := r.result.codec.columns.Values(r.result.codec.values)
	return values, r.fail(err)
}

// orClosed is why closed rows have nothing to read.
func (r *Rows) orClosed() error {
	if r.err != nil {
		return r.err
	}
	return decode.ErrClosed
}

// fail closes the rows with an error of reading them. It returns err.
func (r *Rows) fail(err error) error {
	if err != nil && !r.closed {
		r.finish(err)
	}
	return err
}

// Close gives the memory of the result back.
func (r *Rows) Close() {
	if !r.closed {
		r.finish(r.result.err)
	}
}

func (r *Rows) finish(err error) {
	r.closed = true
	r.tag = r.result.Tag()
	r.err = err
	if !r.scanning { // else a Scanner of the application closed them, or panicked
		r.result.Release()
	}
	if r.Finished != nil {
		r.Finished(r.tag, r.err)
	}
	r.Finished = nil
}

// Closed reports whether there is nothing more to read.
func (r *Rows) Closed() bool { return r.closed }

// Err is what went wrong. It is known for certain once the rows are closed.
func (r *Rows) Err() error { return r.err }

// CommandTag is known once the rows are closed.
func (r *Rows) CommandTag() pgconn.CommandTag { return r.tag }

// FieldDescriptions are the columns.
func (r *Rows) FieldDescriptions() []pgconn.FieldDescription { return r.fields }

// RawValues are valid until the next row.
func (r *Rows) RawValues() [][]byte {
	if r.closed {
		return nil
	}
	return r.result.codec.values
}

// Conn is nil: the rows hold no connection.
func (r *Rows) Conn() *pgx.Conn { return nil }

// TypeMap is what values are decoded with, or nil when the rows are closed.
func (r *Rows) TypeMap() *pgtype.Map {
	if r.closed {
		return nil
	}
	return r.result.codec.types
}
