package tenancy

import (
	"cmp"
	"slices"
	"sync"
)

// TenantCount is how many operations a tenant began.
type TenantCount struct {
	// Tenant is the id.
	Tenant string
	// Operations is at least that many: what it did before it became one of the
	// busiest may have been counted under the others.
	Operations int64
}

// Usage counts the operations of the busiest tenants, in bounded memory however
// many tenants there are. It is safe for concurrent use, and may be shared by
// several pools. Each statement, batch, COPY and transaction counts, the
// statements in a transaction as well.
type Usage struct {
	tracked int
	mu      sync.Mutex
	counts  map[string]int64
	others  int64
}

// NewUsage returns a Usage that tells apart that many tenants: the busiest.
// Below 1 it is 1.
func NewUsage(tracked int) *Usage {
	tracked = max(tracked, 1)
	return &Usage{tracked: tracked, counts: make(map[string]int64, 2*tracked+1)}
}

// Top returns the busiest tenants, the first the busiest, and how many
// operations the others began, all of them together.
func (u *Usage) Top() (busiest []TenantCount, others int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.prune()
	return u.sorted(), u.others
}

func (u *Usage) count(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.counts[id]++
	// Twice as many are counted as are told, so that a newcomer has the time to
	// become one of them, and sorting is rare.
	if len(u.counts) > 2*u.tracked {
		u.prune()
	}
}

// prune moves all but the busiest to the others.
func (u *Usage) prune() {
	sorted := u.sorted()
	for _, c := range sorted[min(u.tracked, len(sorted)):] {
		u.others += c.Operations
		delete(u.counts, c.Tenant)
	}
}

func (u *Usage) sorted() []TenantCount {
	all := make([]TenantCount, 0, len(u.counts))
	for id, n := range u.counts {
		all = append(all, TenantCount{id, n})
	}
	slices.SortFunc(all, func(a, b TenantCount) int {
		return cmp.Or(cmp.Compare(b.Operations, a.Operations), cmp.Compare(a.Tenant, b.Tenant))
	})
	return all
}
