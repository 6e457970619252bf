package bulk

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// fieldsOf makes fields of strings, of which "NULL" is NULL.
func records(fields ...string) [][]byte {
	record := make([][]byte, len(fields))
	for i, f := range fields {
		if f != "NULL" {
			record[i] = []byte(f)
		}
	}
	return record
}

func TestEncoders(t *testing.T) {
	for name, c := range map[string]struct {
		format Format
		record [][]byte
		want   string
	}{
		"csv":                {CSV{}, records("a", "NULL", "", "b c", `"`, "x,y", "l1\nl2", "cr\r", `\.`), "a,,\"\",b c,\"\"\"\",\"x,y\",\"l1\nl2\",\"cr\r\",\\.\n"},
		"csv end marker":     {CSV{}, records(`\.`), "\"\\.\"\n"},
		"csv only NULL":      {CSV{}, records("NULL"), "\n"},
		"csv other signs":    {CSV{Delimiter: ';', Quote: '\'', Escape: '\\', Null: text("nil")}, records("a;b", `it's`, `back\slash'`, "NULL", "nil", ","), "'a;b';'it\\'s';'back\\\\slash\\'';nil;'nil';,\n"},
		"csv default":        {CSV{Default: text("DEF")}, records("DEF", "def"), "\"DEF\",def\n"},
		"text":               {Text{}, records("a", "NULL", "", "tab\t", "\\", "\b\f\n\r\v", `\N`, `\.`), "a\t\\N\t\ttab\\t\t\\\\\t\\b\\f\\n\\r\\v\t\\\\N\t\\\\.\n"},
		"text other signs":   {Text{Delimiter: '|', Null: text("NIL"), Default: text("DEF")}, records("a|b", "NIL", "NULL", "DEF", "\t"), "a\\|b|\\x4eIL|NIL|\\x44EF|\\t\n"},
		"text single letter": {Text{Null: text("x")}, records("x", "NULL"), "\\x78\tx\n"},
		"binary":             {Binary{}, records("ab", "NULL", ""), binaryBegin + "\x00\x03\x00\x00\x00\x02ab\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff"},
	} {
		var b bytes.Buffer
		e, err := NewEncoder(&b, c.format)
		if err != nil {
			t.Fatal(name, err)
		}
		if err := errors.Join(e.Encode(c.record...), e.Close()); err != nil || b.String() != c.want {
			t.Errorf("%s: %q instead of %q; %v", name, b.String(), c.want, err)
		}
	}
}

func TestEncodersRefuse(t *testing.T) {
	var b bytes.Buffer
	for _, format := range []Format{CSV{}, Text{}, Binary{}} {
		e, err := NewEncoder(&b, format)
		if err != nil {
			t.Fatal(err)
		}
		if e.Encode() == nil || e.Encode(make([][]byte, 40_000)...) == nil {
			t.Errorf("%T: a record of no fields, or too many, was written", format)
		}
	}
	e, err := NewEncoder(&b, Text{Null: text("")})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Encode([]byte{}); !errors.Is(err, errNoText) {
		t.Error(err)
	}
	if err := e.Encode([]byte("a")); err != nil || b.String() != "a\n" {
		t.Errorf("%q %v", b.String(), err)
	}
}

