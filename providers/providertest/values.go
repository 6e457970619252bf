package providertest

import (
	"database/sql"
	"math"
	"math/big"
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/providers"
)

var valueTests = []test{
	{name: "RoundTrip", run: testRoundTrip},
	{name: "Values", run: testValues},
	{name: "NULL", run: testNULL},
	{name: "NamedArguments", run: testNamedArguments},
	{name: "ScanInto", run: testScanInto},
	{name: "UserTypes", run: testUserTypes},
}

// roundTrip sends a value and reads it back into its own type.
func roundTrip[T any](sql string, v T) func(t *testing.T, q querier) {
	return func(t *testing.T, q querier) {
		t.Helper()
		if got := value[T](t, q, sql, v); !same(got, v) {
			t.Errorf("%s: %#v came back as %#v", sql, v, got)
		}
	}
}

// same compares values; times by what they say, whatever the zone's name.
func same(a, b any) bool {
	if at, ok := a.(time.Time); ok {
		bt, ok := b.(time.Time)
		return ok && at.Equal(bt)
	}
	return reflect.DeepEqual(a, b)
}

type document struct {
	Name string   `json:"name"`
	Tags []string `json:"tags"`
}

func testRoundTrip(t *testing.T, s suite) {
	p := s.open(t, 1)
	for _, check := range []func(t *testing.T, q querier){
		roundTrip("select $1::bool", true),
		roundTrip("select $1::smallint", int16(math.MinInt16)),
		roundTrip("select $1::int", int32(math.MaxInt32)),
		roundTrip("select $1::bigint", int64(math.MinInt64)),
		roundTrip("select $1::bigint", uint32(math.MaxUint32)),
		roundTrip("select $1::real", float32(0.1)),
		roundTrip("select $1::double precision", math.MaxFloat64),
		roundTrip("select $1::double precision", math.Inf(-1)),
		roundTrip("select $1::numeric", pgtype.Numeric{Int: bigInt("123456789012345678901234567890"), Exp: -10, Valid: true}),
		roundTrip("select $1::text", ""),
		roundTrip("select $1::text", `it's "quoted" \ $1 ; -- ü 世界 🐘`+"\n\t"),
		roundTrip("select $1::varchar(3)", "abc"),
		roundTrip("select $1::bytea", []byte{}),
		roundTrip("select $1::bytea", []byte{0, 1, 0xff, '\\', 'x'}),
		roundTrip("select $1::date", time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)),
		roundTrip("select $1::timestamp", time.Date(1969, 12, 31, 23, 59, 59, 999999000, time.UTC)),
		roundTrip("select $1::timestamptz", time.Date(2038, 1, 19, 3, 14, 8, 1000, time.FixedZone("", -3*3600))),
		roundTrip("select $1::uuid", "7d444840-9dc0-11d1-b245-5ffdce74fad2"),
		roundTrip("select $1::uuid", pgtype.UUID{Bytes: [16]byte{15: 1}, Valid: true}),
		roundTrip("select $1::int[]", []int32{1, 2, 3}),
		roundTrip("select $1::bigint[]", []int64{}),
		roundTrip("select $1::text[]", []string{"a", `b"c`, "", "{,}", "NULL"}),
		roundTrip("select $1::text", pgtype.Text{String: "x", Valid: true}),
		roundTrip("select $1::text", sql.NullString{String: "x", Valid: true}),
		roundTrip("select $1::bigint", sql.Null[int64]{V: 5, Valid: true}),
		roundTrip("select $1::interval", pgtype.Interval{Months: 1, Days: 2, Microseconds: 3, Valid: true}),
	} {
		check(t, p)
	}
	if s.keepsSessions() { // else nobody knows that the server wants JSON
		roundTrip("select $1::json", []byte(`{"a": 1}`))(t, p)
		roundTrip("select $1::jsonb", map[string]any{"a": 1.5, "b": []any{"c", nil}})(t, p)
		roundTrip("select $1::jsonb", document{Name: "ü", Tags: []string{"x", `"y"`}})(t, p)
	}
}

// testValues reads values whose type only the column tells.
func testValues(t *testing.T, s suite) {
	p := s.open(t, 1)
	at := time.Date(2024, 2, 29, 12, 30, 0, 123456000, time.UTC)
	for _, tc := range []struct {
		sql  string
		want any
	}{
		{"select true", true},
		{"select 1::smallint", int16(1)},
		{"select 1", int32(1)},
		{"select 1::bigint", int64(1)},
		{"select 0.1::real", float32(0.1)},
		{"select 'NaN'::double precision = 'NaN'", true},
		{"select 1e300::double precision", 1e300},
		{"select 'x'::text", "x"},
		{`select '\x00ff'::bytea`, []byte{0, 0xff}},
		{"select date '2024-02-29'", time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)},
		{"select timestamp '2024-02-29 12:30:00.123456'", at},
		{"select timestamptz '2024-02-29 12:30:00.123456+00'", at},
		{"select time '12:30:00.5'", pgtype.Time{Microseconds: 45000500000, Valid: true}},
		{"select '7d444840-9dc0-11d1-b245-5ffdce74fad2'::uuid", [16]byte{0x7d, 0x44, 0x48, 0x40, 0x9d, 0xc0, 0x11, 0xd1, 0xb2, 0x45, 0x5f, 0xfd, 0xce, 0x74, 0xfa, 0xd2}},
		{`select '{"a": [1, null]}'::jsonb`, map[string]any{"a": []any{1.0, nil}}},
		{"select '{1,null}'::int[]", []any{int32(1), nil}},
		{"select 12.50::numeric", pgtype.Numeric{Int: bigInt("1250"), Exp: -2, Valid: true}},
		{"select timestamptz 'infinity'", pgtype.Infinity},
		{"select null::int", nil},
	} {
		rows, err := p.Query(t.Context(), tc.sql)
		if err != nil || !rows.Next() {
			t.Errorf("%s: no row: %v", tc.sql, err)
			continue
		}
		values, err := rows.Values()
		if err != nil || len(values) != 1 || !same(values[0], tc.want) {
			t.Errorf("%s: %#v, want %#v; %v", tc.sql, values, tc.want, err)
		}
		var dest any
		if err := rows.Scan(&dest); err != nil || !same(dest, tc.want) {
			t.Errorf("%s: scanned %#v, want %#v; %v", tc.sql, dest, tc.want, err)
		}
		rows.Close()
	}
}

