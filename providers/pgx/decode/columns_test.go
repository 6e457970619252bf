package decode_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"go.uber.org/goleak"

	"github.com/pgkeel/pgkeel/providers/pgx/decode"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func columns(oids ...uint32) *decode.Columns {
	c := &decode.Columns{Types: pgtype.NewMap()}
	for _, oid := range oids {
		c.Fields = append(c.Fields, pgconn.FieldDescription{Name: "c", DataTypeOID: oid})
	}
	return c
}

func TestValuesThatWereNotDescribed(t *testing.T) {
	c := columns(pgtype.Int4OID, pgtype.TextOID)
	for _, values := range [][][]byte{nil, {[]byte("1")}, {[]byte("1"), []byte("a"), []byte("b")}} {
		if _, err := c.Values(values); err == nil {
			t.Errorf("%d values for 2 columns were decoded", len(values))
		}
		if err := c.Scan(nil, values, []any{new(int), new(string)}); err == nil {
			t.Errorf("%d values for 2 columns were scanned", len(values))
		}
	}
}

func TestDestinationsOfOtherKindsFromRowToRow(t *testing.T) {
	c := columns(pgtype.Int4OID)
	row := [][]byte{[]byte("7")}
	var i int
	var s string
	var none any
	for range 2 {
		if err := c.Scan(nil, row, []any{&i}); err != nil || i != 7 {
			t.Errorf("%d %v", i, err)
		}
		if err := c.Scan(nil, row, []any{&s}); err != nil || s != "7" {
			t.Errorf("%q %v", s, err)
		}
		if err := c.Scan(nil, row, []any{nil}); err != nil {
			t.Error(err)
		}
	}
	if err := c.Scan(nil, [][]byte{nil}, []any{&none}); err != nil || none != nil {
		t.Errorf("%v %v", none, err)
	}
	if err := c.Scan(nil, [][]byte{nil}, []any{&i}); err == nil {
		t.Error("NULL was read into an int")
	}
}

func TestValuesOfUnknownTypes(t *testing.T) {
	const unknown = 999999
	c := columns(unknown, unknown, pgtype.Int4OID)
	c.Fields[1].Format = 1
	binary := []byte{1, 2}
	values, err := c.Values([][]byte{[]byte("text"), binary, nil})
	if err != nil || values[0] != "text" || !slices.Equal(values[1].([]byte), binary) || values[2] != nil {
		t.Errorf("%v %v", values, err)
	}
	binary[0] = 9
	if values[1].([]byte)[0] != 1 {
		t.Error("the value changes with the driver's buffer")
	}
	if _, err := c.Values([][]byte{nil, nil, []byte("x")}); err == nil {
		t.Error("x is an int")
	}
}
