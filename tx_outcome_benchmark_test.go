package pgkeel_test

import (
	"context"
	"testing"

	"github.com/pgkeel/pgkeel"
)

// BenchmarkRunTx runs a transaction of one insert, and the same exactly once, for
// what the marker costs.
func BenchmarkRunTx(b *testing.B) {
	db := openTable(b)
	for name, opts := range map[string]pgkeel.TxOptions{"plain": {}, "exactly once": {ExactlyOnce: true}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				err := db.RunTx(b.Context(), func(ctx context.Context, tx pgkeel.Tx) error { return insert(ctx, tx, 1) }, opts)
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
