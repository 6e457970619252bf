package pgx

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/providers"
)

// rowReader has the rows of a source in COPY's binary format. The driver reads it
// on a goroutine of its own, where a panic of the source, or of a value that
// encodes itself, would end the program: one guard a buffer, rather than one a row,
// keeps it for the caller.
type rowReader struct {
	source  pgx.CopyFromSource
	types   *pgtype.Map
	columns []pgconn.FieldDescription
	// cut ends the connection. The driver would wait for ever for a goroutine that
	// the source ended.
	cut func()

	// reading is held by a Read under way: of a connection that is lost the driver
	// returns without waiting for it.
	reading sync.Mutex
	stopped bool

	buffer   []byte // what is encoded, from next on still to be read
	next     int
	rows     int
	begun    bool
	over     bool
	err      error
	panicked any
}

// errSourceFailed is what the server hears: what the source says is not for its log.
var errSourceFailed = errors.New("pgkeel: the client's source of rows failed")

// copyHeader has no flags and no extension.
const copyHeader = "PGCOPY\n\377\r\n\000" + "\000\000\000\000" + "\000\000\000\000"

// copyBuffers are reused. They grow with the largest row.
var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 0, feedSize+feedSize/8); return &b }}

// mostCopyBuffer is the largest buffer that is kept.
const mostCopyBuffer = 1 << 20

// Read encodes rows until b is full.
func (r *rowReader) Read(b []byte) (n int, err error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	if r.stopped {
		return 0, errFeedOver
	}
	if !r.over {
		rest := copy(r.buffer, r.buffer[r.next:]) // what did not fit into the last one
		r.buffer, r.next = r.buffer[:rest], 0
		if !r.begun {
			r.begun, r.buffer = true, append(r.buffer, copyHeader...)
		}
		r.fill(len(b))
	}
	if r.err != nil || r.panicked != nil {
		return 0, errSourceFailed
	}
	n = copy(b, r.buffer[r.next:])
	r.next += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// stop waits for a Read under way, and ends those to come.
func (r *rowReader) stop() {
	r.reading.Lock()
	defer r.reading.Unlock()
	r.stopped = true
}

// fill encodes rows until so many bytes are there, or the source has no more.
func (r *rowReader) fill(size int) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if r.panicked = recover(); r.panicked == nil { // runtime.Goexit
			r.err = &rowError{row: r.rows + 1, reason: "the source ended its goroutine", cause: errPanicked}
			r.cut()
		}
	}()
	for len(r.buffer)-r.next < size && r.err == nil {
		if !r.source.Next() {
			r.over = true
			r.err = r.source.Err()
			break
		}
		var values []any
		if values, r.err = r.source.Values(); r.err == nil {
			r.err = r.encode(values)
		}
	}
	returned = true
}

// encode adds a row.
func (r *rowReader) encode(values []any) error {
	if len(values) != len(r.columns) {
		return &rowError{row: r.rows + 1, reason: fmt.Sprintf("the source has %d values for %d columns", len(values), len(r.columns))}
	}
	r.rows++
	r.buffer = binary.BigEndian.AppendUint16(r.buffer, uint16(len(values))) //nolint:gosec // a table has at most 1,600
	for i, value := range values {
		at := len(r.buffer)
		r.buffer = append(r.buffer, 0xff, 0xff, 0xff, 0xff) // NULL
		encoded, err := encodeBinary(r.types, r.columns[i].DataTypeOID, value, r.buffer)
		if err != nil {
			return r.unfit(r.columns[i], value, err)
		}
		if encoded != nil {
			r.buffer = encoded
			binary.BigEndian.PutUint32(encoded[at:], uint32(len(encoded)-at-4)) //nolint:gosec // the server takes no larger one
		}
	}
	return nil
}

// unfit says that a value cannot be sent as its column's type.
func (r *rowReader) unfit(column pgconn.FieldDescription, value any, err error) error {
	kind := "its type"
	if known, ok := r.types.TypeForOID(column.DataTypeOID); ok {
		kind = known.Name
	}
	return &rowError{
		row: r.rows, column: column.Name, value: value, cause: err,
		reason: fmt.Sprintf("a value of the Go type %T cannot be encoded as %s", value, kind),
	}
}

