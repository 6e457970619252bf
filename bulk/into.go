package bulk

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Into says where rows are copied to, and how.
type Into struct {
	// Table is the table, or the schema and the table: a name of two parts,
	// not one with a dot in it.
	Table pgx.Identifier
	// Columns are those that the data have, in their order; the others get
	// their defaults. Default with [FromReader]: all columns of the table, in
	// its order. Needed with any other source.
	Columns []string

	// What follows has an effect with FromReader and FromRecords only.

	// Where is a condition in SQL on the row to be copied; rows for which it is
	// not true are left out. It is part of the statement, so values in it go
	// through [QuoteLiteral].
	Where string
	// Freeze copies rows as if VACUUM FREEZE had run. The table must have been
	// made or truncated in the same transaction.
	Freeze bool
	// OnError says what becomes of a row that is not fit for its columns'
	// types. Default: it fails the COPY.
	OnError OnError
	// RejectLimit is how many rows OnErrorIgnore may leave out. PostgreSQL 18.
	// Default: no limit.
	RejectLimit int64
	// LogVerbosity says how much the server tells in its log and notices.
	// PostgreSQL 17. Default: the number of rows left out.
	LogVerbosity LogVerbosity
	// Compression that the data come in. Default: none.
	Compression Codec

	// Progress watches. Default: nobody does.
	Progress Watch
	// ValuesInErrors allows texts of errors to quote the data. Default: they
	// tell where it is and what it looks like.
	ValuesInErrors bool
}

// OnError says what becomes of rows that are not fit for their columns' types.
type OnError uint8

// The ways to treat them.
const (
	// OnErrorStop fails the COPY, and nothing is copied.
	OnErrorStop OnError = iota
	// OnErrorIgnore leaves them out. PostgreSQL 17.
	OnErrorIgnore
)

// LogVerbosity says how much the server tells of rows left out.
type LogVerbosity uint8

// The verbosities.
const (
	// LogDefault tells their number.
	LogDefault LogVerbosity = iota
	// LogVerbose tells each line and column, values included.
	LogVerbose
	// LogSilent tells nothing. PostgreSQL 18.
	LogSilent
)

func (i *Into) validate(f *faults) {
	f.table("Into.Table", i.Table)
	f.columns("Into.Columns", i.Columns)
	i.Progress.validate(f, "Into.Progress")
}

// validateData applies the rules for data that come in a format.
func (i *Into) validateData(f *faults, format Format) {
	checkFormat(f, format, true, i.Columns)
	_, binary := format.(Binary)
	f.noNUL("Into.Where", i.Where)
	f.addf(i.Where != "" && strings.TrimSpace(i.Where) == "", "Into.Where", "is blank; leave it out")
	f.addf(i.OnError > OnErrorIgnore, "Into.OnError", "%d is neither OnErrorStop nor OnErrorIgnore", i.OnError)
	f.addf(i.OnError == OnErrorIgnore && binary, "Into.OnError", "PostgreSQL cannot leave out rows of binary data; use Text or CSV")
	f.addf(i.RejectLimit < 0, "Into.RejectLimit", "%d is negative; leave it 0 for no limit", i.RejectLimit)
	f.addf(i.RejectLimit > 0 && i.OnError != OnErrorIgnore, "Into.RejectLimit", "has an effect with OnErrorIgnore only")
	f.addf(i.LogVerbosity > LogSilent, "Into.LogVerbosity", "%d is none of LogDefault, LogVerbose, LogSilent", i.LogVerbosity)
	f.addf(i.LogVerbosity != LogDefault && i.OnError != OnErrorIgnore, "Into.LogVerbosity", "has an effect with OnErrorIgnore only")
}

// validateRows applies the rules for rows of Go values, which the driver copies
// by a statement of its own.
func (i *Into) validateRows(f *faults) {
	const problem = "has an effect with FromReader and FromRecords only"
	f.addf(len(i.Columns) == 0, "Into.Columns", "are missing; name those that the rows have")
	f.addf(i.Where != "", "Into.Where", problem)
	f.addf(i.Freeze, "Into.Freeze", problem)
	f.addf(i.OnError != OnErrorStop, "Into.OnError", problem)
	f.addf(i.RejectLimit != 0, "Into.RejectLimit", problem)
	f.addf(i.LogVerbosity != LogDefault, "Into.LogVerbosity", problem)
	f.addf(i.Compression != nil, "Into.Compression", problem)
}

// statement builds the COPY, and tells what it needs of the server.
func (i *Into) statement(format Format) (sql string, needs []need) {
	var o optionList
	o.add("format", format.name())
	if i.Freeze {
		o.add("freeze", "true")
	}
	format.options(&o)
	if i.OnError == OnErrorIgnore {
		o.add("on_error", "ignore")
		o.need("Into.OnError", 17, "leave it out, and load into a table of text columns first")
	}
	if i.RejectLimit > 0 {
		o.literal("reject_limit", itoa(i.RejectLimit))
		o.need("Into.RejectLimit", 18, "leave it out, and compare Result.Rows with the number of rows")
	}
	switch i.LogVerbosity {
	case LogVerbose:
		o.add("log_verbosity", "verbose")
	case LogSilent:
		o.add("log_verbosity", "silent")
		o.need("Into.LogVerbosity", 18, "leave it out")
	}
	var b strings.Builder
	b.WriteString("COPY " + i.Table.Sanitize())
	if len(i.Columns) > 0 {
		b.WriteString(" (" + quoteColumns(i.Columns) + ")")
	}
	b.WriteString(" FROM STDIN " + o.String())
	if i.Where != "" {
		b.WriteString(" WHERE (" + i.Where + "\n)") // it may end in a comment
	}
	return b.String(), o.needs
}

func checkFormat(f *faults, format Format, in bool, columns []string) {
	if format == nil {
		f.addf(true, "Format", "is nil; give CSV{}, Text{} or Binary{}")
		return
	}
	format.validate(f, in, columns)
}

// CopyFrom loads the rows of a source into a table by one COPY. An error means
// that none were loaded, unless its outcome is unknown. A panic of the source is
// the caller's.
//
// On a *pgkeel.DB the COPY is a transaction of its own. In a pgkeel.Tx a COPY
// that fails fails the transaction; a savepoint can undo it.
func CopyFrom(ctx context.Context, on Target, into Into, src Source) (Result, error) {
	var f faults
	f.addf(on == nil, "on", "is nil")
	into.validate(&f)
	if src == nil {
		f.addf(true, "src", "is nil")
	} else {
		src.validate(&f, &into)
	}
	if err := f.join(); err != nil {
		return Result{}, err
	}
	return copyFrom(ctx, on, into, src)
}

// copyFrom copies what was found to be sound.
func copyFrom(ctx context.Context, on Target, into Into, src Source) (Result, error) {
	if err := checkServer(ctx, on, src.needs(&into)); err != nil {
		return Result{}, err
	}
	m := newMeter(ctx, into.Progress)
	res, err := src.load(ctx, on, &into, m)
	if err != nil {
		m.stop()
		return Result{}, explain(err, &into)
	}
	m.finish(res.Rows)
	return res, nil
}
