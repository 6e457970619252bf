package bulk

import (
	"io"
	"strings"
	"testing"
)

func BenchmarkCopyFrom(b *testing.B) {
	db := openDB(b, `create unlogged table t (n int, v text)`)
	into := Into{Table: table("t"), Columns: []string{"n", "v"}}
	type item struct {
		N int32
		V string
	}
	items := make([]item, 1000)
	data := strings.Repeat("1,some text\n", len(items))
	for name, src := range map[string]func() Source{
		"structs": func() Source { return FromSlice(items) },
		"csv":     func() Source { return FromReader(strings.NewReader(data), CSV{}) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := CopyFrom(b.Context(), db, into, src()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	record := [][]byte{[]byte("12345"), []byte("a text of some length"), nil, []byte(`with "quotes", and more`)}
	for _, format := range []Format{CSV{}, Text{}, Binary{}} {
		b.Run(format.name(), func(b *testing.B) {
			e, err := NewEncoder(io.Discard, format)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := e.Encode(record...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSplit(b *testing.B) {
	data := strings.Repeat("12345,a text of some length,\"quoted, and more\",1.5\n", 100_000)
	for name, c := range map[string]struct {
		data   string
		format Format
	}{"quotes": {data, CSV{}}, "plain": {strings.ReplaceAll(data, `"`, ""), CSV{}}, "text": {data, Text{}}} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(c.data)))
			for b.Loop() {
				s := newSplitter(strings.NewReader(c.data), c.format, DefaultChunkBytes)
				var buffer []byte
				for {
					chunk, err := s.next(buffer)
					if err != nil {
						break
					}
					buffer = chunk.data
				}
			}
		})
	}
}
