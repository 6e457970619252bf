package bulk

import (
	"bytes"
	"strings"
)

// CSV is COPY's CSV format. The zero CSV is the server's default: commas,
// double quotes, no header, NULL as an empty field without quotes.
type CSV struct {
	// Delimiter stands between fields. Default: a comma.
	Delimiter byte
	// Header says whether the first line holds column names.
	Header Header
	// Quote stands around fields that need it. Default: a double quote.
	Quote byte
	// Escape stands before a quote inside a quoted field. Default: Quote.
	Escape byte
	// Null is what stands for NULL when it is not quoted. Default: nothing.
	Null *string
	// Default is what stands for the column's default when it is not quoted.
	// CopyFrom only, PostgreSQL 16. Default: none.
	Default *string
	// ForceQuote are columns that CopyTo always quotes, ForceQuoteAll all.
	ForceQuote    []string
	ForceQuoteAll bool
	// ForceNotNull are columns in which CopyFrom does not look for Null: an
	// empty field is an empty string. ForceNotNullAll is all of them,
	// PostgreSQL 17.
	ForceNotNull    []string
	ForceNotNullAll bool
	// ForceNull are columns in which CopyFrom looks for Null in quoted fields,
	// too. ForceNullAll is all of them, PostgreSQL 17.
	ForceNull    []string
	ForceNullAll bool
	// Encoding of the data, by PostgreSQL's name. Default: UTF8, the client's.
	Encoding string
}

var _ Format = CSV{}

func (CSV) name() string { return "csv" }

func (c CSV) header() Header { return c.Header }

func (c CSV) delimiter() byte { return orDefault(c.Delimiter, ',') }
func (c CSV) quote() byte     { return orDefault(c.Quote, '"') }
func (c CSV) escape() byte    { return orDefault(c.Escape, c.quote()) }

func (c CSV) options(o *optionList) {
	o.char("delimiter", c.Delimiter)
	o.marker("null", c.Null)
	o.defaultMarker(c.Default)
	o.header(c.Header)
	o.char("quote", c.Quote)
	o.char("escape", c.Escape)
	o.columns("force_quote", c.ForceQuote, c.ForceQuoteAll)
	o.columns("force_not_null", c.ForceNotNull, c.ForceNotNullAll)
	o.columns("force_null", c.ForceNull, c.ForceNullAll)
	o.text("encoding", c.Encoding)
	if c.ForceNotNullAll {
		o.need("Format.ForceNotNullAll", 17, "name the columns in ForceNotNull")
	}
	if c.ForceNullAll {
		o.need("Format.ForceNullAll", 17, "name the columns in ForceNull")
	}
}

func (c CSV) validate(f *faults, in bool, columns []string) {
	markers{c.Null, c.Default, c.delimiter()}.validate(f, in, c.Header, c.Encoding)
	f.addf(!isPlain(c.quote()), "Format.Quote", "must be a single ASCII character other than NUL and line ends")
	f.addf(!isPlain(c.escape()), "Format.Escape", "must be a single ASCII character other than NUL and line ends")
	f.addf(c.quote() == c.delimiter(), "Format.Quote", "is the same as the delimiter")
	for field, marker := range map[string]*string{"Format.Null": c.Null, "Format.Default": c.Default} {
		f.addf(marker != nil && strings.IndexByte(*marker, c.quote()) >= 0, field, "contains the quote")
	}
	f.addf(c.Default != nil && *c.Default == "" && c.Null == nil, "Format.Default", "is the same as Null, which is empty by default; make them differ")
	for _, force := range []struct {
		field string
		some  []string
		all   bool
		in    bool
	}{
		{"Format.ForceQuote", c.ForceQuote, c.ForceQuoteAll, false},
		{"Format.ForceNotNull", c.ForceNotNull, c.ForceNotNullAll, true},
		{"Format.ForceNull", c.ForceNull, c.ForceNullAll, true},
	} {
		f.among(force.field, force.some, columns)
		f.addf(len(force.some) > 0 && force.all, force.field, "names columns although all are meant; leave one out")
		set := len(force.some) > 0 || force.all
		f.addf(set && force.in && !in, force.field, "has an effect on CopyFrom only; leave it out")
		f.addf(set && !force.in && in, force.field, "has an effect on CopyTo only; leave it out")
	}
}

func (c CSV) encoder() recordEncoder {
	e := csvEncoder{delimiter: c.delimiter(), quote: c.quote(), escape: c.escape(), null: []byte(textOr(c.Null, ""))}
	if c.Default != nil {
		e.def = []byte(*c.Default)
	}
	return e
}

// csvEncoder quotes like the server does.
type csvEncoder struct {
	delimiter, quote, escape byte
	null, def                []byte
}

func (csvEncoder) begin(dst []byte) []byte { return dst }
func (csvEncoder) end(dst []byte) []byte   { return dst }

func (e csvEncoder) record(dst []byte, fields [][]byte) ([]byte, error) {
	if err := checkFields(fields); err != nil {
		return dst, err
	}
	for i, field := range fields {
		if i > 0 {
			dst = append(dst, e.delimiter)
		}
		switch {
		case field == nil:
			dst = append(dst, e.null...)
		case e.needsQuotes(field, len(fields) == 1):
			dst = e.quoted(dst, field)
		default:
			dst = append(dst, field...)
		}
	}
	return append(dst, '\n'), nil
}

func (e csvEncoder) needsQuotes(field []byte, alone bool) bool {
	if bytes.Equal(field, e.null) || e.def != nil && bytes.Equal(field, e.def) || alone && string(field) == `\.` {
		return true
	}
	for _, c := range field {
		if c == e.delimiter || c == e.quote || c == '\n' || c == '\r' {
			return true
		}
	}
	return false
}

func (e csvEncoder) quoted(dst, field []byte) []byte {
	dst = append(dst, e.quote)
	for _, c := range field {
		if c == e.quote || c == e.escape {
			dst = append(dst, e.escape)
		}
		dst = append(dst, c)
	}
	return append(dst, e.quote)
}
