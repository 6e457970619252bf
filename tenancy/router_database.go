package tenancy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// database is one database: its pool, the tenants that have it, and its part of
// the budget.
type database struct {
	account // guarded by the budget's lock

	router *Router
	dsn    string
	// ready is closed when pool or err is there.
	ready chan struct{}
	pool  providers.Pool
	err   error

	members sync.Map // *member by tenant
	joining sync.Mutex
	joined  bool
}

// database returns that of a DSN, pinned. It opens it, if it is not open.
func (r *Router) database(dsn string) (*database, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, providers.ErrPoolClosed
	}
	if db := r.databases[dsn]; db != nil && r.budget.pin(db) {
		return db, nil
	}
	db := &database{router: r, dsn: dsn, ready: make(chan struct{})}
	db.server = r.server(dsn)
	r.budget.add(db)
	r.budget.pin(db) // until it is open
	r.databases[dsn] = db
	r.background.Go(func() { r.openPool(db) })
	for len(r.databases) > r.most {
		idlest := r.budget.retireIdlest()
		if idlest == nil {
			break // all are in use
		}
		r.shutLocked(idlest)
	}
	return db, nil
}

// server returns that of a DSN, which checkDSN has parsed before.
func (r *Router) server(dsn string) *server {
	address := dsn
	if parsed, err := pgx.ParseConfig(dsn); err == nil {
		address = net.JoinHostPort(parsed.Host, strconv.Itoa(int(parsed.Port)))
	}
	s := r.servers[address]
	if s == nil {
		s = &server{}
		r.servers[address] = s
	}
	return s
}

// openPool opens the database's pool, which connects to nothing.
func (r *Router) openPool(db *database) {
	defer r.budget.unpin(db)
	defer close(db.ready)
	cfg := r.cfg
	cfg.DSN, cfg.Scope = db.dsn, db.scope
	ctx, cancel := context.WithTimeout(r.life, r.first)
	defer cancel()
	pool, err := r.open(ctx, cfg)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		db.pool = pool
		r.opened++
		return
	}
	text := "pgkeel: tenancy: the pool of the tenant's database cannot be opened: " + providers.Redact(err.Error(), db.dsn)
	db.err = &notSentError{&redactedError{text + "; nothing was sent", err}}
	if r.life.Err() != nil {
		db.err = providers.ErrPoolClosed
	}
	if r.databases[db.dsn] == db {
		delete(r.databases, db.dsn) // the next one tries again
	}
	r.budget.drop(db)
}

// wait waits until the pool is open.
func (db *database) wait(ctx context.Context) error {
	select {
	case <-db.ready:
		return db.err
	default:
	}
	select {
	case <-db.ready:
		return db.err
	case <-ctx.Done():
		return &notSentError{fmt.Errorf("pgkeel: tenancy: the wait for the database's pool ended: %w; nothing was sent", context.Cause(ctx))}
	}
}

// member returns the tenant's, who becomes one at the first time, and stays it:
// what a tenant that moved away has under way goes on.
func (db *database) member(tenant string) *member {
	if m, ok := db.members.Load(tenant); ok {
		return m.(*member)
	}
	db.joining.Lock()
	defer db.joining.Unlock()
	if m, ok := db.members.Load(tenant); ok {
		return m.(*member)
	}
	m := &member{budget: db.router.budget, db: db, tenant: tenant}
	if db.joined {
		// A transaction stays in the scope that it began in, and scopes are told
		// apart by their settings. The usual database of one tenant pays nothing.
		m.scope.Settings = []providers.Setting{{Name: tenantSetting, Value: tenant}}
	}
	m.limit(db.router.limits)
	db.joined = true
	db.members.Store(tenant, m)
	return m
}

// anyMember returns one of its members, or nil if nobody ever came.
func (db *database) anyMember() (found *member) {
	db.members.Range(func(_, m any) bool {
		found = m.(*member)
		return false
	})
	return found
}

// ownKey marks the context of what the router does itself.
type ownKey struct{}

func own(ctx context.Context) context.Context { return context.WithValue(ctx, ownKey{}, true) }

// scope is the pool's [providers.ScopeFunc].
func (db *database) scope(ctx context.Context) (providers.Scope, error) {
	if ctx.Value(ownKey{}) != nil {
		return providers.Scope{}, nil
	}
	owner, err := owner(ctx)
	if err != nil {
		return providers.Scope{}, err
	}
	m, ok := db.members.Load(owner)
	if !ok {
		return providers.Scope{}, errOtherTenant
	}
	if owner != adminTenant {
		db.router.limits.began(owner)
	}
	return m.(*member).scope, nil
}

// connect makes the first connection of a database.
func (r *Router) connect(db *database) error {
	ctx, cancel := context.WithTimeout(own(r.life), r.first)
	defer cancel()
	err := db.pool.Ping(ctx)
	switch {
	case err == nil:
		return nil
	case r.life.Err() != nil:
		return providers.ErrPoolClosed
	case providers.OutcomeOf(err) != providers.OutcomeNotSent:
		return &notSentError{err} // whatever the ping did, those who wait sent nothing
	default:
		return err
	}
}

// abandon closes a database that no tenant has any more.
func (r *Router) abandon(dsn string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	db := r.databases[dsn]
	if db == nil || r.closed || dsn == r.admin {
		return
	}
	r.shutLocked(db)
}

// shutLocked closes a database's pool in the background, when its work has ended.
func (r *Router) shutLocked(db *database) {
	delete(r.databases, db.dsn)
	r.closing[db] = struct{}{}
	free := r.budget.retire(db)
	r.background.Go(func() { r.shutPool(db, free) })
}

func (r *Router) shutPool(db *database, free <-chan struct{}) {
	ctx, cancel := context.WithTimeoutCause(r.forced, r.drain, errors.New("DrainTimeout"))
	defer cancel()
	<-db.ready
	if db.err == nil {
		select {
		case <-free:
		case <-ctx.Done():
		}
		if err := db.pool.Close(ctx); err != nil {
			r.cfg.Logger.Warn("pgkeel: the pool of a database that no tenant has any more was closed by force", "error", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.closing, db)
	if db.err == nil {
		r.shut++
		r.gone.Add(db.pool.Stats())
	}
	r.budget.drop(db)
}
