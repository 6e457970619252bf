package pgkeel_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel"
)

type address struct {
	City string
	Zip  *string
}

type base struct {
	ID      int64
	Created time.Time
}

type person struct {
	base
	Name     string
	MailAddr sql.NullString `db:"mail,omitempty"`
	Age      *int32
	Tags     []string
	Hidden   string `db:"-"`
	secret   string //nolint:unused // what reflection must leave alone
	Address  *address
	Work     address `db:"office"`
}

// Deep is exported, since what lies in an embedded pointer that is not cannot be
// reached.
type Deep struct{ Level int }

type nested struct {
	*Deep
	Inner struct{ Address *address }
	At    *time.Time
}

type myPoint struct{ X, Y float64 }

func (p *myPoint) ScanPoint(v pgtype.Point) error {
	p.X, p.Y = v.P.X, v.P.Y
	return nil
}

type myScanner map[string]any

func (s *myScanner) Scan(src any) error {
	*s = myScanner{"raw": src}
	return nil
}

type (
	row    map[string]any
	textID string
)

func ptr[T any](v T) *T { return &v }

// reading is a query and what reading it gives.
type reading func(t *testing.T, q statements)

// gives reads a query that returns one row in every way there is.
func gives[T any](sql string, want T) reading {
	return func(t *testing.T, q statements) {
		check := func(how string, got any, want any, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%s: %v", how, err)
			} else if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %#v, not %#v", how, got, want)
			}
		}
		v, err := pgkeel.One[T](t.Context(), q, sql)
		check("One", v, want, err)
		all, err := pgkeel.All[T](t.Context(), q, sql)
		check("All", all, []T{want}, err)
		for v, err := range pgkeel.Each[T](t.Context(), q, sql) {
			check("Each", v, want, err)
		}
		var into T
		check("QueryOne", &into, &want, q.QueryOne(t.Context(), &into, sql))
		list := make([]T, 3)
		check("QueryAll", &list, &[]T{want}, q.QueryAll(t.Context(), &list, sql))
	}
}

// refuses reads a query in every way, each of which must fail and leave the
// destination and what it reads from as they were.
func refuses[T any](sql string, parts ...string) reading {
	return func(t *testing.T, q statements) {
		_, err := pgkeel.One[T](t.Context(), q, sql)
		mustSay(t, err, nil, parts...)
		all, err := pgkeel.All[T](t.Context(), q, sql)
		mustSay(t, err, nil, parts...)
		if all != nil {
			t.Errorf("All returned %v besides an error", all)
		}
		var errs []error
		for _, err := range pgkeel.Each[T](t.Context(), q, sql) {
			errs = append(errs, err)
		}
		mustSay(t, errors.Join(errs...), nil, parts...)
		var into, zero T
		mustSay(t, q.QueryOne(t.Context(), &into, sql), nil, parts...)
		list := []T{zero}
		mustSay(t, q.QueryAll(t.Context(), &list, sql), nil, parts...)
		if len(errs) != 1 || !reflect.DeepEqual(into, zero) || len(list) != 1 {
			t.Errorf("%d errors; %v and %v were written", len(errs), into, list)
		}
		if n := value[int](t, q, "select 7"); n != 7 {
			t.Errorf("afterwards: %d", n)
		}
	}
}

