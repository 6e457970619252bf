package stdsql

import (
	"context"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// patience is how long a condition may take on a slow machine.
const patience = 20 * time.Second

// openPool opens a pool over pgx's driver, on a database of its own unless cfg
// has a DSN, which must be well at the test's end.
func openPool(t testing.TB, cfg providers.Config) *Pool {
	t.Helper()
	if cfg.DSN == "" {
		cfg.DSN = pgtest.NewDB(t)
	}
	if cfg.Pool.MaxSize == 0 {
		cfg.Pool.MaxSize = 1
	}
	p, err := openDriver(t.Context(), "pgx", cfg)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, p)
	return p
}

func closeAtEnd(t testing.TB, p *Pool) {
	t.Helper()
	t.Cleanup(func() {
		eventually(t, "every connection is back", func() bool { return p.Stats().InUse == 0 })
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("it never came true: %s", what)
		}
	}
}

func value[T any](t testing.TB, q providers.Querier, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := q.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func mustExec(t testing.TB, q providers.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func acquire(t testing.TB, p *Pool) *Conn {
	t.Helper()
	c, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Conn)
}

func wantNotSent(t testing.TB, what string, err error) {
	t.Helper()
	if err == nil || providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("%s: %s: %v", what, providers.OutcomeOf(err), err)
	}
}
