package pgkeel_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/cluster"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// faultRuns is how often a fault is made: a few times in CI, more for a figure.
func faultRuns(t *testing.T) int {
	t.Helper()
	text := os.Getenv("PGKEEL_FAULT_RUNS")
	if text == "" {
		return 1
	}
	runs, err := strconv.Atoi(text)
	if err != nil || runs < 1 {
		t.Fatalf("PGKEEL_FAULT_RUNS=%s is no number of runs", text)
	}
	return runs
}

// openPatroni starts two synchronous nodes under Patroni.
func openPatroni(t *testing.T) *pgtest.Patroni {
	t.Helper()
	p := pgtest.NewPatroni(t, pgtest.Options{Standbys: 1, SynchronousStandbys: 1})
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range p.Nodes() {
				t.Logf("%s:\n%s", n.Name(), n.Log())
			}
		}
	})
	conn := direct(t, p.Nodes()[0].DSN(""))
	for _, sql := range []string{`create table ledger (writer int, n int)`, `create table probe (n int)`} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// direct is a connection past the handle.
func direct(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// statementWriters write by single statements.
const statementWriters = 50

// An entry is what one write adds to the ledger.
type entry struct{ writer, n int }

// books are those of many who write a ledger at once: what each was told.
type books struct {
	t  *testing.T
	db *pgkeel.DB

	stop chan struct{}
	wg   sync.WaitGroup

	mu       sync.Mutex
	acked    map[entry]bool
	unknown  map[entry]error
	refused  []error           // what was safe to send again, and reached a caller
	first    map[int]time.Time // the first acknowledgement of each server, by port
	progress []int             // acknowledgements of each writer
}

// write has writers of statements and of transactions, and readers, work through the
// handle until end is called.
func write(t *testing.T, db *pgkeel.DB, transactions, readers int) *books {
	mustExec(t, db, `truncate ledger`)
	l := &books{
		t: t, db: db, stop: make(chan struct{}),
		acked: map[entry]bool{}, unknown: map[entry]error{}, first: map[int]time.Time{}, progress: make([]int, statementWriters+transactions),
	}
	for w := range statementWriters {
		l.every(20*time.Millisecond, func(ctx context.Context, n int) { l.add(ctx, entry{w, n}) })
	}
	for w := range transactions {
		l.every(20*time.Millisecond, func(ctx context.Context, n int) { l.transact(ctx, entry{statementWriters + w, n}) })
	}
	for range readers {
		l.every(20*time.Millisecond, func(ctx context.Context, _ int) { l.read(ctx) })
	}
	t.Cleanup(l.end)
	return l
}

// every calls do over and over, in a goroutine of its own. Nothing is to take so
// long that its deadline ends it.
func (l *books) every(interval time.Duration, do func(ctx context.Context, n int)) {
	l.wg.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			do(ctx, n)
			cancel()
		}
	})
}

// toLedger returns the port of the server that wrote.
const toLedger = `insert into ledger values ($1, $2) returning current_setting('port')::int`

// add writes by a single statement, whose outcome can remain unknown.
func (l *books) add(ctx context.Context, e entry) {
	port, err := pgkeel.One[int](ctx, l.db, toLedger, e.writer, e.n)
	l.note(e, port, err)
}

// transact writes exactly once, which leaves no error to be had.
func (l *books) transact(ctx context.Context, e entry) {
	var port int
	err := l.db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) (err error) {
		port, err = pgkeel.One[int](ctx, tx, toLedger, e.writer, e.n)
		return err
	}, pgkeel.TxOptions{ExactlyOnce: true, MaxAttempts: 1000, RetryBudget: time.Minute})
	if err != nil {
		err = fmt.Errorf("exactly once: %w", err)
	}
	l.note(e, port, err)
}

func (l *books) note(e entry, port int, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.acked[e] = true
		l.progress[e.writer]++
		if l.first[port].IsZero() {
			l.first[port] = now
		}
	case pgkeel.OutcomeOf(err) == pgkeel.OutcomeUnknown && e.writer < statementWriters:
		l.unknown[e] = err
	default:
		l.refused = append(l.refused, err)
	}
}

