package bulk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// Source is where rows come from. The From… functions of this package make all
// there are.
type Source interface {
	validate(f *faults, into *Into)
	needs(into *Into) []need
	load(ctx context.Context, on Target, into *Into, m *meter) (Result, error)
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// stream is rows of Go values on their way to the driver.
type stream interface {
	pgx.CopyFromSource
	// stop frees what the stream holds. Nobody calls anything at the time.
	stop()
	// state tells how far it came.
	state() streamState
}

// streamState is how far a stream came.
type streamState struct {
	rows int64
	// row says that the last row was handed out, and no end reached.
	row bool
	// err is the source's own error.
	err error
}

// rowSource is a source of rows of Go values.
type rowSource struct {
	fault string
	open  func(ctx context.Context, columns []string, m *meter) (stream, error)
}

func (s rowSource) validate(f *faults, into *Into) {
	f.addf(s.fault != "", "src", "%s", s.fault)
	into.validateRows(f)
}

func (rowSource) needs(*Into) []need { return nil }

func (s rowSource) load(ctx context.Context, on Target, into *Into, m *meter) (Result, error) {
	rows, err := s.open(ctx, into.Columns, m)
	if err != nil {
		return Result{}, &OptionError{Field: "src", Problem: err.Error()}
	}
	defer rows.stop()
	m.onTable(into.Table)
	n, err := on.CopyFrom(ctx, into.Table, into.Columns, rows)
	if err == nil {
		return Result{Rows: n}, nil
	}
	state := rows.state()
	switch {
	case ctx.Err() != nil && errors.Is(state.err, ctx.Err()):
		// A source that watches the context says nothing new.
	case state.err != nil:
		return Result{}, &SourceError{Row: state.rows + 1, Err: state.err, server: err}
	case state.row && isClientFailure(err):
		// The driver gave up on a row that it had.
		return Result{}, unsent(err, state.rows, into)
	}
	return Result{}, err
}

// isClientFailure reports that the server only says that the client gave up.
func isClientFailure(err error) bool {
	var pg *providers.PGError
	var timeout *providers.TimeoutError
	return errors.As(err, &pg) && pg.IsQueryCanceled() && !errors.As(err, &timeout)
}

// unsent says what was wrong with a row that the driver did not send, as far as
// the provider tells.
func unsent(err error, row int64, into *Into) error {
	e := &CopyError{Line: row, Message: err.Error(), Err: err}
	var told interface {
		Fault() (row int, column, reason string, value any)
	}
	if errors.As(err, &told) {
		var value any
		_, e.Column, e.Message, value = told.Fault()
		if e.Excerpt = textOf(value); !into.ValuesInErrors {
			e.Excerpt = shapeOf(e.Excerpt)
		}
	}
	return e
}

// textOf is a plain value as it can be shown. Of any other there is nothing to
// show.
func textOf(value any) string {
	text := ""
	switch v := reflect.Indirect(reflect.ValueOf(value)); {
	case v.Kind() == reflect.String:
		text = v.String()
	case v.CanInt() || v.CanUint() || v.CanFloat():
		text = fmt.Sprint(v)
	}
	const most = 4 * maxExcerpt // as much as so many characters can take
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "")
	}
	return text
}

// errSource stands for the source's error towards the server, whose log needs
// not know it.
var errSource = errors.New("pgkeel: the client's source of rows failed")

// SourceError is an error of a source of rows, which ended a COPY.
type SourceError struct {
	// Row is the one that could not be had, from 1.
	Row int64
	// Err is the source's own error.
	Err    error
	server error
}

func (e *SourceError) Error() string {
	return fmt.Sprintf("pgkeel: copy: the source failed at row %d (%s): %v", e.Row, e.Outcome(), e.Err)
}

// Unwrap returns the source's error, and what the server said to it.
func (e *SourceError) Unwrap() []error { return []error{e.Err, e.server} }

// Outcome is what became of the rows before.
func (e *SourceError) Outcome() providers.Outcome { return providers.OutcomeOf(e.server) }

// FromReader copies data as they are, in a format.
//
// The reader is read on another goroutine, ahead of what is sent. When the
// context ends or the server refuses the data, a Read that blocks is not waited
// for: it may still return after CopyFrom did.
func FromReader(r io.Reader, format Format) Source { return readerSource{r, plain(format)} }

type readerSource struct {
	r      io.Reader
	format Format
}

func (s readerSource) validate(f *faults, into *Into) {
	f.addf(s.r == nil, "src", "the reader is nil")
	into.validateData(f, s.format)
}

func (s readerSource) needs(into *Into) []need {
	_, needs := into.statement(s.format)
	return needs
}

func (s readerSource) load(ctx context.Context, on Target, into *Into, m *meter) (Result, error) {
	sql, _ := into.statement(s.format)
	data := newMeteredReader(decompress(s.r, into.Compression), m)
	defer data.close()
	m.onStatement(sql)
	tag, err := on.CopyFromReader(ctx, data, sql)
	if err != nil {
		return Result{}, err
	}
	return Result{Rows: tag.RowsAffected(), Bytes: m.bytesSoFar()}, nil
}
