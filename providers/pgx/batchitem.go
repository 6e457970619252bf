package pgx

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// batchItem is one statement of a stream.
type batchItem struct {
	index int
	// queued is as the caller wrote it; sql and args are what is sent.
	queued *pgx.QueuedQuery
	sql    string
	args   []any
	fn     func(pgx.BatchResults) error
	// refused says why it cannot be sent.
	refused   error
	described *described
	// block says that it needs an explicit transaction, commits that it needs one
	// where it is not alone.
	block, commits bool
	group          *group
	// stale is how it failed without having run.
	stale error
}

// The most items that are allocated at once, and the least.
const (
	mostItems  = 1024
	leastItems = 8
)

// buffers are what a stream works with, kept for the next.
type buffers struct {
	eqb     pgx.ExtendedQueryBuilder
	flights flights
	// chunk is what was read last.
	chunk []*batchItem
	// block has room for the items of the first chunk, of which first were used.
	block []batchItem
	first int
}

var bufferPool = sync.Pool{New: func() any { return new(buffers) }}

// recycle hands the buffers on when nothing is under way any more. Those that
// became large are left to the garbage collector.
func (b *buffers) recycle(s *stream) {
	s.buffers = nil
	if cap(b.flights.queue) > 4*mostItems || b.first > mostItems {
		return
	}
	clear(b.chunk)
	clear(b.flights.queue[:cap(b.flights.queue)])
	clear(b.block[:min(b.first, cap(b.block))])
	if b.first > cap(b.block) {
		b.block = make([]batchItem, 0, min(2*b.first, mostItems))
	}
	b.flights, b.chunk, b.first = flights{queue: b.flights.queue[:0]}, b.chunk[:0], 0
	bufferPool.Put(b)
}

// read takes the next statements from the source: as many as fit into a window,
// and whole groups if those do.
func (s *stream) read() []*batchItem {
	limit := s.call.MaxStatements
	if n := s.call.Group; n > 1 && n <= limit {
		limit = limit / n * n
	}
	first := len(s.report.States) == 0
	chunk := s.chunk[:0]
	var block []batchItem
	if first {
		block = s.block[:0]
		defer func() { s.first = len(s.chunk) }()
	}
	defer func() { s.chunk = chunk }()
	for size := 0; len(chunk) < limit && (size < s.call.MaxBytes || len(chunk) == 0); {
		q := s.next()
		if q == nil {
			return chunk
		}
		if len(block) == cap(block) {
			block = make([]batchItem, 0, min(max(leastItems, len(chunk)), mostItems, limit-len(chunk)))
		}
		block = append(block, batchItem{index: len(s.report.States), queued: q})
		it := &block[len(block)-1]
		s.report.States = append(s.report.States, providers.BatchNotAttempted)
		s.prepare(it)
		size += sizeOf(it.args, 1) + len(it.sql)/4 // most are repeated, and go by a name
		chunk = append(chunk, it)
	}
	s.peek() // whether these are the last decides how a group begins
	return chunk
}

func (s *stream) next() *pgx.QueuedQuery {
	s.peek()
	q := s.peeked
	s.peeked = nil
	return q
}

func (s *stream) peek() {
	if s.peeked != nil || s.exhausted {
		return
	}
	s.peeked, s.sourceErr = s.call.Next()
	if q := s.peeked; q != nil && s.confined && s.pool.escapes(q.SQL, s.inTx) {
		s.peeked, s.sourceErr = nil, providers.ErrEndsScope
	}
	if s.peeked == nil || s.sourceErr != nil {
		s.peeked, s.exhausted = nil, true
	}
}

// prepare makes of a queued statement what is sent.
func (s *stream) prepare(it *batchItem) {
	it.sql, it.args, it.fn = it.queued.SQL, it.queued.Arguments, it.queued.Fn
	for len(it.args) > 0 && it.refused == nil {
		switch option := it.args[0].(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			it.refused = &notSentError{fmt.Errorf("pgkeel: %T cannot be given to a statement of a batch, as in pgx; "+
				"leave the option out, or set it for the pool", option)}
			continue
		case pgx.QueryRewriter:
			var err error
			it.sql, it.args, err = option.RewriteQuery(s.ctx, s.conn, it.sql, it.args[1:])
			if err != nil {
				it.refused = &notSentError{fmt.Errorf("pgkeel: the arguments' rewriter: %w", err)}
			} else if s.confined && s.pool.escapes(it.sql, s.inTx) {
				it.refused = &notSentError{providers.ErrEndsScope}
			}
		}
		break
	}
	switch {
	case it.refused != nil:
	case s.known == nil:
		it.refused = refusal(it.sql)
		it.block, it.commits = needsBlock(it.sql), mayCommit(it.sql)
	default:
		if it.described, it.refused = s.known.of(it.sql, s.pool); it.refused == nil {
			it.block, it.commits = it.described.block, it.described.commits
		}
	}
}

// refusal is why a statement cannot be part of a batch.
func refusal(sql string) error {
	switch {
	case strings.IndexByte(sql, 0) >= 0:
		return &notSentError{errors.New("pgkeel: the statement contains a NUL byte")}
	case sqltext.Classify(sql).ControlTx():
		return &notSentError{providers.ErrBatchControl}
	case movesData(sql):
		return &notSentError{errBatchCopy}
	}
	return nil
}

