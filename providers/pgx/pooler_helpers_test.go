package pgx_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	provider "github.com/pgkeel/pgkeel/providers/pgx"
)

// pooledCluster is what the poolers of these tests stand in front of: not the
// shared cluster, which may be an outside server. pgtest.Main closes it.
var pooledCluster = sync.OnceValues(func() (*pgtest.Cluster, error) {
	return pgtest.Start(context.Background(), pgtest.Options{})
})

// A pooler is a PgBouncer in transaction mode with few sessions on its server,
// and a database of the test's own behind it.
type pooler struct {
	*pgtest.PgBouncer

	direct  string // the database without the pooler
	through string // and by it
}

func newPooler(t *testing.T, sessions int) *pooler {
	t.Helper()
	c, err := pooledCluster()
	if err != nil {
		t.Fatal(err)
	}
	p := &pooler{direct: c.NewDB(t)}
	cfg, err := pgx.ParseConfig(p.direct)
	if err != nil {
		t.Fatal(err)
	}
	p.PgBouncer = c.Primary().NewPgBouncer(t, map[string]string{"default_pool_size": fmt.Sprint(sessions)})
	p.through = p.DSN(cfg.Database)
	return p
}

// open opens a pool by the pooler.
func (p *pooler) open(t *testing.T, cfg providers.Config) *provider.Pool {
	t.Helper()
	cfg.DSN = p.through
	return openProfile(t, cfg)
}

func openProfile(t *testing.T, cfg providers.Config) *provider.Pool {
	t.Helper()
	pool, err := provider.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := pool.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return pool
}

// behind is a configuration for PgBouncer.
func behind(size int32) providers.Config {
	return providers.Config{Profile: providers.ProfilePgBouncer, Pool: providers.PoolStrategy{MaxSize: size}}
}

func (p *pooler) admin(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.direct)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func scalar[T any](t *testing.T, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, sql string, args ...any,
) (v T) {
	t.Helper()
	if err := q.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func run(t *testing.T, q providers.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// until waits for a condition of the server, without a clock of its own.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// whole reports a pool from which something was not given back.
func whole(t *testing.T, pool *provider.Pool) {
	t.Helper()
	until(t, "every connection to be given back", func() bool { return pool.Stats().InUse == 0 })
	for range 2 * pool.Stats().MaxSize {
		if got := scalar[int](t, pool, `select $1::int`, 7); got != 7 {
			t.Fatalf("got %d", got)
		}
	}
}

// reconnect has the pooler exchange its sessions on the server.
func (p *pooler) reconnect(t *testing.T) {
	t.Helper()
	cfg, err := pgx.ParseConfig(p.DSN("pgbouncer"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	console, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = console.Exec(t.Context(), `reconnect`)
	if err := errors.Join(err, console.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// codeOf returns the SQLSTATE, empty without an error.
func codeOf(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var pg *providers.PGError
	if !errors.As(err, &pg) {
		t.Fatalf("an error without a code: %v", err)
	}
	return pg.Code
}