// rowError is why a row of a source was not sent, in a text without values: the
// driver's own, which quotes them, stays in the chain. The COPY was given up, so
// nothing was loaded.
type rowError struct {
	row    int
	column string
	reason string
	value  any
	cause  error
}

func (e *rowError) Error() string {
	at := fmt.Sprintf("row %d", e.row)
	if e.column != "" {
		at += fmt.Sprintf(", column %q", e.column)
	}
	return "pgkeel: copy: " + at + ": " + e.reason + "; rolled back"
}

func (e *rowError) Unwrap() error              { return e.cause }
func (e *rowError) Outcome() providers.Outcome { return providers.OutcomeRolledBack }

// Fault is what package bulk makes its own error of.
func (e *rowError) Fault() (row int, column, reason string, value any) {
	return e.row, e.column, e.reason, e.value
}

// encodeBinary appends a value in the binary format; nil stands for NULL. A value
// that has no such form for the type, such as a string for a number, is read from
// its text first, as the driver does.
func encodeBinary(types *pgtype.Map, oid uint32, value any, buffer []byte) ([]byte, error) {
	encoded, err := types.Encode(oid, pgtype.BinaryFormatCode, value, buffer)
	if err == nil {
		return encoded, nil
	}
	text, ok := value.(string)
	if !ok {
		b, textErr := types.Encode(oid, pgtype.TextFormatCode, value, nil)
		if textErr != nil {
			return nil, err
		}
		text = string(b)
	}
	if read, textErr := fromText(types, oid, text); textErr == nil {
		if encoded, textErr = types.Encode(oid, pgtype.BinaryFormatCode, read, buffer); textErr == nil {
			return encoded, nil
		}
	}
	return nil, err
}

// fromText reads a value from its text. An array keeps its dimensions.
func fromText(types *pgtype.Map, oid uint32, text string) (any, error) {
	if typ, ok := types.TypeForOID(oid); ok {
		if _, ok := typ.Codec.(*pgtype.ArrayCodec); ok {
			var array pgtype.Array[any]
			if err := types.Scan(oid, pgtype.TextFormatCode, []byte(text), &array); err == nil {
				return array, nil
			}
		}
	}
	var value any
	err := types.Scan(oid, pgtype.TextFormatCode, []byte(text), &value)
	return value, err
}

// copyRows sends the rows of a source, and returns how many were loaded.
func (s *session) copyRows(ctx context.Context, table pgx.Identifier, columns []string, r *rowReader) (int64, error) {
	quoted := make([]string, len(columns))
	for i, column := range columns {
		quoted[i] = pgx.Identifier{column}.Sanitize()
	}
	into, list := table.Sanitize(), strings.Join(quoted, ", ")
	fields, err := s.describeColumns(ctx, "select "+list+" from "+into)
	if err != nil {
		return 0, err
	}
	buffer := copyBuffers.Get().(*[]byte)
	r.types, r.columns, r.cut, r.buffer = s.conn.TypeMap(), fields, s.cut, (*buffer)[:0]
	tag, err := s.conn.PgConn().CopyFrom(ctx, r, "copy "+into+" ("+list+") from stdin (format binary)")
	r.stop()
	if cap(r.buffer) <= mostCopyBuffer {
		*buffer = r.buffer[:0]
		copyBuffers.Put(buffer)
	}
	if err != nil {
		clear(s.copied) // perhaps the table is another one by now
	}
	return tag.RowsAffected(), err
}

// mostCopied is how many descriptions of tables a session keeps.
const mostCopied = 64

// describeColumns asks for the types of the columns, once a session.
func (s *session) describeColumns(ctx context.Context, sql string) ([]pgconn.FieldDescription, error) {
	if fields, ok := s.copied[sql]; ok {
		return fields, nil
	}
	sd, err := s.conn.PgConn().Prepare(ctx, "", sql, nil)
	if err != nil {
		return nil, err
	}
	if s.copied == nil || len(s.copied) >= mostCopied {
		s.copied = map[string][]pgconn.FieldDescription{}
	}
	s.copied[sql] = sd.Fields
	return sd.Fields, nil
}
