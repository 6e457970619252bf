package tenancy

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	noisyCallers  = 40
	quietTenants  = 5
	noisyPoolSize = 4
)

// noisyCase is how a noisy tenant shares connections with quiet ones.
type noisyCase struct {
	pool providers.Pool
	dsn  string // of the noisy tenant's database, as a superuser
	// taken is how many connections the noisy one has, yields how many of its
	// statements have to end before all the quiet ones have had their turn.
	taken, yields int
	// patience is what a connection serves its own database for.
	patience time.Duration
}

// A tenant floods the pool with statements that do not end, far more than there
// are connections. The others get through all the same, each before what waits of
// the noisy one. Its statements wait for locks, which the test holds: so it is
// counted how many had to end, and no time is measured.
func TestANoisyTenantOnAServer(t *testing.T) {
	sized := providers.Config{Pool: providers.PoolStrategy{MaxSize: noisyPoolSize}, AcquireTimeout: 2 * testPatience}
	for name, setup := range map[string]func(t *testing.T) noisyCase{
		"a database for all": func(t *testing.T) noisyCase {
			dsn := newTenantDBs(t, 1)[0]
			d := newTowns(map[string]string{"noisy": dsn})
			for i := range quietTenants {
				d.set(fmt.Sprint("quiet ", i), dsn)
			}
			return noisyCase{pool: openRouter(t, d, sized, MaxConnections(noisyPoolSize)), dsn: dsn, taken: noisyPoolSize, yields: 1}
		},
		"a database each": func(t *testing.T) noisyCase {
			dsns := newTenantDBs(t, 1+quietTenants)
			d := newTowns(map[string]string{"noisy": dsns[0]})
			for i := range quietTenants {
				d.set(fmt.Sprint("quiet ", i), dsns[1+i])
			}
			return noisyCase{
				pool: openRouter(t, d, sized, MaxConnections(noisyPoolSize)), dsn: dsns[0], taken: noisyPoolSize,
				yields: 2, patience: max(20*maxCost, starvedAfter), // the noisy one's may have the first, as it began to wait earlier
			}
		},
		"places, by database": func(t *testing.T) noisyCase {
			dsn := newTenantDBs(t, 1)[0]
			d := newTowns(map[string]string{"noisy": dsn})
			for i := range quietTenants {
				d.set(fmt.Sprint("quiet ", i), dsn)
			}
			return noisyCase{pool: openRouter(t, d, sized, MaxConnections(noisyPoolSize), TenantConcurrency(3)), dsn: dsn, taken: 3}
		},
		"places, by row-level security": func(t *testing.T) noisyCase {
			s, cfg := orders(t), sized
			cfg.DSN = s.appDSN
			return noisyCase{pool: mustOpen(t, RLS("app.tenant_id", TenantConcurrency(3)), cfg), dsn: s.dsn, taken: 3}
		},
	} {
		t.Run(name, func(t *testing.T) { setup(t).run(t) })
	}
}

func (c noisyCase) run(t *testing.T) {
	admin, err := pgx.Connect(t.Context(), c.dsn)
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer admin.Close(t.Context()) // which ends its locks
	value[int](t.Context(), t, admin, "select count(pg_advisory_lock(n)) from generate_series(1, $1::int) n", noisyCallers)
	for i := range noisyCallers {
		work.Go(func() {
			if _, err := c.pool.Exec(as(t.Context(), "noisy"), "select pg_advisory_xact_lock($1)", i+1); err != nil {
				t.Error(err)
			}
		})
	}
	blocked := func() int {
		return value[int](t.Context(), t, admin, "select count(*) from pg_locks where locktype = 'advisory' and not granted and "+
			"database = (select oid from pg_database where datname = current_database())")
	}
	atLast(t, "the noisy tenant has what it can have", func() bool { return blocked() == c.taken })
	var through atomic.Int64
	for i := range quietTenants {
		work.Go(func() {
			if _, err := c.pool.Exec(as(t.Context(), fmt.Sprint("quiet ", i)), "select 1"); err != nil {
				t.Error(err)
			}
			through.Add(1)
		})
	}
	if c.yields > 0 {
		atLast(t, "all the others wait", func() bool {
			s := c.pool.Stats()
			return s.Waiters == noisyCallers+quietTenants-int64(c.taken) && s.OldestWait > c.patience
		})
	}
	for yielded := 0; ; yielded++ {
		atLast(t, "a connection is used again", func() bool { return through.Load() == quietTenants || yielded < c.yields && blocked() == c.taken })
		if through.Load() == quietTenants {
			return
		}
		// One of those that run ends.
		value[bool](t.Context(), t, admin, "select pg_advisory_unlock(objid::int) from pg_locks where locktype = 'advisory' and not granted and "+
			"database = (select oid from pg_database where datname = current_database()) limit 1")
	}
}