func testNULL(t *testing.T, s suite) {
	p := s.open(t, 1)
	var text *string
	var number sql.Null[int64]
	var word pgtype.Text
	var bytes []byte
	list := []string{"stays not"}
	var anything any = "stays not"
	err := p.QueryRow(t.Context(), "select null::text, null::bigint, null::text, null::bytea, null::text[], null::int").
		Scan(&text, &number, &word, &bytes, &list, &anything)
	if err != nil || text != nil || number.Valid || word.Valid || bytes != nil || list != nil || anything != nil {
		t.Errorf("%v %v %v %v %v %v: %v", text, number, word, bytes, list, anything, err)
	}
	for kind, dest := range map[string]any{"text": new(string), "int": new(int), "bool": new(bool), "timestamptz": new(time.Time)} {
		if err := p.QueryRow(t.Context(), "select null::"+kind).Scan(dest); err == nil {
			t.Errorf("NULL went into a %T", dest)
		}
	}
	var none *int
	for _, arg := range []any{nil, none, sql.NullString{}, pgtype.Int8{}, []byte(nil), []int64(nil)} {
		if !value[bool](t, p, "select $1::text is null", text) {
			t.Error("a nil pointer is not NULL")
		}
		if got := value[bool](t, p, nullTest(arg), arg); !got {
			t.Errorf("%#v is not NULL", arg)
		}
	}
}

// nullTest is a statement whose parameter has a type that fits.
func nullTest(arg any) string {
	switch arg.(type) {
	case []byte:
		return "select $1::bytea is null"
	case []int64:
		return "select $1::bigint[] is null"
	case *int, pgtype.Int8:
		return "select $1::bigint is null"
	default:
		return "select $1::text is null"
	}
}

func testNamedArguments(t *testing.T, s suite) {
	s.onEach(t, table, func(t *testing.T, q querier) {
		named := pgx.NamedArgs{"a": 2, "b": "x"}
		if got := value[string](t, q, "select @b || @a::int || @b", named); got != "x2x" {
			t.Error(got)
		}
		mustExec(t, q, "insert into t values (@a)", named)
		for _, pairs := range [][]string{nil, {"app.x", "1"}} {
			call := scoped(providers.CallExec, "insert into t values (@a)", []any{named}, pairs...)
			if err := q.Run(t.Context(), call); err != nil || call.Tag.RowsAffected() != 1 {
				t.Errorf("%q: %v", pairs, err)
			}
		}
		if n := value[int](t, q, "select sum(n) from t"); n != 6 {
			t.Errorf("%d", n)
		}
	})
}

func testScanInto(t *testing.T, s suite) {
	p := s.open(t, 1)
	rows, err := p.Query(t.Context(), "select 1, 'two', 3.5::double precision, '{1,2}'::int[], '{\"name\": \"n\"}'::jsonb")
	if err != nil || !rows.Next() {
		t.Fatal("no row", err)
	}
	defer rows.Close()
	var n *int64
	var text sql.NullString
	var list pgtype.FlatArray[int64]
	var doc document
	// A nil destination skips its column.
	if err := rows.Scan(&n, &text, nil, &list, &doc); err != nil || *n != 1 || text.String != "two" || len(list) != 2 || doc.Name != "n" {
		t.Errorf("%v %v %v %v: %v", n, text, list, doc, err)
	}
	var raw struct{ bytes []byte }
	var whole wholeRow
	if err := rows.Scan(&whole); err != nil || whole != 5 {
		t.Errorf("a pgx.RowScanner: %d, %v", whole, err)
	}
	if err := rows.Scan(nil, &raw.bytes, nil, nil, nil); err != nil || string(raw.bytes) != "two" {
		t.Errorf("%q, %v", raw.bytes, err)
	}
	if rows.Next() || string(raw.bytes) != "two" {
		t.Error("scanned bytes must stay")
	}
}

// wholeRow scans a row by itself, and notes its columns.
type wholeRow int

// ScanRow implements pgx.RowScanner.
func (w *wholeRow) ScanRow(rows pgx.Rows) error {
	*w = wholeRow(len(rows.RawValues()))
	return nil
}

// testUserTypes reads types that no driver knows, which it sees as text.
func testUserTypes(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, "create type mood as enum ('sad', 'glad'); create domain small as int check (value < 10)")
	if got := value[string](t, p, "select $1::mood", "glad"); got != "glad" {
		t.Error(got)
	}
	if got := value[int](t, p, "select $1::small", 7); got != 7 {
		t.Error(got)
	}
	rows, err := p.Query(t.Context(), "select 'sad'::mood")
	if err != nil || !rows.Next() {
		t.Fatal("no row", err)
	}
	defer rows.Close()
	if values, err := rows.Values(); err != nil || values[0] != "sad" {
		t.Errorf("%#v, %v", values, err)
	}
}

// bigInt reads a number that fits no machine word.
func bigInt(s string) *big.Int {
	n, _ := new(big.Int).SetString(s, 10)
	return n
}
