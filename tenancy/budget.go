package tenancy

import (
	"container/list"
	"sync"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	// A connection costs what the probes take on average, within these bounds.
	minCost, maxCost = 5 * time.Millisecond, 50 * time.Millisecond
	// starvedAfter is how long a tenant waits before it goes ahead of those that hold
	// fewer connections, so that nobody waits for ever.
	starvedAfter = time.Second
)

// budget shares out the connections that all databases together may have.
//
// A database has permits for as many connections as its pool can have open: size.
// A permit stays when its connection comes back, as the pool keeps it open, and
// serves the next caller of the database at no cost. When none is left for a
// database that needs one, the idle connections of another are closed by a Reset
// of its pool, and their permits freed. So the sum of the sizes is at no time
// more than the limit, and no pool has more connections than its size: nobody
// gets into a pool but through a member's Enter, of those at most size at a time.
//
// Who waits is served by tenant, whatever number of callers each has: the one
// that holds the fewest connections first, among them the one that was served
// longest ago.
//
// A database without connections is connected by a probe, a ping that takes a
// permit of its own. All its callers wait for that one, and share its error. At
// most a quarter of the limit may be probes, half of these of servers that failed
// last time, whose databases come behind the others. So permits do not end up
// with callers who wait for servers that do not answer.
type budget struct {
	limit, cap int // of all, and of one database
	maxProbes  int
	// ping makes the first connection of a database.
	ping func(db *database) error
	// background is what the router's Close waits for.
	background *sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	taken   int // permits, those of pools being closed included
	probes  int
	doubts  int // the probes of servers that failed last time
	nested  int // connections held by those who wait
	waiters int
	turns   int64
	all     map[*database]struct{}
	queues  map[*database]struct{} // those for which somebody waits
	again   *time.Timer
	born    time.Time
	cost    time.Duration // of a connection
	moved   int64         // connections taken from one database for another
	waits   providers.WaitHistogram
}

// account is a database's part of the budget, guarded by the budget's lock.
type account struct {
	size, used int
	// connected says that it has, or had when last seen, a working connection.
	connected, probing bool
	server             *server
	// claiming says that a permit is being freed for it.
	claiming bool
	// pins counts those who are about to use it, so that it is not closed, and
	// listeners the connections for LISTEN, which have permits of their own.
	pins, listeners int

	retired bool
	free    chan struct{} // closed when it is retired and has no pins

	waiting []*member
	nested  int
	// since is when it was connected, last when it was used, on the budget's clock.
	since, last time.Duration
}

// server is what databases have in common that are at the same address.
type server struct {
	failing bool // at the last attempt to connect
}

// member is a tenant of a database, and the gate that its operations enter by.
type member struct {
	budget *budget
	db     *database
	tenant string
	scope  providers.Scope

	// Guarded by the budget's lock.

	held    int
	served  time.Duration
	turn    int64
	waiters list.List // of *waiter, the oldest first
	at      int       // in the database's waiting
}

var _ providers.Gate = (*member)(nil)

// waiter is a caller who waits for a connection.
type waiter struct {
	since time.Duration
	held  int // connections that its call chain holds already
	ready chan error
	place *list.Element
}

func newBudget(limit, perDatabase int, background *sync.WaitGroup, ping func(*database) error) *budget {
	return &budget{
		limit: limit, cap: min(perDatabase, limit), maxProbes: max(limit/4, min(limit, 2)),
		ping: ping, background: background, born: time.Now(), cost: minCost,
		all: map[*database]struct{}{}, queues: map[*database]struct{}{},
	}
}

// now is the time on the budget's clock.
func (b *budget) now() time.Duration { return time.Since(b.born) }

// turn is for how long connections serve their own database, while it has work
// for them, before another one may have them: it is dear to make one. A database
// that did nothing for a turn is idle.
func (b *budget) turn() time.Duration { return 20 * b.cost }

// worth is how long a caller waits before another database that is not idle loses
// connections for it. It is also how often those that wait are looked at again.
func (b *budget) worth() time.Duration { return 2 * b.cost }

// Leave gives the connection back to the database.
func (m *member) Leave() {
	b, db := m.budget, m.db
	b.mu.Lock()
	defer b.mu.Unlock()
	m.held--
	db.used--
	db.last = b.now()
	if len(db.waiting) > 0 && db.isServing() && db.last-db.since < b.turn() && !b.closed {
		b.serve(db.first(db.last), db.last) // nobody else can have it
		return
	}
	b.dispatch()
}

// isServing reports whether the database has a connection to give.
func (db *database) isServing() bool { return db.connected && !db.probing && db.used < db.size }

// grant gives the member a connection of its database, which has one to give.
func (b *budget) grant(m *member, now time.Duration) {
	m.db.used++
	m.held++
	b.turns++
	m.turn, m.served = b.turns, now
}

// dispatch serves those who wait, as far as there are connections.
func (b *budget) dispatch() {
	if b.closed || b.waiters == 0 {
		return
	}
	now := b.now()
	for {
		m, victim := b.next(now)
		switch {
		case m == nil:
			b.lookAgain()
			return
		case victim != nil:
			b.claim(m.db, victim)
		default:
			b.serve(m, now)
		}
	}
}