func (l *books) read(ctx context.Context) {
	if _, err := pgkeel.One[int](ctx, l.db.Reader(), `select count(*)::int from probe`); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.refused = append(l.refused, err)
	}
}

// forget makes the next acknowledgement of each server its first.
func (l *books) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.first)
}

// heard returns when a server has first acknowledged a write since forget.
func (l *books) heard(port int) time.Time {
	l.t.Helper()
	var at time.Time
	eventually(l.t, "a write through the handle is acknowledged", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		at = l.first[port]
		return !at.IsZero()
	})
	return at
}

// goesOn waits until every writer has been acknowledged again.
func (l *books) goesOn() {
	l.t.Helper()
	now := func() []int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return slices.Clone(l.progress)
	}
	before := now()
	eventually(l.t, "every writer goes on", func() bool {
		for w, n := range now() {
			if n == before[w] {
				return false
			}
		}
		return true
	})
}

func (l *books) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.wg.Wait()
}

// check holds the books against what the primary has.
func (l *books) check(primary *pgtest.PatroniNode) {
	l.t.Helper()
	l.end()
	rows, err := direct(l.t, primary.DSN("")).Query(l.t.Context(), `select writer, n, count(*)::int from ledger group by 1, 2`)
	if err != nil {
		l.t.Fatal(err)
	}
	kept := map[entry]int{}
	var e entry
	var count int
	if _, err := pgx.ForEachRow(rows, []any{&e.writer, &e.n, &count}, func() error { kept[e] = count; return nil }); err != nil {
		l.t.Fatal(err)
	}
	lost := 0
	for e := range l.acked {
		if kept[e] == 0 {
			lost++
		}
	}
	if lost > 0 {
		l.t.Errorf("%d of %d acknowledged writes are lost", lost, len(l.acked))
	}
	for e, n := range kept {
		if n > 1 {
			l.t.Errorf("%v was written %d times", e, n)
		}
		if !l.acked[e] && l.unknown[e] == nil {
			l.t.Errorf("%v was written, and its writer told that it was not", e)
		}
	}
	for _, err := range l.refused {
		l.t.Errorf("what was safe to send again reached its caller: %v (%v)", err, pgkeel.OutcomeOf(err))
	}
	l.t.Logf("%d writes acknowledged, %d with an unknown outcome", len(l.acked), len(l.unknown))
}

// accepts tells the moment in which the node takes its first write, of those that
// it is offered every two milliseconds on a connection of their own.
func accepts(t *testing.T, node *pgtest.PatroniNode) <-chan time.Time {
	t.Helper()
	conn := direct(t, node.DSN(""))
	moment := make(chan time.Time, 1)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // ahead of the connection's end
	wg.Go(func() {
		defer close(moment)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			_, err := conn.Exec(t.Context(), `insert into probe values (1)`)
			pg := providers.NewPGError(err)
			switch {
			case err == nil:
				moment <- time.Now()
				return
			case t.Context().Err() != nil:
				return
			case pg == nil || !pg.IsReadOnly():
				t.Errorf("the new primary: %v", err)
				return
			}
		}
	})
	return moment
}