func TestReading(t *testing.T) {
	db := openDB(t)
	day := time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)
	for name, read := range map[string]reading{
		"number":                gives("select 42", 42),
		"number to pointer":     gives("select 42", ptr(int64(42))),
		"NULL to pointer":       gives("select null::int", (*int)(nil)),
		"text":                  gives("select 'é'", "é"),
		"text to a named type":  gives("select 'x'", textID("x")),
		"bool":                  gives("select true", true),
		"bytes":                 gives(`select '\x0102'::bytea`, []byte{1, 2}),
		"NULL to bytes":         gives("select null::bytea", []byte(nil)),
		"time":                  gives("select '2024-02-29'::date", day),
		"time to pointer":       gives("select '2024-02-29'::timestamp", &day),
		"array":                 gives("select array['a', null]", []*string{ptr("a"), nil}),
		"array to array":        gives("select array[1, 2]", [2]int{1, 2}),
		"NULL array":            gives("select null::int[]", []int(nil)),
		"pgtype array":          gives("select array[1]", pgtype.Array[int32]{Elements: []int32{1}, Dims: []pgtype.ArrayDimension{{Length: 1, LowerBound: 1}}, Valid: true}),
		"pgtype range":          gives("select 'empty'::int4range", pgtype.Range[pgtype.Int4]{LowerType: pgtype.Empty, UpperType: pgtype.Empty, Valid: true}),
		"pgtype text":           gives("select 'x'", pgtype.Text{String: "x", Valid: true}),
		"NULL to pgtype":        gives("select null::text", pgtype.Text{}),
		"pgtype hstore of json": gives(`select null::jsonb`, pgtype.Hstore(nil)),
		"sql.Null":              gives("select 'x'", sql.Null[string]{V: "x", Valid: true}),
		"NULL to sql.Null":      gives("select null::text", sql.Null[string]{}),
		"netip":                 gives("select '10.0.0.0/8'::cidr", netip.MustParsePrefix("10.0.0.0/8")),
		"type with a pgx Scan":  gives("select point(1, 2)", myPoint{1, 2}),
		"map with a Scan":       gives("select 'x'::text", myScanner{"raw": "x"}),
		"JSON to a map":         gives(`select '{"a": "b"}'::jsonb`, map[string]string{"a": "b"}),
		"JSON to a slice":       gives(`select '[{"City": "Porto"}]'::jsonb`, []address{{City: "Porto"}}),
		"any":                   gives("select 1::int8", any(int64(1))),
		"NULL to any":           gives("select null::int8", any(nil)),

		"map":            gives("select 1::int4 as a, 'x' as b, null::int as c", map[string]any{"a": int32(1), "b": "x", "c": nil}),
		"named map":      gives("select 1::int4 as a", row{"a": int32(1)}),
		"map of nothing": gives("select", map[string]any{}),
		"struct": gives(
			`select 7 as id, 'Ana' as name, 'a@b' as mail, 30 as "AGE", array['x'] as tags, 'Rua' as "office.city", '1' as "office.zip"`,
			person{base: base{ID: 7}, Name: "Ana", MailAddr: sql.NullString{String: "a@b", Valid: true}, Age: ptr(int32(30)), Tags: []string{"x"}, Work: address{"Rua", ptr("1")}}),
		"struct with NULLs": gives(
			"select 7 as id, '2024-02-29'::timestamp as created, null::text as mail, null::int as age, null::text[] as tags, null::text as \"office.zip\"",
			person{base: base{ID: 7, Created: day}}),
		"pointer to struct":          gives(`select 'Porto' as city`, &address{City: "Porto"}),
		"nested pointer, all NULL":   gives(`select null::text as "address.city", null::text as "address.zip"`, person{}),
		"nested pointer":             gives(`select 'Porto' as "address.city", '4000' as "address.zip"`, person{Address: &address{"Porto", ptr("4000")}}),
		"nested pointer, some NULL":  gives(`select 'Porto' as "address.city", null::text as "address.zip"`, person{Address: &address{City: "Porto"}}),
		"nested from JSON":           gives(`select '{"City": "Faro"}'::jsonb as address`, person{Address: &address{City: "Faro"}}),
		"embedded pointer":           gives(`select 3 as level`, nested{Deep: &Deep{3}}),
		"embedded pointer, NULL":     gives(`select null::int as level, null::date as at`, nested{}),
		"nested twice":               gives(`select 'Faro' as "inner.address.city"`, nested{Inner: struct{ Address *address }{&address{City: "Faro"}}}),
		"nested twice, NULL":         gives(`select null::text as "inner.address.city"`, nested{}),
		"underscores and upper case": gives(`select 1 as "Lev_EL"`, nested{Deep: &Deep{1}}),
		"anonymous struct":           gives(`select 1 as n`, struct{ N int }{1}),
		"struct without any column":  gives(`select`, address{}),

		"column without field":      refuses[address](`select 1 as town`, `column "town" has no field in`, "`db:\"town\"`"),
		"nested without field":      refuses[person](`select 1 as "address.town"`, `column "town" has no field in pgkeel_test.address`),
		"dots into a scalar":        refuses[person](`select 1 as "name.first"`, `column "name.first" has no field in`),
		"hidden field":              refuses[person](`select 'x' as hidden`, `column "hidden" has no field in`),
		"unexported field":          refuses[person](`select 'x' as secret`, `column "secret" has no field in`),
		"column without a name":     refuses[address](`select 1`, `column "?column?" has no field`),
		"column twice":              refuses[address](`select 'x' as city, 'y' as city`, `column "city" appears twice`, "AS"),
		"column twice in a map":     refuses[map[string]any](`select 1 as a, 2 as a`, `column "a" appears twice`, "AS"),
		"two columns for one field": refuses[address](`select 'x' as city, 'y' as "CITY"`, `columns "city" and "CITY" both belong to field City`),
		"NULL into a number":        refuses[int]("select null::int", "NULL"),
		"NULL into a field":         refuses[address](`select null::text as city`, "NULL", "city"),
		"NULL beside a value":       refuses[person](`select null::text as "address.city", '1' as "address.zip"`, "NULL", "address.city"),
		"wrong type":                refuses[int]("select 'x'", "cannot scan text"),
		"wrong type in a field":     refuses[struct{ N int }](`select 'x' as n`, "cannot scan text", "n"),
		"two columns for a scalar":  refuses[int]("select 1, 2", "a int holds one column, but the query returns 2"),
		"two columns for a time":    refuses[*time.Time]("select now(), now()", "a *time.Time holds one column"),
		"map with keys of its own":  refuses[map[textID]any]("select 1 as a, 2 as b", "holds one column"),
		"map of numbers":            refuses[map[string]int]("select 1 as a, 2 as b", "holds one column"),
		"bytes of the connection":   refuses[pgtype.DriverBytes]("select 'x'::bytea", "DriverBytes", "[]byte"),
		"bytes of it in a struct":   refuses[struct{ B pgtype.DriverBytes }]("select 'x'::bytea as b", "DriverBytes"),
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, db, read)
		})
	}
}

