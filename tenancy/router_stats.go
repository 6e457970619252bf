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
	s.MaxSize = int32(r.budget.limit) //nolint:gosec // checked at Open
	add := func(db *database) {
		select {
		case <-db.ready:
			if db.err == nil {
				addAll(&s, db.pool.Stats())
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
	b := r.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	addWaits(&s.Waits, b.waits)
	s.Waiters += int64(b.waiters)
	s.OldestWait = max(s.OldestWait, b.oldestWait())
	return s
}

// addAll adds a pool that is open.
func addAll(s *providers.PoolStats, of providers.PoolStats) {
	s.Open += of.Open
	s.Idle += of.Idle
	s.InUse += of.InUse
	s.Dialing += of.Dialing
	s.Waiters += of.Waiters
	s.OldestWait = max(s.OldestWait, of.OldestWait)
	addCounters(s, of)
}

// addCounters adds what stays when a pool is closed.
func addCounters(s *providers.PoolStats, of providers.PoolStats) {
	s.Acquires += of.Acquires
	addWaits(&s.Waits, of.Waits)
	s.Connects += of.Connects
	s.ConnectErrors += of.ConnectErrors
	s.Closed += of.Closed
	s.Resets += of.Resets
	s.Reclaimed += of.Reclaimed
	s.Leaks += of.Leaks
	s.HookPanics = max(s.HookPanics, of.HookPanics) // they share the hooks
}

func addWaits(h *providers.WaitHistogram, of providers.WaitHistogram) {
	for outcome := range h.Counts {
		for bucket := range h.Counts[outcome] {
			h.Counts[outcome][bucket] += of.Counts[outcome][bucket]
		}
		h.Total[outcome] += of.Total[outcome]
	}
}
