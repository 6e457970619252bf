package pgx

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

func BenchmarkBatchOf10(b *testing.B) {
	run := func(b *testing.B, send func(context.Context, *pgx.Batch) pgx.BatchResults) {
		for b.Loop() {
			batch := &pgx.Batch{}
			for i := range 10 {
				batch.Queue("select $1::int", i)
			}
			results := send(b.Context(), batch)
			for range 10 {
				if _, err := results.Exec(); err != nil {
					b.Fatal(err)
				}
			}
			if err := results.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	sideBySide(b, "", func(b *testing.B, pool *pgxpool.Pool) { run(b, pool.SendBatch) },
		func(b *testing.B, p *Pool) { run(b, p.SendBatch) })
}

func BenchmarkBatchOf10QueryRow(b *testing.B) {
	run := func(b *testing.B, send func(context.Context, *pgx.Batch) pgx.BatchResults) {
		var n int
		for b.Loop() {
			batch := &pgx.Batch{}
			for i := range 10 {
				batch.Queue("select $1::int", i)
			}
			results := send(b.Context(), batch)
			for range 10 {
				if err := results.QueryRow().Scan(&n); err != nil {
					b.Fatal(err)
				}
			}
			if err := results.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	sideBySide(b, "", func(b *testing.B, pool *pgxpool.Pool) { run(b, pool.SendBatch) },
		func(b *testing.B, p *Pool) { run(b, p.SendBatch) })
}
