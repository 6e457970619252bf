package bulk

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

func TestErrorsTellThePlaceAndNotTheData(t *testing.T) {
	db := openDB(t, `create type mood as enum ('good', 'bad');
		create table t (a int, b varchar(5) unique, c date, d mood, e jsonb);
		create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not today'; end $$;
		create table guarded (a int); create trigger g before insert on guarded for each row execute function refuse()`)
	for name, c := range map[string]struct {
		table, columns string
		format         Format
		data           string
		line           int64
		column         string
		excerpt        string
		message        string
	}{
		"number":       {"t", "a", CSV{}, "1\nsecret-42\n", 2, "a", "xxxxxx-99", "invalid input syntax for type integer"},
		"out of range": {"t", "a", CSV{}, "1\n2\n99999999999\n", 3, "a", "99999999999", "value … is out of range for type integer"},
		"NULL":         {"t", "a", Text{}, "\x00", 1, "", "", ""},
		"too long":     {"t", "b", CSV{}, "secret\n", 1, "b", "xxxxxx", "value too long for type character varying(5)"},
		"date":         {"t", "c", CSV{}, "2020-13-45\n", 1, "c", "9999-99-99", "date/time field value out of range"},
		"enum":         {"t", "d", CSV{}, "secret\n", 1, "d", "xxxxxx", "invalid input value for enum mood"},
		"json":         {"t", "e", Text{}, "{\"secret\"\n", 1, "e", "??xxxxxx?", "invalid input syntax for type json"},
		"few fields":   {"t", "a,b", CSV{}, "1,x\n2\n", 2, "", "9", `missing data for column "b"`},
		"many fields":  {"t", "a", CSV{}, "1,secret\n", 1, "", "9,xxxxxx", "extra data after last expected column"},
		"quote":        {"t", "a", CSV{}, "1\n\"sec", 2, "", "?xxx", "unterminated CSV quoted field"},
		"unique":       {"t", "b", CSV{}, "s1\ns1\n", 2, "", "", `duplicate key value violates unique constraint "t_b_key"`},
		"encoding":     {"t", "b", CSV{}, "\xff\xfe\n", 1, "", "", `invalid byte sequence for encoding "UTF8": …`},
		"header":       {"t", "a,b", CSV{Header: HeaderMatch}, "a,secret\n1,x\n", 1, "", "", "column name mismatch in header line field 2: got …, expected …"},
		"trigger":      {"guarded", "a", CSV{}, "1\n2\n", 1, "", "9", "not today"},
	} {
		into := Into{Table: table(c.table), Columns: strings.Split(c.columns, ",")}
		_, err := CopyFrom(t.Context(), db, into, FromReader(strings.NewReader(c.data), c.format))
		var at *CopyError
		if !errors.As(err, &at) {
			if name != "NULL" || err == nil { // PostgreSQL takes no NUL whatever the type
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if name == "NULL" {
			continue
		}
		if name == "header" {
			c.message = strings.Replace(c.message, "expected …", `expected "b"`, 1)
		}
		if at.Line != c.line || at.Column != c.column || at.Message != c.message || c.excerpt != "" && at.Excerpt != c.excerpt {
			t.Errorf("%s: %+v", name, at)
		}
		text := err.Error()
		if strings.Contains(text, "secret") || !strings.Contains(text, fmt.Sprintf(`"%s": line %d`, c.table, c.line)) || !strings.HasSuffix(text, "; rolled back") {
			t.Errorf("%s: %s", name, text)
		}
		if providers.OutcomeOf(err) != providers.OutcomeRolledBack || at.Code == "" {
			t.Errorf("%s: outcome %s", name, providers.OutcomeOf(err))
		}
		var pg *providers.PGError
		if !errors.As(err, &pg) {
			t.Errorf("%s: the server's error is lost", name)
		}
	}
	into := Into{Table: table("t"), Columns: []string{"a"}, ValuesInErrors: true}
	_, err := CopyFrom(t.Context(), db, into, FromReader(strings.NewReader("hello 42\n"), CSV{}))
	if err == nil || !strings.Contains(err.Error(), `near "hello 42": invalid input syntax for type integer: "hello 42"`) {
		t.Errorf("%v", err)
	}
	_, err = CopyFrom(t.Context(), db, into, FromReader(strings.NewReader("1\n"), CSV{ForceNotNull: []string{"a"}, Null: text("1")}))
	if err != nil {
		t.Errorf("%v", err)
	}
}

func TestTheRowAtFaultOfASource(t *testing.T) {
	db := openDB(t, `create table t (a int, b varchar(5))`)
	into := Into{Table: table("t"), Columns: []string{"a", "b"}}
	type item struct {
		A any
		B any
	}
	for name, c := range map[string]struct {
		item item
		want string
	}{
		"the server refuses":    {item{1, "secret"}, `line 3, column "b": value too long for type character varying(5) (SQLSTATE 22001); rolled back`},
		"a text for a number":   {item{"secret-42", "x"}, `line 3, column "a", near "xxxxxx-99": a value of the Go type string cannot be encoded as int4; rolled back`},
		"too large":             {item{int64(1) << 40, "x"}, `line 3, column "a", near "9999999999999": a value of the Go type int64 cannot be encoded as int4; rolled back`},
		"no type of PostgreSQL": {item{1, make(chan int)}, `line 3, column "b": a value of the Go type chan int cannot be encoded as varchar; rolled back`},
		"a Valuer that fails":   {item{1, failingValuer{}}, `line 3, column "b": a value of the Go type bulk.failingValuer cannot be encoded as varchar; rolled back`},
	} {
		_, err := CopyFrom(t.Context(), db, into, FromSlice([]item{{1, "x"}, {2, "x"}, c.item}))
		var at *CopyError
		if !errors.As(err, &at) || at.Line != 3 || err.Error() != `pgkeel: copy of "t": `+c.want || providers.OutcomeOf(err) != providers.OutcomeRolledBack {
			t.Errorf("%s: %v", name, err)
		}
		if name == "a Valuer that fails" && !errors.Is(err, errOfCaller) {
			t.Errorf("the Valuer's error is lost: %v", err)
		}
	}
	_, err := CopyFrom(t.Context(), db, into, FromSlice([][]any{{1, "x"}, {2}}))
	if err == nil || err.Error() != `pgkeel: copy of "t": line 2: the source has 1 values for 2 columns; rolled back` {
		t.Errorf("%v", err)
	}
	into.ValuesInErrors = true
	_, err = CopyFrom(t.Context(), db, into, FromSlice([]item{{strings.Repeat("é", 1000), "x"}}))
	if err == nil || !strings.Contains(err.Error(), `near "ééé`) || len(err.Error()) > 1000 {
		t.Errorf("%v", err)
	}
}

// failingValuer cannot encode itself, and says so with a value.
type failingValuer struct{}

func (failingValuer) Value() (driver.Value, error) { return nil, fmt.Errorf("secret: %w", errOfCaller) }

func TestShapes(t *testing.T) {
	for value, want := range map[string]string{
		"":                       "",
		"O'Hara, 42 (Müller)":    "x?xxxx, 99 ?xxxxxx?",
		"2024-05-06T07:08:09+02": "9999-99-99x99:99:99+99",
		"$ecr€t_pass\nword":      "?xxx?x?xxxx?xxxx",
		strings.Repeat("a", 100): strings.Repeat("x", 60) + "…",
	} {
		if got := shapeOf(value); got != want {
			t.Errorf("%q: %q", value, got)
		}
	}
}

func TestPlacesInOtherLanguages(t *testing.T) {
	for where, want := range map[string]string{
		"COPY t, line 3, column a: \"x\"":                                 "3 a x",
		"COPY t, Zeile 3, Spalte a: »x«":                                  "3 a x",
		"COPY t, ligne 3, colonne a : « x »":                              "3 a   x ",
		"PL/pgSQL function f() line 7 at RAISE\nCOPY t, line 3: \"a\nb\"": "3  a\nb",
		"SQL statement":             "",
		"COPY t, line 12":           "12  ",
		"COPY t, line 12, column a": "12 a ",
	} {
		at := place.FindStringSubmatch(where)
		got := ""
		if at != nil {
			got = at[2] + " " + at[3] + " " + unquoted(at[4])
		}
		if got != want {
			t.Errorf("%q: %q", where, got)
		}
	}
}
