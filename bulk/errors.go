package bulk

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/pgkeel/pgkeel/providers"
)

// CopyError says where in the data a COPY failed. [errors.As] finds the
// server's *pgkeel.PGError in its chain, which quotes the data.
type CopyError struct {
	// Table is the quoted name of the table.
	Table string
	// Line is the line of the data, or the row of a source, from 1; a header
	// counts. 0 if it is not known.
	Line int64
	// Column is the column's name, if it is about one.
	Column string
	// Excerpt shows what stood there: its letters as x, its digits as 9 and
	// most else as ?, or the data themselves if Into.ValuesInErrors allows it.
	Excerpt string
	// Message is the server's, with quotations of the data taken out as well, or
	// why a row of Go values could not be sent to it.
	Message string
	// Code is the SQLSTATE, if the server found the fault.
	Code string
	// Err is the error underneath.
	Err error
}

func (e *CopyError) Error() string {
	var b strings.Builder
	b.WriteString("pgkeel: copy")
	if e.Table != "" {
		b.WriteString(" of " + e.Table)
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, ": line %d", e.Line)
	}
	if e.Column != "" {
		fmt.Fprintf(&b, ", column %q", e.Column)
	}
	if e.Excerpt != "" {
		fmt.Fprintf(&b, ", near %q", e.Excerpt)
	}
	b.WriteString(": " + e.Message)
	if e.Code != "" {
		b.WriteString(" (SQLSTATE " + e.Code + ")")
	}
	return b.String() + "; " + e.Outcome().String()
}

// Unwrap returns the error underneath.
func (e *CopyError) Unwrap() error { return e.Err }

// Outcome is what the error underneath tells.
func (e *CopyError) Outcome() providers.Outcome { return providers.OutcomeOf(e.Err) }

// place is the server's note of where it was. The words depend on its language:
// COPY t, line 3, column a: "x".
var place = regexp.MustCompile(`(?ms)^COPY ([^\n]+?), [^\s\d,]+ (\d+)(?:, [^\s\d,:]+ ([^\n:]+))?(?:: (.*))?\z`)

// explain makes the error of a COPY say where it failed, without quoting.
func explain(err error, into *Into) error {
	var located *CopyError
	if errors.As(err, &located) {
		located.Table = into.Table.Sanitize()
		return err
	}
	var pg *providers.PGError
	if !errors.As(err, &pg) || pg.IsQueryCanceled() {
		return err
	}
	at := place.FindStringSubmatch(pg.Where)
	switch {
	case at != nil:
		return locate(err, pg, at, into)
	case pg.Code == codeUndefinedTable && len(into.Table) == 1 && strings.Contains(into.Table[0], "."):
		schema, table, _ := strings.Cut(into.Table[0], ".")
		return fmt.Errorf("%w: a schema and a table are two parts: pgx.Identifier{%q, %q}", err, schema, table)
	}
	return err
}

const codeUndefinedTable = "42P01"

// nullInput is no value: it would be in quotes.
const nullInput = "null input"

func locate(err error, pg *providers.PGError, at []string, into *Into) error {
	e := &CopyError{Table: into.Table.Sanitize(), Column: at[3], Code: pg.Code, Message: pg.Message, Err: err}
	e.Line, _ = strconv.ParseInt(at[2], 10, 64) // digits, by the expression
	e.Excerpt = unquoted(at[4])
	if !into.ValuesInErrors {
		if at[4] != nullInput {
			e.Excerpt = shapeOf(e.Excerpt)
		}
		if strings.HasPrefix(pg.Code, "22") {
			e.Message = withoutValues(pg.Message, append(slices.Clone(into.Columns), at[3]))
		}
	}
	return e
}

// unquoted takes the quotes off, of whatever language they are.
func unquoted(s string) string {
	for _, q := range []string{`"`, "»", "«", "“", "”", "„", "'"} {
		s = strings.TrimPrefix(strings.TrimSuffix(s, q), q)
	}
	return s
}

// maxExcerpt is how much of an excerpt is shown, in characters.
const maxExcerpt = 60

// shapeOf shows what a value looks like, and not what it is.
func shapeOf(value string) string {
	var b strings.Builder
	n := 0
	for _, r := range value {
		if n++; n > maxExcerpt {
			b.WriteString("…")
			break
		}
		switch {
		case unicode.IsLetter(r):
			b.WriteByte('x')
		case unicode.IsDigit(r):
			b.WriteByte('9')
		case strings.ContainsRune(" .,:;-+/", r):
			b.WriteRune(r)
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

var (
	quotation = regexp.MustCompile(`(?s)(column |encoding )?("[^"]*"|'[^']*'|0x[0-9a-f]{2})`)
	// beforeValue is how the server begins to quote a value that has quotes in
	// it: everything behind belongs to it.
	beforeValue = regexp.MustCompile(`(?s): ".*`)
)

// withoutValues takes the values out of a message. What is left in quotes are
// names.
func withoutValues(message string, names []string) string {
	message = beforeValue.ReplaceAllString(message, "")
	return quotation.ReplaceAllStringFunc(message, func(q string) string {
		if strings.Contains(q, " ") && q[0] != '"' && q[0] != '\'' || slices.Contains(names, strings.Trim(q, `"`)) {
			return q
		}
		return "…"
	})
}