var errBatchCopy = errors.New("pgkeel: a COPY has no data in a batch, and nobody to write them to; " +
	"use CopyFrom, CopyFromReader, CopyToWriter or package bulk")

// movesData reports a COPY from or to the client. It would cost the connection.
func movesData(sql string) bool { return copyIn.matches(sql) || copyOut.matches(sql) }

// needsBlock reports whether a statement is one that the server only takes, or
// that only makes sense, in an explicit transaction.
func needsBlock(sql string) bool {
	switch first, _ := sqltext.First(sql); first {
	case "savepoint", "release", "rollback", "set", "lock", "declare":
		return true
	}
	return false
}

// mayCommit reports whether a statement is one that can commit by itself, and with
// it all that came before under the same Sync. The server does not let it inside
// an explicit transaction.
func mayCommit(sql string) bool {
	switch first, second := sqltext.First(sql); first {
	case "call", "do", "vacuum", "reindex", "cluster":
		return true
	case "create", "drop", "alter":
		switch second {
		case "database", "tablespace", "subscription", "system":
			return true
		}
		return sqltext.Has(sql, "concurrently")
	}
	return false
}

// smallArg is what an argument counts that is no text and no bytes.
const smallArg = 16

// sizeOf estimates how many bytes arguments take in memory and on the wire.
// depth bounds how far it looks into what contains others.
func sizeOf(args []any, depth int) int {
	n := 0
	for _, arg := range args {
		switch v := arg.(type) {
		case string:
			n += smallArg + len(v)
		case []byte:
			n += smallArg + len(v)
		case json.RawMessage:
			n += smallArg + len(v)
		case *string:
			n += smallArg
			if v != nil {
				n += len(*v)
			}
		case nil, bool, int, int16, int32, int64, float32, float64:
			n += smallArg
		default:
			n += sizeOfValue(reflect.ValueOf(arg), depth+2)
		}
	}
	return n
}

func sizeOfValue(v reflect.Value, depth int) int {
	switch v.Kind() {
	case reflect.String:
		return smallArg + v.Len()
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() && depth > 0 {
			return smallArg + sizeOfValue(v.Elem(), depth-1)
		}
	case reflect.Slice, reflect.Array:
		if v.Len() == 0 || depth == 0 {
			break
		}
		switch v.Type().Elem().Kind() {
		case reflect.String, reflect.Slice, reflect.Pointer, reflect.Interface, reflect.Struct, reflect.Map:
			n := smallArg
			for i := range v.Len() {
				n += sizeOfValue(v.Index(i), depth-1)
			}
			return n
		}
		return smallArg + v.Len()*int(v.Type().Elem().Size())
	case reflect.Struct:
		n := smallArg
		for i := 0; depth > 0 && i < v.NumField(); i++ {
			n += sizeOfValue(v.Field(i), depth-1)
		}
		return n
	case reflect.Map:
		n := smallArg
		for entries := v.MapRange(); depth > 0 && entries.Next(); {
			n += sizeOfValue(entries.Key(), depth-1) + sizeOfValue(entries.Value(), depth-1)
		}
		return n
	}
	return smallArg
}

// itemResults are the results of one statement, as its callback gets them.
type itemResults struct {
	s    *stream
	rr   *pgconn.ResultReader
	err  error
	read bool
	rows itemRows
}

var _ pgx.BatchResults = (*itemResults)(nil)

// itemRows are the driver's rows, whose error says what happened.
type itemRows struct {
	pgx.Rows
	s *stream
}

// Err is what went wrong, known for certain once the rows are closed.
func (r *itemRows) Err() error { return r.s.mapped(r.Rows.Err()) }

var errItemRead = errors.New("pgkeel: the statement's one result was read already")

// take hands out the result once.
func (r *itemResults) take() error {
	if r.read {
		return errItemRead
	}
	r.read = true
	return r.s.mapped(r.err)
}

// Exec reads the result as that of a statement without rows.
func (r *itemResults) Exec() (pgconn.CommandTag, error) {
	if err := r.take(); err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := r.rr.Close()
	return tag, r.s.mapped(err)
}

// Query reads the result as rows.
func (r *itemResults) Query() (pgx.Rows, error) {
	if err := r.take(); err != nil {
		return failedRows(err), err
	}
	r.rows = itemRows{Rows: pgx.RowsFromResultReader(r.s.conn.TypeMap(), r.rr), s: r.s}
	return &r.rows, nil
}

// QueryRow reads the result as a row.
func (r *itemResults) QueryRow() pgx.Row {
	rows, _ := r.Query() // its error is the rows' own
	return providers.FirstRow(rows)
}

// Close does nothing: the results are closed behind the callback.
func (r *itemResults) Close() error { return nil }

// Tx is nil: the batch began no transaction that the caller could use.
func (r *itemResults) Tx() pgx.Tx { return nil }

func (s *stream) mapped(err error) error { return s.pool.mapError(s.ctx, opBatch, err) }