func TestEncoderOfAFailingWriter(t *testing.T) {
	e, err := NewEncoder(writerFunc(func([]byte) (int, error) { return 0, errOfCaller }), Binary{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := e.Encode([]byte("a")); !errors.Is(err, errOfCaller) {
			t.Error(err)
		}
	}
	if err := e.Close(); !errors.Is(err, errOfCaller) {
		t.Error(err)
	}
	var b strings.Builder
	e, _ = NewEncoder(&b, Binary{})
	if err := e.Close(); err != nil || b.String() != binaryBegin+"\xff\xff" {
		t.Errorf("%q %v", b.String(), err)
	}
}

// seeds are fields that are likely to be got wrong.
var seeds = []string{
	"", "a", ",", `"`, `""`, "\n", "\r\n", "\r", `\`, `\\`, `\N`, `\.`, "\t", "NULL", ";", "'", "a,b\"c\nd\\e\tf", "ü€😀", "\x00", "\b\f\v", "x", `\x41`, `\101`, "|",
}

// decodeCSV reads a line as the server does, after its source.
func decodeCSV(line []byte, c CSV) (fields [][]byte) {
	null := textOr(c.Null, "")
	for i := 0; ; {
		field := []byte{}
		quoted := false
		for inQuotes := false; i < len(line); i++ {
			b := line[i]
			switch {
			case inQuotes && b == c.escape() && i+1 < len(line) && (line[i+1] == c.quote() || line[i+1] == c.escape()):
				i++
				field = append(field, line[i])
			case b == c.quote():
				inQuotes, quoted = !inQuotes, true
			case !inQuotes && b == c.delimiter():
				goto done
			default:
				field = append(field, b)
			}
		}
	done:
		if !quoted && string(field) == null {
			field = nil
		}
		fields = append(fields, field)
		if i >= len(line) {
			return fields
		}
		i++
	}
}

// decodeText reads a line as the server does, after its source.
func decodeText(line []byte, t Text) (fields [][]byte) {
	null := textOr(t.Null, `\N`)
	for i := 0; ; i++ {
		from, field := i, []byte{}
		for ; i < len(line) && line[i] != t.delimiter(); i++ {
			b := line[i]
			if b == '\\' && i+1 < len(line) {
				i++
				b = line[i]
				switch b {
				case 'b':
					b = '\b'
				case 'f':
					b = '\f'
				case 'n':
					b = '\n'
				case 'r':
					b = '\r'
				case 't':
					b = '\t'
				case 'v':
					b = '\v'
				case 'x': // up to two digits, or else the letter
					for n := 0; n < 2 && i+1 < len(line) && strings.IndexByte(hexDigits, line[i+1]) >= 0; n++ {
						if n == 0 {
							b = 0
						}
						i++
						b = b<<4 | byte(strings.IndexByte(hexDigits, line[i]))
					}
				}
			}
			field = append(field, b)
		}
		if string(line[from:i]) == null {
			field = nil
		}
		fields = append(fields, field)
		if i >= len(line) {
			return fields
		}
	}
}

func sameFields(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if (a[i] == nil) != (b[i] == nil) || !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// record makes three fields of two, one of them NULL.
func recordOf(a, b []byte, order uint8) [][]byte {
	r := [][]byte{a, b, nil}
	for i := range r[:2] {
		if r[i] == nil {
			r[i] = []byte{}
		}
	}
	i := int(order) % 3
	r[2], r[i] = r[i], r[2]
	return r
}

// wholeRecord fails unless the scanner takes line for exactly one record.
func wholeRecord(t *testing.T, format Format, line []byte) {
	t.Helper()
	s := newScanner(format)
	s.eol = '\n'
	if used, end := s.scan(line, true); used != len(line) || end != len(line) || s.inQuotes || s.escaped {
		t.Errorf("%q: the record ends at %d of %d", line, end, len(line))
	}
	if used, end := newScannerAt(format).scan(line[:len(line)-1], true); end != 0 || used != len(line)-1 {
		t.Errorf("%q: there is a record's end inside of it, at %d", line, end)
	}
}

func newScannerAt(format Format) *scanner {
	s := newScanner(format)
	s.eol = '\n'
	return &s
}

func FuzzCSV(f *testing.F) {
	for _, a := range seeds {
		for i, b := range seeds[:8] {
			f.Add([]byte(a), []byte(b), uint8(i), byte(','), byte('"'), byte('"'))
		}
		f.Add([]byte(a), []byte("x"), uint8(0), byte(';'), byte('\''), byte('\\'))
		f.Add([]byte("x"), []byte(a), uint8(1), byte('|'), byte('"'), byte('|'))
	}
	f.Fuzz(func(t *testing.T, a, b []byte, order uint8, delimiter, quote, escape byte) {
		c := CSV{Delimiter: delimiter, Quote: quote, Escape: escape}
		var faults faults
		if checkFormat(&faults, c, true, nil); faults.join() != nil || c.escape() == c.delimiter() {
			return // nothing that is offered; an escape that separates is the server's to understand
		}
		want := recordOf(a, b, order)
		line, err := c.encoder().record(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		wholeRecord(t, c, line)
		if got := decodeCSV(line[:len(line)-1], c); !sameFields(got, want) {
			t.Errorf("%q became %q by way of %q", want, got, line)
		}
	})
}

func FuzzText(f *testing.F) {
	for _, a := range seeds {
		for i, b := range seeds[:8] {
			f.Add([]byte(a), []byte(b), uint8(i), byte('\t'), `\N`)
		}
		f.Add([]byte(a), []byte("x"), uint8(0), byte('|'), a)
		f.Add([]byte(a), []byte("x"), uint8(0), byte('|'), a+`\`)
		f.Add([]byte(a), []byte(""), uint8(0), byte('\t'), `\x`)
	}
	f.Fuzz(func(t *testing.T, a, b []byte, order uint8, delimiter byte, null string) {
		c := Text{Delimiter: delimiter, Null: &null}
		var faults faults
		if checkFormat(&faults, c, true, nil); faults.join() != nil {
			return
		}
		want := recordOf(a, b, order)
		line, err := c.encoder().record(nil, want)
		if errors.Is(err, errNoText) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if null == `\N` { // a marker may be anything, also half an escape
			wholeRecord(t, c, line)
		}
		if got := decodeText(line[:len(line)-1], c); !strings.HasPrefix(null, `\`) && !sameFields(got, want) {
			t.Errorf("%q became %q by way of %q", want, got, line)
		}
	})
}

func FuzzBinary(f *testing.F) {
	for i, a := range seeds {
		f.Add([]byte(a), []byte(seeds[len(seeds)-1-i]), uint8(i))
	}
	f.Fuzz(func(t *testing.T, a, b []byte, order uint8) {
		want := recordOf(a, b, order)
		record, err := binaryEncoder{}.record(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		var got [][]byte
		rest := record[2:]
		for len(rest) > 0 {
			n := int(int32(uint32(rest[0])<<24 | uint32(rest[1])<<16 | uint32(rest[2])<<8 | uint32(rest[3])))
			rest = rest[4:]
			if n < 0 {
				got = append(got, nil)
				continue
			}
			got = append(got, rest[:n:n])
			rest = rest[n:]
		}
		if record[1] != 3 || !sameFields(got, want) {
			t.Errorf("%q became %q", want, got)
		}
	})
}

// unquote reads a quoted identifier, and returns what is left behind it.
func unquote(sql string) (name, rest string) {
	sql = strings.TrimPrefix(sql, `"`)
	for {
		before, after, _ := strings.Cut(sql, `"`)
		name += before
		if !strings.HasPrefix(after, `"`) {
			return name, after
		}
		name, sql = name+`"`, after[1:]
	}
}

func FuzzIdentifiers(f *testing.F) {
	for _, a := range append(seeds, "t", `a"b`, `"; drop table t; --`, "s.t", strings.Repeat("x", 63), strings.Repeat("ü", 32)) {
		f.Add(a, "column")
		f.Add("table", a)
	}
	f.Fuzz(func(t *testing.T, schema, column string) {
		into := Into{Table: pgx.Identifier{schema, "t"}, Columns: []string{column}}
		var faults faults
		if into.validate(&faults); faults.join() != nil {
			return
		}
		sql, _ := into.statement(CSV{})
		name, rest := unquote(strings.TrimPrefix(sql, "COPY "))
		if name != schema || !strings.HasPrefix(rest, `."t" (`) {
			t.Fatalf("%q became %q, then %q", schema, name, rest)
		}
		if name, rest = unquote(strings.TrimPrefix(rest, `."t" (`)); name != column || rest != ") FROM STDIN (format csv)" {
			t.Fatalf("%q became %q, then %q", column, name, rest)
		}
	})
}

func FuzzLiterals(f *testing.F) {
	for _, a := range seeds {
		f.Add(a)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sql := strings.TrimPrefix(QuoteLiteral(s), " E")
		body := sql[1 : len(sql)-1]
		if strings.Contains(s, `\`) {
			body = strings.ReplaceAll(body, `\\`, `\`)
		}
		if strings.ReplaceAll(body, "''", "'") != s || strings.Count(sql, "'")%2 != 0 {
			t.Errorf("%q became %s", s, sql)
		}
	})
}