// lookAgain sees to it that those who still wait are looked at again, also if
// nothing comes back until then.
func (b *budget) lookAgain() {
	if b.waiters == 0 || b.again != nil {
		return
	}
	b.again = time.AfterFunc(b.worth(), func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.again = nil
		b.dispatch()
	})
}

// serve gives the member's first waiter its connection, or has the database
// connected first.
func (b *budget) serve(m *member, now time.Duration) {
	db := m.db
	if db.used == db.size {
		db.size++
		b.taken++
	}
	if !db.connected {
		db.probing = true
		db.used++
		b.probes++
		doubted := db.server.failing
		if doubted {
			b.doubts++
		}
		b.background.Go(func() { b.probe(db, doubted) })
		return
	}
	w := m.waiters.Front().Value.(*waiter)
	b.remove(m, w)
	b.grant(m, now)
	w.ready <- nil
}

// remove takes a waiter out of the queue.
func (b *budget) remove(m *member, w *waiter) {
	db := m.db
	m.waiters.Remove(w.place)
	b.waiters--
	b.nested -= w.held
	db.nested -= w.held
	if m.waiters.Len() > 0 {
		return
	}
	last := len(db.waiting) - 1
	db.waiting[m.at] = db.waiting[last]
	db.waiting[m.at].at = m.at
	db.waiting[last] = nil
	if db.waiting = db.waiting[:last]; last == 0 {
		delete(b.queues, db)
	}
}

// probe connects a database.
func (b *budget) probe(db *database, doubted bool) {
	began := b.now()
	err := b.ping(db)
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	db.probing = false
	db.used--
	b.probes--
	if doubted {
		b.doubts--
	}
	db.connected, db.server.failing = err == nil, err != nil
	db.since, db.last = now, now
	if err != nil {
		b.fail(db, err)
	} else {
		b.cost += (min(max(now-began, minCost), maxCost) - b.cost) / 8
	}
	b.dispatch()
}

// fail tells everybody who waits for the database why there is no connection.
func (b *budget) fail(db *database, err error) {
	for len(db.waiting) > 0 {
		m := db.waiting[0]
		w := m.waiters.Front().Value.(*waiter)
		b.remove(m, w)
		w.ready <- err
	}
}

// doubt has the database probed before anybody else gets a connection, as one
// could not be made.
func (b *budget) doubt(db *database) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !db.probing {
		db.connected, db.server.failing = false, true
	}
}

// claim closes the idle connections of another database, for one that needs
// their permits. These are free when that is done. It resets the pool, as that
// needs no answer of the server: those of its connections that are in use are
// replaced as well, when they come back. One that is still being made for a
// caller who has gone is closed as soon as it is there.
func (b *budget) claim(db, victim *database) {
	freed := victim.size - victim.used
	victim.size = victim.used
	victim.connected = victim.size > 0
	b.moved += int64(freed)
	db.claiming = true
	b.background.Go(func() {
		victim.pool.Reset()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.taken -= freed
		db.claiming = false
		b.dispatch()
	})
}

// pin keeps a database from being closed, until unpin. It fails once it is to be
// closed.
func (b *budget) pin(db *database) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if db.retired {
		return false
	}
	db.pins++
	db.last = b.now()
	return true
}

func (b *budget) unpin(db *database) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if db.pins--; db.retired && db.pins == 0 {
		close(db.free)
	}
}

// retire begins the end of a database: nobody new comes in. It says when those
// who were about to use it are through.
func (b *budget) retire(db *database) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.retireLocked(db)
}

func (b *budget) retireLocked(db *database) <-chan struct{} {
	if !db.retired {
		if db.retired = true; db.pins == 0 {
			close(db.free)
		}
	}
	return db.free
}

// retireIdlest retires the database that nobody has used for the longest time, or
// returns nil if all are in use.
func (b *budget) retireIdlest() *database {
	b.mu.Lock()
	defer b.mu.Unlock()
	var idlest *database
	for db := range b.all {
		if db.pins == 0 && db.used == 0 && db.listeners == 0 && !db.retired && (idlest == nil || db.last < idlest.last) {
			idlest = db
		}
	}
	if idlest != nil {
		b.retireLocked(idlest)
	}
	return idlest
}

// listens notes that there are so many connections for LISTEN more.
func (b *budget) listens(db *database, more int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	db.listeners += more
	db.last = b.now()
}

// awaitProbe waits until the probe of a database, for which nobody waits any
// more, has ended. There may be none.
func (b *budget) awaitProbe(db *database, ended <-chan struct{}) {
	b.mu.Lock()
	probing := db.probing
	b.mu.Unlock()
	if probing {
		<-ended
	}
}

// add makes a database known, with a pin.
func (b *budget) add(db *database) {
	b.mu.Lock()
	defer b.mu.Unlock()
	db.free = make(chan struct{})
	db.pins, db.last = 1, b.now()
	b.all[db] = struct{}{}
}

// drop forgets a database whose pool is closed, and frees its permits.
func (b *budget) drop(db *database) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.all, db)
	b.taken -= db.size
	db.size = 0
	b.dispatch()
}

// close ends every wait.
func (b *budget) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.again != nil {
		b.again.Stop()
	}
	for db := range b.all {
		b.fail(db, providers.ErrPoolClosed)
	}
}
