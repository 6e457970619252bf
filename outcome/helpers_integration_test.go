package outcome

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	pgxprovider "github.com/pgkeel/pgkeel/providers/pgx"
)

// patience is how long a condition may take on a slow machine.
const patience = 20 * time.Second

// openPool opens a pool, which is closed when the test is over.
func openPool(t testing.TB, dsn string) *pgxprovider.Pool {
	t.Helper()
	p, err := pgxprovider.Open(t.Context(), providers.Config{DSN: dsn})
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

// newMarkers returns the markers of a pool on a database of its own.
func newMarkers(t testing.TB) (*Markers, *pgxprovider.Pool) {
	t.Helper()
	pool := openPool(t, pgtest.NewDB(t))
	return markersOf(t, pool, nil), pool
}

func markersOf(t testing.TB, pool providers.Pool, logger *slog.Logger) *Markers {
	t.Helper()
	m := New(pool, logger)
	t.Cleanup(func() {
		m.Stop()
		m.Wait()
	})
	return m
}

// plain is a pool that begins a transaction by itself only.
type plain struct{ providers.Pool }

// withTable makes the table of markers.
func withTable(t testing.TB) (*Markers, *pgxprovider.Pool) {
	t.Helper()
	m, pool := newMarkers(t)
	mustExec(t, pool, DDL)
	return m, pool
}

func mustBegin(t testing.TB, k *Marker) providers.Tx {
	t.Helper()
	tx, err := k.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) }) // after an end it does nothing
	return tx
}

func mustCommit(t testing.TB, tx providers.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mustExec(t testing.TB, q providers.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func value[T any](t testing.TB, q providers.Querier, sql string, args ...any) (v T) {
	t.Helper()
	if err := q.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// mustSettle fails unless the verdict is the one that is wanted.
func mustSettle(t testing.TB, k *Marker, want Verdict) {
	t.Helper()
	got, err := k.Settle(t.Context(), time.Now().Add(patience))
	if err != nil || got != want {
		t.Fatalf("%s instead of %s: %v", got, want, err)
	}
}

func pgError(t testing.TB, err error) *providers.PGError {
	t.Helper()
	var pg *providers.PGError
	if !errors.As(err, &pg) {
		t.Fatalf("no PGError: %v", err)
	}
	return pg
}

// eventually waits for a condition.
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

// journal collects what is logged.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}
