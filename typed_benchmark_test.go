package pgkeel_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
)

// BenchmarkTyped reads rows with pgkeel's functions and with pgx's own, for the
// allocations beside each other.
func BenchmarkTyped(b *testing.B) {
	type user struct {
		ID   int64
		Name string
	}
	const (
		number = "select 1::int8"
		few    = "select 1::int8 as id, 'x' as name"
		many   = "select n::int8 as id, 'x' as name from generate_series(1, 100) n"
	)
	db := openDB(b)
	for _, bm := range []struct {
		name string
		read func(ctx context.Context) error
	}{
		{"number/pgkeel", func(ctx context.Context) error { return second(pgkeel.One[int64](ctx, db, number)) }},
		{"number/pgx", func(ctx context.Context) error {
			rows, _ := db.Query(ctx, number) // its error is the rows' own
			return second(pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64]))
		}},
		{"struct/pgkeel", func(ctx context.Context) error { return second(pgkeel.One[user](ctx, db, few)) }},
		{"struct/pgx", func(ctx context.Context) error {
			rows, _ := db.Query(ctx, few)
			return second(pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[user]))
		}},
		{"structs/pgkeel", func(ctx context.Context) error { return second(pgkeel.All[user](ctx, db, many)) }},
		{"structs/pgx", func(ctx context.Context) error {
			rows, _ := db.Query(ctx, many)
			return second(pgx.CollectRows(rows, pgx.RowToStructByName[user]))
		}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := bm.read(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }
