package pgx

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

func BenchmarkRunBatchOf10(b *testing.B) {
	queue := func() *pgx.Batch {
		batch := &pgx.Batch{}
		for i := range 10 {
			batch.Queue("select $1::int", i)
		}
		return batch
	}
	sideBySide(b, "", func(b *testing.B, pool *pgxpool.Pool) {
		for b.Loop() {
			if err := pool.SendBatch(b.Context(), queue()).Close(); err != nil {
				b.Fatal(err)
			}
		}
	}, func(b *testing.B, p *Pool) {
		for b.Loop() {
			if err := p.RunBatch(b.Context(), callOf(0, queue().QueuedQueries...)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