// other returns the node that is not the given one.
func other(p *pgtest.Patroni, node *pgtest.PatroniNode) *pgtest.PatroniNode {
	nodes := p.Nodes()
	return nodes[1-slices.Index(nodes, node)]
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func leader(t *testing.T, p *pgtest.Patroni) *pgtest.PatroniNode {
	t.Helper()
	n, err := p.WaitForLeader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What a handle does when the primary changes and nobody tells it: Patroni and
// etcd are real, and so are the deaths.
func TestPatroni(t *testing.T) {
	p := openPatroni(t)
	t.Run("discovery", func(t *testing.T) { followsDiscovery(t, p) })
	t.Run("death", func(t *testing.T) {
		outlivesThePrimary(t, p, (*pgtest.PatroniNode).Kill, func(n *pgtest.PatroniNode) error { return n.Start(t.Context()) })
	})
	t.Run("sleep", func(t *testing.T) {
		outlivesThePrimary(t, p, (*pgtest.PatroniNode).Pause, (*pgtest.PatroniNode).Resume)
	})
	t.Run("switchover", func(t *testing.T) { hearsOfNoSwitchover(t, p) })
}

// The primary's machine dies or hangs, Patroni makes the standby its successor, and
// fifty writers go on with that as soon as it lets them. Then it comes back; one that
// hung believes for a moment that it is still the primary.
func outlivesThePrimary(t *testing.T, p *pgtest.Patroni, strike, heal func(*pgtest.PatroniNode) error) {
	l := write(t, openDSN(t, p.DSN(""), pgkeel.WithCluster(cluster.Options{}), pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 20})), 10, 0)
	l.goesOn()
	var gaps []time.Duration
	for range faultRuns(t) {
		former := leader(t, p)
		next := other(p, former)
		accepted := accepts(t, next)
		l.forget()
		noError(t, strike(former))
		noError(t, p.ExpireLeader(t.Context()))
		moment, ok := <-accepted
		if !ok {
			t.FailNow()
		}
		gaps = append(gaps, max(0, l.heard(next.Port()).Sub(moment)))
		l.goesOn()
		noError(t, heal(former))
		noError(t, p.WaitStreaming(t.Context()))
	}
	l.check(leader(t, p))
	logSpread(t, "from the new primary's first write to the handle's", gaps)
}

// Patroni hands the leadership over and back, found by its REST API alone: what
// could be sent again waits for the new primary, and nobody hears of it.
func hearsOfNoSwitchover(t *testing.T, p *pgtest.Patroni) {
	db := openDSN(t, p.Nodes()[0].DSN(""),
		pgkeel.WithCluster(cluster.Options{Discovery: cluster.Patroni(p.RESTURLs()...)}),
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 20}))
	l := write(t, db, 10, 10)
	l.goesOn()
	var gaps []time.Duration
	for range faultRuns(t) {
		from := leader(t, p)
		to := other(p, from)
		accepted := accepts(t, to)
		l.forget()
		noError(t, p.Switchover(t.Context(), to))
		moment, ok := <-accepted
		if !ok {
			t.FailNow()
		}
		gaps = append(gaps, max(0, l.heard(to.Port()).Sub(moment)))
		l.goesOn()
		noError(t, p.WaitStreaming(t.Context()))
	}
	l.check(leader(t, p))
	logSpread(t, "from the new primary's first write to the handle's", gaps)
}

// logSpread logs what was measured; it depends on the machine, so it is no test.
func logSpread(t *testing.T, what string, took []time.Duration) {
	t.Helper()
	slices.Sort(took)
	t.Logf("%s, over %d runs: median %v, worst %v", what, len(took),
		took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
}

// A server that nobody has named is found, read from, and written to when it is
// the primary.
func followsDiscovery(t *testing.T, p *pgtest.Patroni) {
	first := leader(t, p)
	second := other(p, first)
	db := openDSN(t, first.DSN(""), pgkeel.WithCluster(cluster.Options{
		Discovery: cluster.Patroni(p.RESTURLs()...), Fallback: cluster.FallbackError,
	}))
	const port = `select current_setting('port')::int`
	eventually(t, "a read goes to the replica", func() bool {
		got, err := pgkeel.One[int](t.Context(), db.Reader(), port)
		if err != nil && !errors.Is(err, pgkeel.ErrNoReplica) {
			t.Fatal(err)
		}
		return got == second.Port()
	})
	noError(t, p.Switchover(t.Context(), second))
	if got := value[int](t, db, port); got != second.Port() {
		t.Errorf("a statement went to %d, where the primary is %d", got, second.Port())
	}
	noError(t, p.WaitStreaming(t.Context()))
	eventually(t, "a read goes to the former primary", func() bool {
		got, err := pgkeel.One[int](t.Context(), db.Reader(), port)
		return err == nil && got == first.Port()
	})
}
