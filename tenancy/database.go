package tenancy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// The defaults of [Database].
const (
	DefaultMaxConnections   = 64
	DefaultMaxPools         = 256
	DefaultPoolSize         = 8
	DefaultPoolIdleTime     = time.Minute
	DefaultDirectoryTTL     = time.Minute
	DefaultDirectoryTimeout = 5 * time.Second
	DefaultDrainTimeout     = time.Minute
)

// DatabaseOption is an option of [Database].
type DatabaseOption interface{ applyDatabase(m *databaseMode) }

type databaseOption func(*databaseMode)

func (o databaseOption) applyDatabase(m *databaseMode) { o(m) }

// Database keeps tenants apart by a database for each. The directory says where
// it is: the DSN given to Open is to be empty. Each database has a pool, opened
// when it is first used; a tenant whose DSN changes is followed, and the pool
// that nobody needs any more is closed when its work has ended.
//
// All pools together have at most [MaxConnections] connections, and each at most
// Pool.MaxSize, whose default here is DefaultPoolSize. When they are all taken,
// idle connections to one database make room for those to another, and who waits
// is served by tenant in turn, so a noisy one starves nobody. A database that
// fails harms its own tenants only. Set a deadline on statements, though: one
// that hangs keeps its connection. Servers need some connections more than the
// limit, as they take a moment to end a session that was closed.
//
// Tenants may have the same DSN, and then share a pool. Their statements see the
// same tables, so nothing but their transactions is kept apart. All but the first
// of them have the setting pgkeel.tenant made in the flush of each statement,
// with what that means for statements that have a scope.
//
// What is done under [Bypass] belongs to no tenant, and there is no database for
// it, unless [AdminDSN] names one. Pool.MinSize, Pool.InitialSize and Pipelining
// are refused: they keep connections for tenants without work. LISTEN has its
// connection at the database of the context's tenant, see [Router.Listen].
//
// The pool that Open returns is a [*Router].
func Database(directory Directory, options ...DatabaseOption) Mode {
	m := &databaseMode{
		directory: directory, maxConnections: DefaultMaxConnections, maxPools: DefaultMaxPools,
		ttl: DefaultDirectoryTTL, lookupTimeout: DefaultDirectoryTimeout, drainTimeout: DefaultDrainTimeout,
	}
	f, isFunc := directory.(DirectoryFunc)
	m.fault(directory == nil || isFunc && f == nil, "Directory", "is nil; give one, such as a DirectoryFunc")
	for _, o := range options {
		if o == nil {
			m.fault(true, "Database", "one of the options is nil; leave it out")
			continue
		}
		o.applyDatabase(m)
	}
	return m
}

type databaseMode struct {
	limits

	directory      Directory
	maxConnections int
	maxPools       int
	ttl            time.Duration
	lookupTimeout  time.Duration
	drainTimeout   time.Duration
	adminDSN       string
}

var _ Mode = (*databaseMode)(nil)

// MaxConnections is the most connections to all databases together. Default: 64.
func MaxConnections(n int) DatabaseOption {
	return databaseOption(func(m *databaseMode) {
		m.fault(n < 1 || n > math.MaxInt32, "MaxConnections", "%d is not between 1 and %d; leave it out for %d", n, math.MaxInt32, DefaultMaxConnections)
		m.maxConnections = n
	})
}

// MaxPools is how many databases have an open pool: beyond that, the pool that was
// unused for the longest time is closed when another is opened. Those in use stay,
// so there can be more. A pool without connections costs some memory and
// goroutines. Default: 256.
func MaxPools(n int) DatabaseOption {
	return databaseOption(func(m *databaseMode) {
		m.fault(n < 1, "MaxPools", "%d must be at least 1; leave it out for %d", n, DefaultMaxPools)
		m.maxPools = n
	})
}

// DirectoryTTL is for how long an answer of the directory counts, which is also
// how long a process may take to notice that a tenant moved or is gone. From half
// of it on an answer in use is fetched again. Default: a minute.
func DirectoryTTL(d time.Duration) DatabaseOption {
	return databaseOption(func(m *databaseMode) {
		m.fault(d <= 0, "DirectoryTTL", "%s must be more than 0; leave it out for %s", d, DefaultDirectoryTTL)
		m.ttl = d
	})
}

// DirectoryTimeout bounds a lookup in the directory. A tenant that is known goes
// on with what is known, another one gets an error. Default: 5 seconds.
func DirectoryTimeout(d time.Duration) DatabaseOption {
	return databaseOption(func(m *databaseMode) {
		m.fault(d <= 0, "DirectoryTimeout", "%s must be more than 0; leave it out for %s", d, DefaultDirectoryTimeout)
		m.lookupTimeout = d
	})
}

// DrainTimeout is how long what is under way on a database may take once no
// tenant has it any more. What then still holds a connection loses it. Default: a
// minute.
func DrainTimeout(d time.Duration) DatabaseOption {
	return databaseOption(func(m *databaseMode) {
		m.fault(d <= 0, "DrainTimeout", "%s must be more than 0; leave it out for %s", d, DefaultDrainTimeout)
		m.drainTimeout = d
	})
}

// AdminDSN is the database of what is done under [Bypass]. Default: none, and
// that is refused.
func AdminDSN(dsn string) DatabaseOption {
	return databaseOption(func(m *databaseMode) {
		if err := checkDSN(dsn); err != nil {
			m.fault(true, "AdminDSN", "%v", err)
		}
		m.adminDSN = dsn
	})
}

// Open makes a [*Router]. It connects to nothing.
func (m *databaseMode) Open(_ context.Context, cfg providers.Config, open Opener) (providers.Pool, error) {
	if err := errors.Join(errors.Join(m.faults...), m.check(cfg)); err != nil {
		return nil, err
	}
	size := cmp.Or(int(cfg.Pool.MaxSize), min(DefaultPoolSize, m.maxConnections))
	cfg.Pool.MaxSize = int32(size) //nolint:gosec // both are in range
	cfg.Pool.MaxIdleTime = cmp.Or(cfg.Pool.MaxIdleTime, DefaultPoolIdleTime)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	return newRouter(m, cfg, open), nil
}

// check finds what in the configuration does not go with many databases.
func (m *databaseMode) check(cfg providers.Config) error {
	limit := m.maxConnections
	var faults []error
	for _, f := range []struct {
		bad            bool
		field, problem string
	}{
		{cfg.DSN != "", "DSN", "has no effect with tenancy.Database, whose directory has the DSNs; leave it empty, or see tenancy.AdminDSN"},
		{cfg.Scope != nil, "Scope", "the configuration has a Scope already; tenancy makes its own"},
		{cfg.Pipelining != nil, "Pipelining", "needs connections of its own for each database; leave it out with tenancy.Database"},
		{cfg.Pool.MinSize > 0, "Pool.MinSize", "would keep connections for tenants without work; leave it 0 with tenancy.Database"},
		{cfg.Pool.InitialSize > 0, "Pool.InitialSize", "would make connections that nobody asked for; leave it 0 with tenancy.Database"},
		{
			int(cfg.Pool.MaxSize) > limit, "Pool.MaxSize",
			fmt.Sprintf("%d is the size of each database's pool, and more than the %d of tenancy.MaxConnections", cfg.Pool.MaxSize, limit),
		},
	} {
		if f.bad {
			faults = append(faults, &providers.ConfigError{Field: f.field, Problem: f.problem})
		}
	}
	return errors.Join(faults...)
}
