package bulk

import (
	"fmt"
	"strings"
)

// Format is how COPY's data are written: [CSV], [Text] or [Binary].
type Format interface {
	// name is the format's in the statement.
	name() string
	// options adds the options that differ from the defaults.
	options(o *optionList)
	// validate finds faults for COPY FROM (in) or COPY TO.
	validate(f *faults, in bool, columns []string)
	// encoder is how records are written.
	encoder() recordEncoder
	// header says whether the data begin with one.
	header() Header
}

// plain is a format that is given by a pointer, without it.
func plain(format Format) Format {
	switch f := format.(type) {
	case *CSV:
		return pointed(f)
	case *Text:
		return pointed(f)
	case *Binary:
		return pointed(f)
	}
	return format
}

func pointed[F Format](f *F) Format {
	if f == nil {
		return nil
	}
	return *f
}

// Header says whether the first line of CSV or text data holds column names.
type Header uint8

// The kinds of header.
const (
	// NoHeader means that every line is data.
	NoHeader Header = iota
	// HeaderLine is written by COPY TO, and skipped by COPY FROM.
	HeaderLine
	// HeaderMatch has COPY FROM refuse data whose header is not the list of
	// columns, in order. PostgreSQL 15.
	HeaderMatch
)

// optionList is the part of the statement in parentheses.
type optionList struct {
	parts []string
	needs []need
}

func (o *optionList) add(name, value string) { o.parts = append(o.parts, name+" "+value) }

func (o *optionList) literal(name, value string) { o.add(name, QuoteLiteral(value)) }

// char adds a one-byte option unless it is left at its default.
func (o *optionList) char(name string, value byte) {
	if value != 0 {
		o.literal(name, string(rune(value)))
	}
}

func (o *optionList) marker(name string, value *string) {
	if value != nil {
		o.literal(name, *value)
	}
}

func (o *optionList) text(name, value string) {
	if value != "" {
		o.literal(name, value)
	}
}

func (o *optionList) columns(name string, columns []string, all bool) {
	switch {
	case all:
		o.add(name, "*")
	case len(columns) > 0:
		o.add(name, "("+quoteColumns(columns)+")")
	}
}

func (o *optionList) header(h Header) {
	switch h {
	case NoHeader:
	case HeaderMatch:
		o.add("header", "match")
		o.need("Format.Header", 15, "use HeaderLine, which skips the header unread")
	default:
		o.add("header", "true")
	}
}

func (o *optionList) need(field string, major int, instead string) {
	o.needs = append(o.needs, need{field, major, instead})
}

// defaultMarker adds the DEFAULT option.
func (o *optionList) defaultMarker(value *string) {
	if value != nil {
		o.literal("default", *value)
		o.need("Format.Default", 16, "leave the column out of Columns, so that every row gets its default")
	}
}

// String is the list as the statement has it.
func (o *optionList) String() string { return "(" + strings.Join(o.parts, ", ") + ")" }

// markers are what stands for NULL and for a column's default.
type markers struct {
	null, def *string
	delimiter byte
}

// validate applies the rules that CSV and text share.
func (m markers) validate(f *faults, in bool, header Header, encoding string) {
	f.addf(!isPlain(m.delimiter), "Format.Delimiter", "must be a single ASCII character other than NUL and line ends")
	m.marker(f, "Format.Null", m.null)
	m.marker(f, "Format.Default", m.def)
	f.addf(m.def != nil && !in, "Format.Default", "has an effect on CopyFrom only; leave it out")
	f.addf(m.def != nil && m.null != nil && *m.def == *m.null, "Format.Default", "is the same as Null; make them differ")
	f.addf(header > HeaderMatch, "Format.Header", "%d is none of NoHeader, HeaderLine, HeaderMatch", header)
	f.addf(header == HeaderMatch && !in, "Format.Header", "HeaderMatch has an effect on CopyFrom only; use HeaderLine")
	f.noNUL("Format.Encoding", encoding)
}

func (m markers) marker(f *faults, field string, value *string) {
	if value == nil {
		return
	}
	f.noNUL(field, *value)
	f.addf(strings.ContainsAny(*value, "\r\n"), field, "contains a line end")
	f.addf(strings.IndexByte(*value, m.delimiter) >= 0, field, "contains the delimiter")
}

// isPlain reports whether a byte can be a delimiter, quote or escape.
func isPlain(c byte) bool { return c != 0 && c != '\n' && c != '\r' && c < 0x80 }

func orDefault(value, otherwise byte) byte {
	if value == 0 {
		return otherwise
	}
	return value
}

func textOr(value *string, otherwise string) string {
	if value == nil {
		return otherwise
	}
	return *value
}

// recordEncoder writes records of fields in a format; nil is NULL.
type recordEncoder interface {
	begin(dst []byte) []byte
	record(dst []byte, fields [][]byte) ([]byte, error)
	end(dst []byte) []byte
}

// tooManyFields is the limit of the protocol's count.
const tooManyFields = 1<<15 - 1

func checkFields(fields [][]byte) error {
	if len(fields) == 0 || len(fields) > tooManyFields {
		return fmt.Errorf("pgkeel: bulk: a record of %d fields; from 1 to %d", len(fields), tooManyFields)
	}
	return nil
}
