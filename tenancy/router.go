package tenancy

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// Router is the pool of [Database]: it hands each operation to the pool of the
// tenant's database.
type Router struct {
	cfg    providers.Config
	open   Opener
	admin  string
	most   int // pools
	drain  time.Duration
	first  time.Duration // what a first connection may take
	limits limits        // of each tenant
	lookup *directoryCache
	budget *budget

	// life ends when Close begins, forced when its context ends: then no borrower
	// is waited for any more.
	life       context.Context //nolint:containedctx // the router's own life
	endLife    context.CancelFunc
	forced     context.Context //nolint:containedctx // the same
	force      context.CancelFunc
	background sync.WaitGroup
	closeOnce  sync.Once
	closeErr   error

	mu        sync.Mutex
	closed    bool
	databases map[string]*database
	servers   map[string]*server // by address
	closing   map[*database]struct{}
	gone      providers.PoolStats // of pools that are closed
	opened    int64
	shut      int64
}

var (
	_ providers.Pool        = (*Router)(nil)
	_ providers.Batcher     = (*Router)(nil)
	_ providers.BatchRunner = (*Router)(nil)
	_ providers.Copier      = (*Router)(nil)
	_ providers.RawCopier   = (*Router)(nil)
	_ providers.Starter     = (*Router)(nil)
)

// adminTenant is the member that Bypass is. No tenant has an empty id.
const adminTenant = ""

// tenantSetting tells tenants of the same database apart.
const tenantSetting = "pgkeel.tenant"

// errMoved means that the tenant's database became another one while the caller
// waited for a connection.
var errMoved = refusef("the tenant moved to another database in this moment; try again")

var (
	errNoAdmin = refusef("Bypass has no database to work on, as each belongs to a tenant; name one with AdminDSN, " +
		"or put the id of a tenant into the context instead")
	errOtherTenant = refusef("the context belongs to a tenant of another database than the transaction, connection or pool; " +
		"begin another one for it")
)

func newRouter(m *databaseMode, cfg providers.Config, open Opener) *Router {
	connect := providers.DefaultConnectTimeout
	if cfg.Profile == providers.ProfileServerless {
		connect = 30 * time.Second // it may have to start
	}
	r := &Router{
		cfg: cfg, open: open, admin: m.adminDSN, limits: m.limits, most: m.maxPools, drain: m.drainTimeout,
		first:     cmp.Or(cfg.ConnectTimeout, connect),
		databases: map[string]*database{}, closing: map[*database]struct{}{}, servers: map[string]*server{},
	}
	r.life, r.endLife = context.WithCancel(context.Background())
	r.forced, r.force = context.WithCancel(context.Background())
	r.lookup = &directoryCache{
		directory: m.directory, ttl: m.ttl, timeout: m.lookupTimeout, life: r.life, background: &r.background,
		unused: r.abandon, entries: map[string]*directoryEntry{}, uses: map[string]int{},
	}
	r.budget = newBudget(m.maxConnections, int(cfg.Pool.MaxSize), &r.background, r.connect)
	return r
}

// owner is whose work is done with a context: a tenant's, or nobody's.
func owner(ctx context.Context) (string, error) {
	free, err := bypassed(ctx)
	if err != nil {
		return "", err
	}
	if free {
		return adminTenant, nil
	}
	return tenantOf(ctx)
}

// dsnOf is the DSN of the owner's database.
func (r *Router) dsnOf(ctx context.Context, owner string) (string, error) {
	if owner != adminTenant {
		return r.lookup.find(ctx, owner)
	}
	if r.admin == "" {
		return "", errNoAdmin
	}
	return r.admin, nil
}

// isAt reports whether the member's database is still the one to use.
func (r *Router) isAt(m *member) bool {
	return m.tenant == adminTenant || r.lookup.current(m.tenant) == m.db.dsn
}

// route finds the database of the context's tenant, pinned, and the tenant as its
// member.
func (r *Router) route(ctx context.Context) (*member, error) {
	owner, err := owner(ctx)
	if err != nil {
		return nil, err
	}
	dsn, err := r.dsnOf(ctx, owner)
	if err != nil {
		return nil, err
	}
	db, err := r.database(dsn)
	if err != nil {
		return nil, err
	}
	if err := db.wait(ctx); err != nil {
		r.budget.unpin(db)
		return nil, err
	}
	return db.member(owner), nil
}

// routed runs an operation on the pool of the context's tenant.
func routed[T any](ctx context.Context, r *Router, do func(pool providers.Pool) (T, error)) (T, error) {
	for {
		m, err := r.route(ctx)
		if err != nil {
			var none T
			return none, err
		}
		result, err := do(m.db.pool)
		if errors.Is(err, providers.ErrUnreachable) {
			r.budget.doubt(m.db)
		}
		r.budget.unpin(m.db)
		if !errors.Is(err, errMoved) {
			return result, err
		}
	}
}

// Close stops intake, waits for the work under way until ctx ends, and then ends
// it by force. The error joins those of the pools.
func (r *Router) Close(ctx context.Context) error {
	r.closeOnce.Do(func() {
		defer r.force()
		defer context.AfterFunc(ctx, r.force)()
		r.closeErr = r.close(ctx)
	})
	return r.closeErr
}

func (r *Router) close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.lookup.mu.Lock() // so that no lookup begins any more
	r.endLife()
	r.lookup.mu.Unlock()
	r.budget.close()
	var mu sync.Mutex
	var errs []error
	var pools sync.WaitGroup
	for _, db := range r.openDatabases() {
		pools.Go(func() {
			<-db.ready
			if db.err != nil {
				return
			}
			err := db.pool.Close(ctx)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	pools.Wait()
	r.background.Wait()
	return errors.Join(errs...)
}

// openDatabases are those that are not being closed.
func (r *Router) openDatabases() []*database {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*database, 0, len(r.databases))
	for _, db := range r.databases {
		all = append(all, db)
	}
	return all
}
