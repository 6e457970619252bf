package notify

import (
	"context"
	"testing"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	pgxprovider "github.com/pgkeel/pgkeel/providers/pgx"
)

// openPool opens a pool on a database of its own, unless cfg has a DSN.
func openPool(t testing.TB, cfg providers.Config) *pgxprovider.Pool {
	t.Helper()
	if cfg.DSN == "" {
		cfg.DSN = pgtest.NewDB(t)
	}
	if cfg.Logger == nil {
		cfg.Logger = quiet()
	}
	p, err := pgxprovider.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}

// listenOn starts a listener, which is closed when the test is over.
func listenOn(t testing.TB, p providers.Listener, o Options) *Listener {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet()
	}
	l, err := New(p, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeListener(t, l) })
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

func mustExec(t testing.TB, q providers.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func mustNotify(t testing.TB, q providers.Querier, channel, payload string) {
	t.Helper()
	if err := Notify(t.Context(), q, channel, payload); err != nil {
		t.Fatal(err)
	}
}

func begin(t testing.TB, p providers.Pool) providers.Tx {
	t.Helper()
	tx, err := p.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) }) // after an end it does nothing
	return tx
}

func commit(t testing.TB, tx providers.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}
