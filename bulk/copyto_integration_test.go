package bulk

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

func TestCopyTo(t *testing.T) {
	onEach(t, `create table u (a int); create table t (a int, b text); insert into t values (1, 'x'), (2, null), (3, 'a,b')`, func(t *testing.T, on Target) {
		for want, from := range map[string]From{
			"1\tx\n2\t\\N\n3\ta,b\n":        {Table: table("t")},
			"x,1\n,2\n\"a,b\",3\n":          {Table: table("t"), Columns: []string{"b", "a"}, Format: CSV{}},
			"a,b\n1,\"x\"\n2,\n3,\"a,b\"\n": {Table: table("t"), Format: CSV{Header: HeaderLine, ForceQuote: []string{"b"}}},
			"b|1\nx|1\n":                    {Query: `select b, 1 as "1" from t where a = 1 -- one`, Format: Text{Header: HeaderLine, Delimiter: '|'}},
			"2,NULL\n":                      {Query: `select * from t where b is null`, Format: CSV{Null: text("NULL")}},
			"\"1\",\"x\"\n":                 {Query: `select * from t where a = 1`, Format: CSV{ForceQuoteAll: true}},
			binaryBegin + "\xff\xff":        {Query: `select 1 where false`, Format: Binary{}},
			"\xfc\n":                        {Query: `select 'ü'`, Format: Text{Encoding: "LATIN1"}},
			"4\n":                           {Query: `insert into u values (4) returning a`, Format: CSV{}},
		} {
			var b bytes.Buffer
			res, err := CopyTo(t.Context(), on, from, &b)
			if err != nil || b.String() != want || res.Bytes != int64(len(want)) {
				t.Errorf("%+v: %q instead of %q, %+v %v", from, b.String(), want, res, err)
			}
		}
	})
}

func TestCopyToCompressed(t *testing.T) {
	db := openDB(t, "")
	for _, level := range []int{0, 1, 9} {
		var b bytes.Buffer
		res, err := CopyTo(t.Context(), db, From{Query: `select generate_series(1, 10000)`, Compression: Gzip{Level: level}}, &b)
		if err != nil || res.Rows != 10_000 || int64(b.Len()) > res.Bytes/2 {
			t.Fatalf("%d bytes, %+v %v", b.Len(), res, err)
		}
		r, err := Gzip{}.NewReader(&b)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(r)
		if err != nil || int64(len(plain)) != res.Bytes {
			t.Errorf("%d bytes of %d, %v", len(plain), res.Bytes, err)
		}
	}
	_, err := CopyTo(t.Context(), db, From{Query: `select 1`, Compression: Gzip{Level: 99}}, io.Discard)
	if faultsOf(err) != "From.Compression" {
		t.Errorf("%v", err)
	}
}

func TestATornArchiveDoesNotLookWhole(t *testing.T) {
	db := openDB(t, "")
	var b bytes.Buffer
	_, err := CopyTo(t.Context(), db, From{Query: `select 1 / (5000 - i), repeat('x', 100) from generate_series(1, 10000) i`, Compression: Gzip{}}, &b)
	var pg *providers.PGError
	if !errors.As(err, &pg) || pg.Code != "22012" {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(&b)
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if err == nil {
		t.Error("the archive can be read to its end")
	}
}

func TestCopyToFails(t *testing.T) {
	db := openDB(t, `create table t as select generate_series(1, 100000) as n`)
	for name, c := range map[string]struct {
		from From
		is   error
	}{
		"writer":         {From{Query: `select repeat('x', 1000) from t`}, errOfCaller},
		"writer at end":  {From{Query: `select 1`}, errOfCaller},
		"codec at end":   {From{Query: `select 1`, Compression: Gzip{}}, errOfCaller},
		"missing table":  {From{Table: table("missing")}, nil},
		"missing column": {From{Table: table("t"), Columns: []string{"x"}}, nil},
	} {
		_, err := CopyTo(t.Context(), db, c.from, writerFunc(func([]byte) (int, error) { return 0, errOfCaller }))
		if err == nil || c.is != nil && (!errors.Is(err, c.is) || !strings.Contains(err.Error(), "the writer failed")) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.HasSuffix(name, "at end") && providers.OutcomeOf(err) != providers.OutcomeCommitted {
			t.Errorf("%s: %s", name, providers.OutcomeOf(err))
		}
	}
	if r := panics(func() {
		_, _ = CopyTo(t.Context(), db, From{Query: `select repeat('x', 1000) from t`}, writerFunc(func([]byte) (int, error) { panic("boom") }))
	}); r != "boom" {
		t.Errorf("panicked with %v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := CopyTo(ctx, db, From{Query: `select repeat('x', 1000) from t, t u`}, writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil }))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	expect(t, db, 1, `select 1`)
}