// TestReadingFails is apart, since in a transaction these fail what comes next.
func TestReadingFails(t *testing.T) {
	db := openDB(t)
	for name, read := range map[string]reading{
		"the server's own error":     refuses[int]("select 1/0", "division by zero", "22012"),
		"an error behind a row":      refuses[int]("select 1/(2-n) from generate_series(2, 2) n", "division by zero"),
		"a statement that is no SQL": refuses[int]("selec", "42601"),
	} {
		t.Run(name, func(t *testing.T) { read(t, db) })
	}
}

func TestRegisteredStructIsAValue(t *testing.T) {
	db := openDB(t, pgkeel.WithAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, `create type pair as (n int, city text)`); err != nil {
			return err
		}
		typ, err := conn.LoadType(ctx, "pair")
		if err != nil {
			return err
		}
		conn.TypeMap().RegisterType(typ)
		conn.TypeMap().RegisterDefaultPgType(registered{}, "pair")
		return nil
	}), one())
	onEach(t, db, gives("select row(1, 'x')::pair", registered{1, "x"}))
	onEach(t, db, gives("select row(1, 'x')::pair", &registered{1, "x"}))
}

type registered struct {
	N    int32
	City string
}

// undecodable is the codec of a type whose values cannot be read.
type undecodable struct{ pgtype.TextCodec }

func (undecodable) DecodeValue(*pgtype.Map, uint32, int16, []byte) (any, error) { return nil, errMine }

func TestValuesThatCannotBeDecoded(t *testing.T) {
	db := openDB(t, one(), pgkeel.WithAfterConnect(func(_ context.Context, conn *pgx.Conn) error {
		conn.TypeMap().RegisterType(&pgtype.Type{Name: "xml", OID: pgtype.XMLOID, Codec: undecodable{}})
		return nil
	}))
	onEach(t, db, refuses[map[string]any]("select '<a/>'::xml as a from generate_series(1, 9)", "mine"))
}

func TestTimeWithZone(t *testing.T) {
	want := time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)
	got := value[time.Time](t, openDB(t), "select '2024-02-29 13:00+01'::timestamptz")
	if !got.Equal(want) {
		t.Error(got)
	}
}

func TestDestinationsThatCannotBe(t *testing.T) {
	db := openDB(t)
	var null *int
	for _, tc := range []struct {
		dst  any
		text string
	}{
		{nil, "a <nil>"},
		{1, "a int"},
		{address{}, "a pgkeel_test.address"},
		{null, "a *int"},
		{map[string]any{}, "a map[string]interface {}"},
	} {
		t.Run(fmt.Sprintf("%T", tc.dst), func(t *testing.T) {
			err := db.QueryOne(t.Context(), tc.dst, "select 1/0")
			mustSay(t, err, nil, "QueryOne", tc.text, "non-nil pointer", "nothing was sent")
			mustBe(t, err, pgkeel.OutcomeNotSent)
			err = db.QueryAll(t.Context(), tc.dst, "select 1/0")
			mustSay(t, err, nil, "QueryAll", tc.text, "non-nil pointer to a slice", "nothing was sent")
			mustBe(t, err, pgkeel.OutcomeNotSent)
		})
	}
	mustSay(t, db.QueryAll(t.Context(), new(int), "select 1/0"), nil, "a *int")
}
