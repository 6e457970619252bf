package stdsql

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

func TestAsText(t *testing.T) {
	at := time.Date(2024, 2, 29, 1, 2, 3, 4000, time.FixedZone("", 5*3600+30*60+15))
	for _, tc := range []struct {
		oid   uint32
		value any
		want  string
	}{
		{pgtype.TextOID, "x", "x"},
		{pgtype.NumericOID, []byte("1.50"), "1.50"},
		{pgtype.TextOID, []byte(nil), ""},
		{pgtype.ByteaOID, []byte{0, 255}, `\x00ff`},
		{pgtype.Int8OID, int64(math.MinInt64), "-9223372036854775808"},
		{pgtype.Float4OID, float64(float32(0.1)), "0.1"},
		{pgtype.Float8OID, math.Inf(1), "+Inf"},
		{pgtype.BoolOID, true, "t"},
		{pgtype.BoolOID, false, "f"},
		{pgtype.DateOID, at, "2024-02-29"},
		{pgtype.TimestampOID, at, "2024-02-29 01:02:03.000004"},
		{pgtype.TimestamptzOID, at, "2024-02-29 01:02:03.000004+05:30:15"},
		{pgtype.TimeOID, at, "01:02:03.000004"},
		{pgtype.TimetzOID, at, "01:02:03.000004+05:30"},
		{0, at.UTC(), "2024-02-29 01:02:03.000004+00:00:00"},
	} {
		if tc.oid == 0 {
			tc.want = "2024-02-28 19:31:48.000004+00:00:00"
		}
		if got, err := asText(tc.oid, tc.value); err != nil || string(got) != tc.want {
			t.Errorf("%v as %d: %q, want %q; %v", tc.value, tc.oid, got, tc.want, err)
		}
	}
	if got, err := asText(pgtype.TextOID, nil); got != nil || err != nil {
		t.Errorf("NULL: %q, %v", got, err)
	}
	if _, err := asText(pgtype.TextOID, struct{}{}); err == nil {
		t.Error("a value that no driver may return")
	}
}

// There is no year 0, and its 29th of February is one.
func TestTimesBeforeChrist(t *testing.T) {
	m := pgtype.NewMap()
	for _, at := range []time.Time{
		time.Date(0, 2, 29, 0, 0, 0, 0, time.UTC),
		time.Date(-43, 3, 15, 12, 0, 0, 0, time.UTC),
		time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		text, err := asText(pgtype.TimestamptzOID, at)
		if err != nil {
			t.Fatal(err)
		}
		var got time.Time
		if err := m.Scan(pgtype.TimestamptzOID, pgx.TextFormatCode, text, &got); err != nil || !got.Equal(at) {
			t.Errorf("%s became %q and then %s: %v", at, text, got, err)
		}
	}
}

func TestDescribe(t *testing.T) {
	fields := describe(pgtype.NewMap(), []string{"a", "b", "c", "d"}, []string{"INT4", "_TEXT", "16999", ""})
	for i, want := range []uint32{pgtype.Int4OID, pgtype.TextArrayOID, 16999, 0} {
		if fields[i].DataTypeOID != want || fields[i].Format != pgx.TextFormatCode {
			t.Errorf("%+v, want type %d", fields[i], want)
		}
	}
}

type (
	number int
	stamp  string
)

func TestPortableArg(t *testing.T) {
	m := pgtype.NewMap()
	five := 5
	var none *int
	var noValuer *pgtype.Int4
	for _, tc := range []struct{ arg, want any }{
		{nil, nil},
		{"x", "x"},
		{5, 5},
		{uint64(5), uint64(5)},
		{number(5), number(5)},
		{&five, int64(5)},
		{none, nil},
		{noValuer, nil},
		{[]int(nil), nil},
		{[]int64{1, 2}, "{1,2}"},
		{[]string{"a", `"`}, `{a,"\""}`},
		{[16]byte{15: 1}, "00000000-0000-0000-0000-000000000001"},
		{[2]int32{1, 2}, "{1,2}"},
		{[]number{3, 4}, "{3,4}"},
		{[]stamp{"a b", "c"}, `{"a b",c}`},
		{[]map[string]int{{"a": 1}}, `[{"a":1}]`},
		{json.RawMessage(`{}`), "{}"},
		{pgtype.Int8{Int64: 7, Valid: true}, int64(7)},
		{pgtype.Int8{}, nil},
		{map[string]int{"a": 1}, `{"a":1}`},
		{struct{ A *int }{}, `{"A":null}`},
		{&struct{ A int }{2}, `{"A":2}`},
	} {
		got, err := portableArg(m, tc.arg)
		if five, ok := got.(string); ok && tc.want == int64(5) && five == "5" {
			continue // in text form is as good
		}
		if err != nil || got != tc.want {
			t.Errorf("%#v became %#v, want %#v; %v", tc.arg, got, tc.want, err)
		}
	}
	for _, bad := range []any{make(chan int), func() {}, complex(1, 2), map[string]any{"a": make(chan int)}} {
		if got, err := portableArg(m, bad); err == nil {
			t.Errorf("%T became %v", bad, got)
		}
	}
}

func TestForeignErrors(t *testing.T) {
	type full struct {
		coded
		Severity, Message, Detail, Position, Table, Routine string
		Line                                                int // not text, so not read
	}
	err := errors.Join(errors.New("around"), &full{
		coded: "23505", Severity: "ERROR", Message: "m", Detail: "d", Position: "7", Table: "t", Routine: "r", Line: 9,
	})
	pg := pgError(err)
	if pg == nil || pg.Code != "23505" || pg.Message != "m" || pg.Detail != "d" || pg.Position != 7 || pg.Table != "t" || pg.Routine != "r" || pg.Line != 0 {
		t.Fatalf("%+v", pg)
	}
	var own *full
	if !errors.As(pg, &own) {
		t.Error("the driver's own error is lost")
	}
	if again := pgError(pg); again != pg {
		t.Error("mapped twice")
	}
	if pg := pgError(coded("40001")); pg == nil || pg.Code != "40001" || !pg.IsRetryable() {
		t.Errorf("a code alone: %+v", pg)
	}
	for _, err := range []error{errors.New("x"), coded(""), coded("too long")} {
		if pg := pgError(err); pg != nil {
			t.Errorf("%q: %+v", err, pg)
		}
	}
}

// coded is an error that has a code and no fields.
type coded string

func (c coded) Error() string    { return "coded " + string(c) }
func (c coded) SQLState() string { return string(c) }
