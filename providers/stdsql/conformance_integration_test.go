package stdsql_test

import (
	"context"
	"database/sql"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/providertest"
	"github.com/pgkeel/pgkeel/providers/stdsql"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Target{
		Provider: stdsql.Provider{Driver: "pgx"}, DSN: pgtest.NewDB, Standby: replicated(t),
	})
}

// replicated is a cluster with a standby, for databases on it.
func replicated(t *testing.T) func(t testing.TB) (primary, standby string) {
	c := pgtest.New(t, pgtest.Options{Standbys: 1})
	return func(t testing.TB) (primary, standby string) {
		primary = c.NewDB(t)
		u, err := url.Parse(primary)
		if err != nil {
			t.Fatal(err)
		}
		return primary, c.Standbys()[0].DSN(strings.TrimPrefix(u.Path, "/"))
	}
}

func TestConformanceOverAnOpenDB(t *testing.T) {
	over := &overOpenDB{}
	t.Cleanup(over.close)
	providertest.Run(t, providertest.Target{Provider: over, DSN: pgtest.NewDB})
}

// overOpenDB opens a *sql.DB as an application would, and a pool over it.
type overOpenDB struct {
	mu  sync.Mutex
	all []*sql.DB
}

func (o *overOpenDB) Open(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
	db, err := sql.Open("pgx", cfg.DSN)
	if err != nil {
		return nil, err
	}
	db.SetMaxIdleConns(10)
	o.mu.Lock()
	o.all = append(o.all, db)
	o.mu.Unlock()
	cfg.DSN = ""
	return stdsql.Provider{DB: db}.Open(ctx, cfg)
}

func (o *overOpenDB) close() {
	for _, db := range o.all {
		_ = db.Close()
	}
}
