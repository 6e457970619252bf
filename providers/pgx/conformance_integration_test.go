package pgx_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/pgx"
	"github.com/pgkeel/pgkeel/providers/providertest"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Target{
		Provider: pgx.Provider{},
		DSN:      pgtest.NewDB,
		Standby:  replicated(t),
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

// Behind a real PgBouncer that hands each transaction another session.
func TestConformanceBehindPgBouncer(t *testing.T) {
	bouncer := pgtest.Shared(t).Primary().NewPgBouncer(t, nil)
	providertest.Run(t, providertest.Target{
		Provider: pgx.Provider{},
		DSN: func(t testing.TB) string {
			direct, err := url.Parse(pgtest.NewDB(t))
			if err != nil {
				t.Fatal(err)
			}
			return bouncer.DSN(strings.TrimPrefix(direct.Path, "/"))
		},
		Config: providers.Config{Profile: providers.ProfilePgBouncer},
	})
}
