package tenancy

import "time"

// next returns the member that is to be served next, and the database whose idle
// connections must be closed for it, if there is no permit. Without anybody who
// can be served it returns nil.
func (b *budget) next(now time.Duration) (best *member, victim *database) {
	var spare *spares
	for db := range b.queues {
		if !b.mayGrow(db) {
			continue
		}
		m := db.first(now)
		if best != nil && !m.before(best, now) {
			continue
		}
		var from *database
		if db.used == db.size && b.taken >= b.limit {
			if spare == nil {
				spare = b.spares(now)
			}
			if from = spare.victim(m, now, b.worth()); from == nil {
				continue
			}
		}
		best, victim = m, from
	}
	return best, victim
}

// mayGrow reports whether the database can have one more in use, permits left
// aside.
func (b *budget) mayGrow(db *database) bool {
	switch {
	case db.probing, !db.connected && !b.mayProbe(db):
		return false
	case db.used < db.size:
		return true
	default:
		return db.size < b.cap && (!db.claiming || b.taken < b.limit)
	}
}

func (b *budget) mayProbe(db *database) bool {
	return b.probes < b.maxProbes && (!db.server.failing || b.doubts < max(b.maxProbes/2, 1))
}

// spares are the databases with idle connections that could go to another one.
type spares struct {
	idle  *database // without work for a turn or more, the longest
	large *database // the one with the most connections
	other *database // any but one that has work for them and is in its turn
}

func (b *budget) spares(now time.Duration) *spares {
	s, turn := &spares{}, b.turn()
	for v := range b.all {
		if v.size == v.used || v.retired || v.probing {
			continue
		}
		if v.used == 0 && now-v.last >= turn && (s.idle == nil || v.last < s.idle.last) {
			s.idle = v
		}
		if s.large == nil || v.size > s.large.size {
			s.large = v
		}
		if (len(v.waiting) == 0 || now-v.since >= turn) && (s.other == nil || v.losesLess(s.other)) {
			s.other = v
		}
	}
	return s
}

// losesLess reports that it does less harm to db than to o to lose its idle
// connections: those in use have to be replaced as well.
func (db *database) losesLess(o *database) bool {
	if (db.used == 0) != (o.used == 0) {
		return db.used == 0
	}
	return db.last < o.last
}

// victim is the database that loses its idle connections for the member, if there
// is one. A database with connections gets more at the cost of one that is idle
// or has more itself; one without, or whose tenant waits for too long, at the cost
// of any.
func (s *spares) victim(m *member, now, worth time.Duration) *database {
	must := m.db.size == 0 || m.isStarved(now)
	patient := now-m.front() >= worth
	switch {
	case s.idle != nil && (must || patient):
		return s.idle
	case !patient:
		return nil
	case s.large != nil && s.large.size > m.db.size+1:
		return s.large
	case must:
		return s.other
	default:
		return nil
	}
}

// first is the member of the database that is to be served first.
func (db *database) first(now time.Duration) *member {
	first := db.waiting[0]
	for _, m := range db.waiting[1:] {
		if m.before(first, now) {
			first = m
		}
	}
	return first
}

// before reports whether m is to be served before o.
func (m *member) before(o *member, now time.Duration) bool {
	if m.db.server.failing != o.db.server.failing {
		return o.db.server.failing
	}
	ms, os := m.waitsSince(), o.waitsSince()
	switch starved := min(ms, os)+starvedAfter <= now; {
	case starved && ms != os:
		return ms < os
	case m.held != o.held:
		return m.held < o.held
	case m.db.size != o.db.size:
		return m.db.size < o.db.size
	case m.turn != o.turn:
		return m.turn < o.turn
	default:
		return ms < os
	}
}

// front is since when the first of its callers waits.
func (m *member) front() time.Duration { return m.waiters.Front().Value.(*waiter).since }

// waitsSince is since when the tenant waits without being served at all.
func (m *member) waitsSince() time.Duration { return max(m.front(), m.served) }

func (m *member) isStarved(now time.Duration) bool { return m.waitsSince()+starvedAfter <= now }
