package outcome

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// oldSQL makes markers that began so long ago, by the server's clock and by the
// clock of whoever made the key.
const oldSQL = `insert into public.pgkeel_markers (key, created_at)
	select (lpad(to_hex((extract(epoch from now() - $3::interval) * 1000)::bigint), 12, '0') || lpad(to_hex(n), 20, '0'))::uuid,
		now() - $2::interval
	from generate_series(1, $1::int) n`

func TestSweep(t *testing.T) {
	m, pool := withTable(t)
	k := m.New()
	mustCommit(t, mustBegin(t, k))
	mustExec(t, pool, oldSQL, 25, "25 hours", "25 hours")
	mustExec(t, pool, oldSQL, 5, "23 hours", "23 hours")
	// A client whose clock is wrong does not have its markers swept too soon.
	mustExec(t, pool, oldSQL, 5, "1 hour", "90 days")
	for _, want := range []int64{25, 0} {
		if n, err := sweep(func() (int64, error) { return sweepOnce(t.Context(), pool, 10) }, 10); n != want || err != nil {
			t.Errorf("%d: %v", n, err)
		}
	}
	if n := value[int](t, pool, countSQL); n != 11 {
		t.Errorf("%d are left", n)
	}
	mustSettle(t, k, Committed)
}

func TestSweepByHand(t *testing.T) {
	_, pool := withTable(t)
	mustExec(t, pool, oldSQL, sweepBatch+1, "2 days", "2 days")
	if n, err := Sweep(t.Context(), pool); n != sweepBatch+1 || err != nil {
		t.Errorf("%d: %v", n, err)
	}
	mustExec(t, pool, "drop table public.pgkeel_markers")
	if n, err := Sweep(t.Context(), pool); n != 0 || pgError(t, err).Code != codeUndefinedTable {
		t.Errorf("%d: %v", n, err)
	}
}

func TestManySweepAtOnce(t *testing.T) {
	_, pool := withTable(t)
	mustExec(t, pool, oldSQL, 5000, "2 days", "2 days")
	var all sync.WaitGroup
	var mu sync.Mutex
	var swept int64
	for range 6 {
		all.Go(func() {
			n, err := sweep(func() (int64, error) { return sweepOnce(t.Context(), pool, 500) }, 500)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			swept += n
		})
	}
	all.Wait()
	if n := value[int](t, pool, countSQL); n != 0 || swept != 5000 {
		t.Errorf("%d swept, %d left", swept, n)
	}
}

// A look for old rows is a look into the index, however many young ones there are.
func TestSweepUsesTheIndex(t *testing.T) {
	_, pool := withTable(t)
	mustExec(t, pool, oldSQL, 20000, "1 hour", "1 hour")
	mustExec(t, pool, "analyze public.pgkeel_markers")
	rows, err := pool.Query(t.Context(), "explain "+sweepSQL, Retention.Seconds(), sweepBatch)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(line + "\n")
	}
	if !strings.Contains(plan.String(), "Index Cond: (key < ") || strings.Contains(plan.String(), "Seq Scan") {
		t.Error(plan.String())
	}
}

func TestAHandleInUseSweeps(t *testing.T) {
	m, pool := withTable(t)
	mustExec(t, pool, oldSQL, 3, "2 days", "2 days")
	mustCommit(t, mustBegin(t, m.New()))
	m.SweepIfDue(t.Context())
	eventually(t, "the old ones are gone", func() bool { return value[int](t, pool, countSQL) == 1 })
	eventually(t, "the sweep is over", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return !m.sweeping })
	m.mu.Lock()
	soonest, due := time.Now().Add(sweepEvery-time.Minute), m.due
	m.mu.Unlock()
	if due.Before(soonest) || due.After(soonest.Add(2*sweepEvery)) {
		t.Errorf("the next one in %s", time.Until(due))
	}
	mustExec(t, pool, oldSQL, 3, "2 days", "2 days")
	mustCommit(t, mustBegin(t, m.New()))
	m.SweepIfDue(t.Context())
	m.Stop()
	m.Wait()
	if n := value[int](t, pool, countSQL); n != 5 {
		t.Errorf("%d: it swept again at once", n)
	}
	m.mu.Lock()
	m.due = time.Now()
	m.mu.Unlock()
	mustCommit(t, mustBegin(t, m.New()))
	m.SweepIfDue(t.Context())
	m.Wait()
	if n := value[int](t, pool, countSQL); n != 6 {
		t.Errorf("%d: it swept after Stop", n)
	}
}

// Stop ends a sweep that waits, and what fails is told, unless it was stopped.
func TestASweepThatFails(t *testing.T) {
	var log journal
	pool := openPool(t, pgtest.NewDB(t))
	mustExec(t, pool, DDL)
	m := markersOf(t, pool, slog.New(slog.NewTextHandler(&log, nil)))
	mustExec(t, pool, "create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$;"+
		"create trigger refuse before delete on public.pgkeel_markers execute function refuse()")
	mustCommit(t, mustBegin(t, m.New()))
	m.SweepIfDue(t.Context())
	m.Wait()
	if got := log.String(); !strings.Contains(got, "level=WARN") || !strings.Contains(got, "could not be deleted") {
		t.Errorf("%q", got)
	}
	blocker, err := pool.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, blocker, "lock table public.pgkeel_markers in share mode")
	m.mu.Lock()
	m.due = time.Time{}
	m.mu.Unlock()
	m.SweepIfDue(t.Context())
	eventually(t, "it waits", func() bool {
		return value[int](t, blocker, "select count(*)::int from pg_locks where not granted and relation = 'public.pgkeel_markers'::regclass") > 0
	})
	before := log.String()
	m.Stop()
	m.Wait()
	if log.String() != before {
		t.Errorf("it tells of being stopped: %s", log.String())
	}
	mustCommit(t, blocker)
}
