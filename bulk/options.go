package bulk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// OptionError is one fault of what a function of this package was given.
// Nothing was sent.
type OptionError struct {
	// Field is the path of the field, such as "Into.Table".
	Field string
	// Problem says what is wrong with it, and how to mend it.
	Problem string
}

func (e *OptionError) Error() string {
	return "pgkeel: bulk: " + e.Field + ": " + e.Problem + "; nothing was sent"
}

// Outcome is always OutcomeNotSent.
func (e *OptionError) Outcome() providers.Outcome { return providers.OutcomeNotSent }

// faults collects what is wrong, so that all of it is told at once.
type faults []error

func (f *faults) addf(bad bool, field, format string, args ...any) {
	if bad {
		*f = append(*f, &OptionError{Field: field, Problem: fmt.Sprintf(format, args...)})
	}
}

func (f *faults) join() error { return errors.Join(*f...) }

// maxIdentifier is the length in bytes from which PostgreSQL cuts a name.
const maxIdentifier = 63

func (f *faults) name(field, name string) {
	f.addf(name == "", field, "a name is empty")
	f.addf(strings.ContainsRune(name, 0), field, "a name contains a NUL byte")
	f.addf(len(name) > maxIdentifier, field, "a name has %d bytes; PostgreSQL would cut it to %d", len(name), maxIdentifier)
}

func (f *faults) table(field string, table pgx.Identifier) {
	switch len(table) {
	case 0:
		f.addf(true, field, `is missing; give pgx.Identifier{"table"} or pgx.Identifier{"schema", "table"}`)
	case 1, 2:
		for _, part := range table {
			f.name(field, part)
		}
	default:
		f.addf(true, field, "has %d parts; give the table, or the schema and the table", len(table))
	}
}

func (f *faults) columns(field string, columns []string) {
	for i, column := range columns {
		f.name(fmt.Sprintf("%s[%d]", field, i), column)
		f.addf(slices.Index(columns, column) < i, fmt.Sprintf("%s[%d]", field, i), "the column is named twice")
	}
}

// among finds columns that are not copied at all.
func (f *faults) among(field string, some, columns []string) {
	f.columns(field, some)
	for _, column := range some {
		f.addf(len(columns) > 0 && !slices.Contains(columns, column), field, "%q is none of Columns", column)
	}
}

func (f *faults) noNUL(field, sql string) {
	f.addf(strings.ContainsRune(sql, 0), field, "contains a NUL byte")
}

// QuoteLiteral makes a string literal of SQL, for COPY takes no arguments. It is
// safe whatever standard_conforming_strings says.
func QuoteLiteral(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

func quoteColumns(columns []string) string {
	quoted := make([]string, len(columns))
	for i, column := range columns {
		quoted[i] = pgx.Identifier{column}.Sanitize()
	}
	return strings.Join(quoted, ", ")
}

// need is something that older servers do not have.
type need struct {
	field   string
	major   int
	instead string
}

// checkServer refuses what the server is too old for. It asks the server only
// where something is needed.
func checkServer(ctx context.Context, on providers.Querier, needs []need) error {
	if len(needs) == 0 {
		return nil
	}
	var version int
	if err := on.QueryRow(ctx, `select current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return err
	}
	return tooOld(version, needs)
}

// tooOld compares with a server_version_num.
func tooOld(version int, needs []need) error {
	var f faults
	for _, n := range needs {
		f.addf(version/10000 < n.major, n.field, "needs PostgreSQL %d, and the server is %d; %s", n.major, version/10000, n.instead)
	}
	return f.join()
}
