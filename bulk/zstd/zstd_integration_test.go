package zstd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/bulk"
	"github.com/pgkeel/pgkeel/bulk/zstd"
	"github.com/pgkeel/pgkeel/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, func() error { return goleak.Find() }) }

func open(t *testing.T, setup string) *pgkeel.DB {
	t.Helper()
	db, err := pgkeel.Open(t.Context(), pgtest.NewDB(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if _, err := db.Exec(t.Context(), setup); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestThereAndBack(t *testing.T) {
	db := open(t, `create table a as select i, repeat('x', 100) as v from generate_series(1, 20000) i; create table b (like a)`)
	for _, level := range []int{0, 1, 9, 22} {
		var packed bytes.Buffer
		from := bulk.From{Table: pgx.Identifier{"a"}, Format: bulk.CSV{}, Compression: zstd.Codec{Level: level}}
		res, err := bulk.CopyTo(t.Context(), db, from, &packed)
		if err != nil || int64(packed.Len()) > res.Bytes/10 {
			t.Fatalf("level %d: %d bytes of %+v, %v", level, packed.Len(), res, err)
		}
		into := bulk.Into{Table: pgx.Identifier{"b"}, Compression: zstd.Codec{}}
		back, err := bulk.CopyFrom(t.Context(), db, into, bulk.FromReader(&packed, bulk.CSV{}))
		if err != nil || back != res {
			t.Errorf("level %d: %+v, %v", level, back, err)
		}
	}
	if n, err := db.QueryCount(t.Context(), `select count(*) from (table b except table a) x`); err != nil || n != 0 {
		t.Errorf("%d rows differ, %v", n, err)
	}
}

func TestBrokenArchivesAndLevels(t *testing.T) {
	db := open(t, `create table b (i int)`)
	var packed bytes.Buffer
	w, err := zstd.Codec{}.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, strings.Repeat("1\n", 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"torn": packed.Bytes()[:packed.Len()-5], "plain": []byte("plain text")} {
		into := bulk.Into{Table: pgx.Identifier{"b"}, Compression: zstd.Codec{}}
		if _, err := bulk.CopyFrom(t.Context(), db, into, bulk.FromReader(bytes.NewReader(data), bulk.Text{})); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if n, err := db.QueryCount(t.Context(), `select count(*) from b`); err != nil || n != 0 {
		t.Errorf("%d rows, %v", n, err)
	}
	var fault *bulk.OptionError
	_, err = bulk.CopyTo(t.Context(), db, bulk.From{Query: "select 1", Compression: zstd.Codec{Level: 23}}, io.Discard)
	if !errors.As(err, &fault) {
		t.Errorf("%v", err)
	}
	if _, err := (zstd.Codec{MaxWindow: 1}).NewReader(&packed); err == nil {
		t.Error("a window that holds nothing")
	}
}

// TestMemoryIsBounded: what asks for a larger window is refused.
func TestMemoryIsBounded(t *testing.T) {
	var packed bytes.Buffer
	w, err := zstd.Codec{Level: 22}.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * i >> 3)
	}
	for range 20 {
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := zstd.Codec{MaxWindow: 1 << 20}.NewReader(&packed)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err == nil {
		t.Error("a larger window was taken")
	}
}
