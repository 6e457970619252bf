package bulk

import (
	"bytes"
	"errors"
	"strings"
)

// Text is COPY's text format. The zero Text is the server's default: tabs,
// backslashes as escapes, no header, NULL as \N.
type Text struct {
	// Delimiter stands between fields. Default: a tab.
	Delimiter byte
	// Header says whether the first line holds column names. PostgreSQL 15.
	Header Header
	// Null is what stands for NULL. The server writes a value that looks the
	// same without a difference, so take nothing that can be one. Default: \N.
	Null *string
	// Default is what stands for the column's default. CopyFrom only,
	// PostgreSQL 16. Default: none.
	Default *string
	// Encoding of the data, by PostgreSQL's name. Default: UTF8, the client's.
	Encoding string
}

var _ Format = Text{}

func (Text) name() string { return "text" }

func (t Text) header() Header { return t.Header }

func (t Text) delimiter() byte { return orDefault(t.Delimiter, '\t') }

func (t Text) options(o *optionList) {
	o.char("delimiter", t.Delimiter)
	o.marker("null", t.Null)
	o.defaultMarker(t.Default)
	o.header(t.Header)
	o.text("encoding", t.Encoding)
	if t.Header == HeaderLine {
		o.need("Format.Header", 15, "use CSV, or skip the first line yourself")
	}
}

// noDelimiters would be taken for a part of an escape or of a number.
const noDelimiters = `\.abcdefghijklmnopqrstuvwxyz0123456789`

func (t Text) validate(f *faults, in bool, _ []string) {
	markers{t.Null, t.Default, t.delimiter()}.validate(f, in, t.Header, t.Encoding)
	f.addf(strings.IndexByte(noDelimiters, t.delimiter()) >= 0, "Format.Delimiter", "must be none of %s", noDelimiters)
	for field, marker := range map[string]*string{"Format.Null": t.Null, "Format.Default": t.Default} {
		f.addf(marker != nil && endsInEscape(*marker), field, "ends in a backslash, which would escape the delimiter behind it")
	}
	f.addf(t.Default != nil && *t.Default == `\N` && t.Null == nil, "Format.Default", `is the same as Null, which is \N by default; make them differ`)
}

// endsInEscape reports whether an odd number of backslashes stands at the end.
func endsInEscape(s string) bool { return (len(s)-len(strings.TrimRight(s, `\`)))%2 == 1 }

func (t Text) encoder() recordEncoder {
	e := textEncoder{delimiter: t.delimiter(), null: []byte(textOr(t.Null, `\N`))}
	if t.Default != nil {
		e.def = []byte(*t.Default)
	}
	return e
}

// textEncoder escapes like the server does, and beyond that a value that looks
// like a marker.
type textEncoder struct {
	delimiter byte
	null, def []byte
}

func (textEncoder) begin(dst []byte) []byte { return dst }
func (textEncoder) end(dst []byte) []byte   { return dst }

// errNoText is for the one value that the format cannot tell from a marker.
var errNoText = errors.New("pgkeel: bulk: an empty string cannot be written as text while Null or Default is empty; use CSV, or another marker")

func (e textEncoder) record(dst []byte, fields [][]byte) ([]byte, error) {
	if err := checkFields(fields); err != nil {
		return dst, err
	}
	for i, field := range fields {
		if i > 0 {
			dst = append(dst, e.delimiter)
		}
		if field == nil {
			dst = append(dst, e.null...)
			continue
		}
		from := len(dst)
		dst = e.escaped(dst, field)
		if written := dst[from:]; bytes.Equal(written, e.null) || e.def != nil && bytes.Equal(written, e.def) {
			if len(field) == 0 {
				return dst, errNoText
			}
			// Written by its number the first byte is no longer that of a marker.
			dst = append(dst[:from], '\\', 'x', hexDigits[field[0]>>4], hexDigits[field[0]&15])
			dst = e.escaped(dst, field[1:])
		}
	}
	return append(dst, '\n'), nil
}

const hexDigits = "0123456789abcdef"

func (e textEncoder) escaped(dst, field []byte) []byte {
	for _, c := range field {
		switch c {
		case '\\':
			dst = append(dst, '\\', '\\')
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\v':
			dst = append(dst, '\\', 'v')
		case e.delimiter:
			dst = append(dst, '\\', c)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}
