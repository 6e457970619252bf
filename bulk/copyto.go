package bulk

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// From says what is copied out, and how.
type From struct {
	// Table is the table, or the schema and the table. Either it or Query.
	Table pgx.Identifier
	// Columns of the table, in the order of the data. Default: all.
	Columns []string
	// Query is a SELECT, VALUES, or a statement with RETURNING. It is part of
	// the statement, so values in it go through [QuoteLiteral].
	Query string
	// Format of the data. Default: Text{}.
	Format Format
	// Compression of the data. Default: none.
	Compression Codec
	// Progress watches. Default: nobody does.
	Progress Watch
	// ValuesInErrors allows texts of errors to quote the data.
	ValuesInErrors bool
}

func (s *From) validate(f *faults) {
	f.addf((len(s.Table) > 0) == (s.Query != ""), "From.Table", "and Query: give one of them")
	if len(s.Table) > 0 {
		f.table("From.Table", s.Table)
	}
	f.noNUL("From.Query", s.Query)
	f.addf(s.Query != "" && strings.TrimSpace(s.Query) == "", "From.Query", "is blank")
	f.addf(s.Query != "" && len(s.Columns) > 0, "From.Columns", "have an effect with Table only; select them in the Query")
	f.columns("From.Columns", s.Columns)
	checkFormat(f, s.Format, false, s.Columns)
	s.Progress.validate(f, "From.Progress")
}

func (s *From) statement() (sql string, needs []need) {
	var o optionList
	o.add("format", s.Format.name())
	s.Format.options(&o)
	what := "(" + s.Query + "\n)" // it may end in a comment
	if s.Query == "" {
		what = s.Table.Sanitize()
		if len(s.Columns) > 0 {
			what += " (" + quoteColumns(s.Columns) + ")"
		}
	}
	return "COPY " + what + " TO STDOUT " + o.String(), o.needs
}

// bufferSize is how much is written at a time: the server sends a row at a time.
const bufferSize = 64 << 10

// CopyTo writes a table, or the result of a query, to w. After an error w holds
// a part of the data; compressed data then lack their end. w is not closed. A
// panic of w is the caller's.
func CopyTo(ctx context.Context, on Target, from From, w io.Writer) (Result, error) {
	if from.Format = plain(from.Format); from.Format == nil {
		from.Format = Text{}
	}
	var f faults
	f.addf(on == nil, "on", "is nil")
	f.addf(w == nil, "w", "is nil")
	from.validate(&f)
	if err := f.join(); err != nil {
		return Result{}, err
	}
	sql, needs := from.statement()
	if err := checkServer(ctx, on, needs); err != nil {
		return Result{}, err
	}
	m := newMeter(ctx, from.Progress)
	m.onStatement(sql)
	rows, err := copyTo(ctx, on, &from, sql, w, m)
	if err != nil {
		m.stop()
		return Result{}, explain(err, &Into{Table: from.Table, ValuesInErrors: from.ValuesInErrors})
	}
	m.finish(rows)
	return Result{Rows: rows, Bytes: m.bytesSoFar()}, nil
}

// copyTo puts the layers between the server and w: counter, buffer, codec.
func copyTo(ctx context.Context, on Target, from *From, sql string, w io.Writer, m *meter) (int64, error) {
	last := &cutOff{w: w}
	out := io.Writer(last)
	var packed io.WriteCloser
	if from.Compression != nil {
		var err error
		if packed, err = from.Compression.NewWriter(last); err != nil {
			return 0, &OptionError{Field: "From.Compression", Problem: err.Error()}
		}
		out = packed
		defer func() {
			last.gone = true
			_ = packed.Close() // after success it was closed already
		}()
	}
	buffer := bufio.NewWriterSize(out, bufferSize)
	counter := &meteredWriter{w: buffer, m: m}
	if from.Format.header() != NoHeader {
		counter.head = 1
	}
	tag, err := on.CopyToWriter(ctx, counter, sql)
	if err != nil {
		return 0, err
	}
	err = buffer.Flush()
	if err == nil && packed != nil {
		err = packed.Close()
	}
	if err != nil {
		return 0, &writerError{err}
	}
	return tag.RowsAffected(), nil
}

// writerError is an error of the writer when the server's part was over.
type writerError struct{ cause error }

func (e *writerError) Error() string {
	return fmt.Sprintf("pgkeel: copy: the writer failed at the end of the data (%s): %v", e.Outcome(), e.cause)
}
func (e *writerError) Unwrap() error { return e.cause }

// Outcome is OutcomeCommitted: the statement ran to its end.
func (*writerError) Outcome() providers.Outcome { return providers.OutcomeCommitted }
