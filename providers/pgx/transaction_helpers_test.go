package pgx

import (
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

func begin(t testing.TB, p *Pool, opts providers.TxOptions) *Tx {
	t.Helper()
	tx, err := p.Begin(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return tx.(*Tx)
}

func savepoint(t testing.TB, tx *Tx, name string) *Tx {
	t.Helper()
	sp, err := tx.Savepoint(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return sp.(*Tx)
}

func mustCommit(t testing.TB, tx providers.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mustRollback(t testing.TB, tx providers.Tx) {
	t.Helper()
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}
