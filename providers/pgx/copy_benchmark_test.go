package pgx

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

func BenchmarkCopy1000Rows(b *testing.B) {
	type load func(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error)
	run := func(b *testing.B, copyFrom load) {
		row := []any{1, "some text"}
		for b.Loop() {
			src := pgx.CopyFromSlice(1000, func(int) ([]any, error) { return row, nil })
			if n, err := copyFrom(b.Context(), pgx.Identifier{"t"}, []string{"n", "v"}, src); err != nil || n != 1000 {
				b.Fatal(n, err)
			}
		}
	}
	sideBySide(b, "create unlogged table t (n int, v text)",
		func(b *testing.B, pool *pgxpool.Pool) { run(b, pool.CopyFrom) },
		func(b *testing.B, p *Pool) { run(b, p.CopyFrom) })
}
