package tenancy

import (
	"github.com/pgkeel/pgkeel/providers"
)

// DatabaseStats are the statistics of a [Router] that a single pool does not
// have.
type DatabaseStats struct {
	// Pools is how many are open, Closing how many wait for their work to end.
	Pools, Closing int
	// Opened and Closed count pools.
	Opened, Closed int64
	// Permits is how many connections the pools may have open at the moment, of
	// at most MaxConnections.
	Permits, MaxConnections int
	// Moved counts the connections that one database gave up for another.
	Moved int64
	// Tenants is how many the directory's cache knows.
	Tenants int
	// Lookups counts the questions to the directory, LookupErrors those that
	// failed, and Stale those of them that were answered with what was known
	// before. TenantMoves counts the tenants whose database became another one.
	Lookups, LookupErrors, Stale, TenantMoves int64
}

// DatabaseStats returns a snapshot of the router's own statistics.
func (r *Router) DatabaseStats() DatabaseStats {
	s := DatabaseStats{MaxConnections: r.budget.limit}
	r.mu.Lock()
	s.Pools, s.Closing, s.Opened, s.Closed = len(r.databases), len(r.closing), r.opened, r.shut
	r.mu.Unlock()
	r.budget.mu.Lock()
	s.Permits, s.Moved = r.budget.taken, r.budget.moved
	r.budget.mu.Unlock()
	r.lookup.mu.Lock()
	defer r.lookup.mu.Unlock()
	of := r.lookup.stats
	s.Tenants = len(r.lookup.entries)
	s.Lookups, s.LookupErrors, s.Stale, s.TenantMoves = of.lookups, of.failures, of.stale, of.moves
	return s
}

// Stats returns the sums over all pools, closed ones included. MaxSize is
// MaxConnections, and the waits are those for a connection of any of them.
func (r *Router) Stats() providers.PoolStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.gone
	add := func(db *database) {
		select {
		case <-db.ready:
			if db.err == nil {
				s.Add(db.pool.Stats())
			}
		default: // it has none yet
		}
	}
	for _, db := range r.databases {
		add(db)
	}
	for db := range r.closing {
		add(db)
	}
	s.MaxSize = int32(r.budget.limit) //nolint:gosec // checked at Open
	b := r.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Add(providers.PoolStats{Waits: b.waits, Waiters: int64(b.waiters), OldestWait: b.oldestWait()})
	return s
}
