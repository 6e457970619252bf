package cluster

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
	"github.com/pgkeel/pgkeel/providers"
	provider "github.com/pgkeel/pgkeel/providers/pgx"
)

// quick notices everything soon, and takes a slow machine's pause for no loss.
var quick = Options{Heartbeat: time.Second, ProbeTimeout: 3 * time.Second}

// openNodes opens a cluster of servers, of which the first stands for the handle's
// DSN.
func openNodes(t *testing.T, cfg providers.Config, opts Options, dsns ...string) *Cluster {
	t.Helper()
	cfg.DSN = dsns[0]
	if len(dsns) > 1 {
		opts.Discovery = Static(dsns[1:]...)
	}
	c, err := Open(t.Context(), cfg, opts, provider.Provider{}.Open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return c
}

// until waits for a condition, and fails the test with what is known after a minute.
func until(t *testing.T, c *Cluster, what string, good func() bool) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !good() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within a minute; known: %s", what, strings.Join(c.monitor.known(), "; "))
		case <-tick.C:
		}
	}
}

func (c *Cluster) isFit(n int) func() bool {
	return func() bool { return len(c.monitor.view().replicas) == n }
}

const portSQL = "select current_setting('port')::int"

func port(ctx context.Context, q providers.Querier) (port int, err error) {
	err = q.QueryRow(ctx, portSQL).Scan(&port)
	return port, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Reads spread over the replicas, and are held to reading wherever they run.
func TestReadsSpread(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 2})
	c := openNodes(t, providers.Config{}, quick, dsnsOf(nodes)...)
	until(t, c, "both replicas are fit", c.isFit(2))
	reader := providers.WithReadOnly(t.Context())
	seen := map[int]int{}
	for range 20 {
		p, err := port(reader, c)
		must(t, err)
		seen[p]++
	}
	for _, n := range nodes.Standbys() {
		if seen[n.Port()] != 10 {
			t.Errorf("%v: not half of them at %d", seen, n.Port())
		}
	}
	if p, err := port(t.Context(), c); err != nil || p != nodes.Primary().Port() {
		t.Errorf("%d: %v", p, err)
	}
	if p, err := port(OnPrimary(reader), c); err != nil || p != nodes.Primary().Port() {
		t.Errorf("%d: %v", p, err)
	}
	for _, sql := range []string{"create table t (n int)", "select nextval('s')", "select 1 from pg_class for update"} {
		for _, ctx := range []context.Context{reader, OnPrimary(reader)} {
			_, err := c.Exec(ctx, sql)
			if pg := providers.NewPGError(err); pg == nil || !pg.IsReadOnly() && pg.Code != "42P01" {
				t.Errorf("%s: %v", sql, err)
			}
		}
	}
	tx, err := c.Begin(t.Context(), providers.TxOptions{Access: providers.ReadOnly, Isolation: providers.RepeatableRead})
	must(t, err)
	p, err := port(t.Context(), tx)
	must(t, err)
	must(t, tx.Commit(t.Context()))
	conn, err := c.Acquire(reader)
	must(t, err)
	q, err := port(reader, conn)
	must(t, err)
	conn.Release()
	if primary := nodes.Primary().Port(); p == primary || q == primary {
		t.Errorf("%d and %d, but the primary is %d", p, q, primary)
	}
}

// readers read in every way until they are stopped, and count what fails.
type readers struct {
	work          sync.WaitGroup
	stopped       chan struct{}
	reads, failed atomic.Int64
	worst         atomic.Int64
}

func startReaders(t *testing.T, c *Cluster) *readers {
	r := &readers{stopped: make(chan struct{})}
	for i := range 8 {
		r.work.Go(func() {
			for n := i; ; n++ {
				select {
				case <-r.stopped:
					return
				default:
				}
				begun := time.Now()
				if err := readSomehow(t.Context(), c, n); err != nil {
					r.failed.Add(1)
					t.Errorf("read %d: %v", n%4, err)
					return
				}
				r.reads.Add(1)
				for took := int64(time.Since(begun)); ; {
					worst := r.worst.Load()
					if took <= worst || r.worst.CompareAndSwap(worst, took) {
						break
					}
				}
			}
		})
	}
	return r
}

func readSomehow(ctx context.Context, c *Cluster, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ctx = providers.WithReadOnly(ctx)
	switch n % 4 {
	case 0:
		_, err := port(ctx, c)
		return err
	case 1:
		_, err := c.Exec(ctx, "select $1::int", n)
		return err
	case 2:
		rows, err := c.Query(ctx, "select generate_series(1, 20)")
		if err != nil {
			return err
		}
		for {
			if _, err = pgx.CollectRows(keepOpen{rows}, pgx.RowTo[int]); err == nil {
				return nil
			}
			if !rows.(*rowsOf).Restart() {
				return err
			}
		}
	default:
		tx, err := c.Begin(ctx, providers.TxOptions{Access: providers.ReadOnly})
		if err != nil {
			return err
		}
		_ = tx.Rollback(ctx) // it may have lost its server, with nothing in it
		return nil
	}
}

type rowsOf = rows

// keepOpen are rows as a collector takes them.
type keepOpen struct{ pgx.Rows }

func (r *readers) stop(t *testing.T, about string) {
	close(r.stopped)
	r.work.Wait()
	t.Logf("%s: %d reads, %d failed, the slowest took %s", about, r.reads.Load(), r.failed.Load(), time.Duration(r.worst.Load()))
}

// Nothing that happens to a replica fails a read.
func TestReplicaFaultsFailNoRead(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 2})
	line := fault.New(t, nodes.Standbys()[1].DSN(""))
	c := openNodes(t, providers.Config{}, quick, nodes.Primary().DSN(""), nodes.Standbys()[0].DSN(""), line.DSN())
	until(t, c, "both replicas are fit", c.isFit(2))
	victim := nodes.Standbys()[0]
	for _, f := range []struct {
		name       string
		begin, end func() error
	}{
		{"killed", victim.Kill, func() error { return victim.Start(t.Context()) }},
		{"paused", victim.Pause, victim.Resume},
		{"restarted", func() error { return victim.Stop(t.Context()) }, func() error { return victim.Start(t.Context()) }},
		{"unplugged", func() error { line.BlackHole(fault.ToServer); line.BlackHole(fault.ToClient); return nil }, func() error { line.Heal(); return nil }},
		{"cut", func() error { line.Reset(); line.BlackHole(fault.ToClient); return nil }, func() error { line.Heal(); return nil }},
	} {
		t.Run(f.name, func(t *testing.T) {
			readers := startReaders(t, c)
			before := readers.reads.Load()
			until(t, c, "it is read", func() bool { return readers.reads.Load() > before+100 })
			must(t, f.begin())
			until(t, c, "it is out", c.isFit(1))
			before = readers.reads.Load()
			until(t, c, "it is read without it", func() bool { return readers.reads.Load() > before+100 })
			must(t, f.end())
			until(t, c, "it is back", c.isFit(2))
			readers.stop(t, f.name)
		})
	}
}

// Writes wait for the new primary, and go on there: also those of who uses the pool
// underneath. None fails that certainly was not sent.
func TestTrap35WritesFollowThePrimary(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 1})
	old := nodes.Primary()
	c := openNodes(t, providers.Config{}, quick, dsnsOf(nodes)...)
	_, err := c.Exec(t.Context(), "create table t (n int)")
	must(t, err)
	until(t, c, "the replica is fit", c.isFit(1))
	must(t, nodes.WaitCaughtUp(t.Context()))

	var work sync.WaitGroup
	stopped := make(chan struct{})
	var there [3]atomic.Int64 // writes since the promotion
	var promoted atomic.Bool
	for i, write := range []func(ctx context.Context) error{
		func(ctx context.Context) error {
			_, err := c.Exec(ctx, "insert into t values (1)")
			return err
		},
		func(ctx context.Context) error {
			_, err := c.Unwrap().Exec(ctx, "insert into t values (2)")
			return err
		},
		func(ctx context.Context) error {
			tx, err := c.Begin(ctx, providers.TxOptions{})
			if err != nil {
				return err
			}
			if _, err = tx.Exec(ctx, "insert into t values (3)"); err != nil {
				return errors.Join(err, tx.Rollback(ctx))
			}
			return tx.Commit(ctx)
		},
	} {
		for range 3 {
			work.Go(func() {
				for {
					select {
					case <-stopped:
						return
					default:
					}
					err := write(t.Context())
					if err == nil && promoted.Load() {
						there[i].Add(1)
					}
					if err != nil && providers.OutcomeOf(err) == providers.OutcomeNotSent && i != 1 {
						t.Errorf("way %d: %v", i, err)
					}
				}
			})
		}
	}
	must(t, old.Kill())
	until(t, c, "the primary is lost", func() bool { return c.monitor.view().writer == nil })
	must(t, nodes.Standbys()[0].Promote(t.Context()))
	begun := time.Now()
	promoted.Store(true)
	for i := range there {
		until(t, c, "writes go on", func() bool { return there[i].Load() > 0 })
	}
	t.Logf("all three ways wrote again %s after the promotion", time.Since(begun))
	close(stopped)
	work.Wait()
	if p, err := port(t.Context(), c); err != nil || p != nodes.Primary().Port() {
		t.Errorf("%d: %v", p, err)
	}
	if p, err := port(providers.WithReadOnly(t.Context()), c); err != nil || p != nodes.Primary().Port() {
		t.Errorf("without a replica it is read from %d: %v", p, err)
	}
}

// A session sees what it wrote, and no less than it saw, whatever its replicas have
// replayed.
func TestTrap39SessionsSeeTheirOwn(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 2})
	c := openNodes(t, providers.Config{}, quick, dsnsOf(nodes)...)
	_, err := c.Exec(t.Context(), "create table t (n int)")
	must(t, err)
	_, err = c.Exec(t.Context(), "insert into t values (0)")
	must(t, err)
	must(t, nodes.WaitCaughtUp(t.Context()))
	until(t, c, "both replicas are fit", c.isFit(2))

	replay := func(n *pgtest.Node, pause bool) {
		t.Helper()
		sql := "select pg_wal_replay_resume()"
		if pause {
			sql = "select pg_wal_replay_pause()"
		}
		pool, err := pgxpool.New(t.Context(), n.DSN(""))
		must(t, err)
		defer pool.Close()
		_, err = pool.Exec(t.Context(), sql)
		must(t, err)
		until(t, c, "replay obeys", func() bool {
			var state string
			must(t, pool.QueryRow(t.Context(), "select pg_get_wal_replay_pause_state()").Scan(&state))
			return (state == "paused") == pause
		})
	}
	one := nodes.Standbys()[0]
	replay(one, true)
	session := NewSession()
	ctx := WithSession(t.Context(), session)
	reader := providers.WithReadOnly(ctx)
	places := map[int]int{}
	for n := 1; n <= 30; n++ {
		_, err := c.Exec(ctx, "update t set n = $1", n)
		must(t, err)
		for range 3 {
			var got, from int
			must(t, c.QueryRow(reader, "select n, current_setting('port')::int from t").Scan(&got, &from))
			if got != n {
				t.Fatalf("read %d after writing %d, at %d", got, n, from)
			}
			places[from]++
		}
		tx, err := c.Begin(ctx, providers.TxOptions{Access: providers.ReadOnly})
		must(t, err)
		var got int
		must(t, tx.QueryRow(ctx, "select n from t").Scan(&got))
		must(t, tx.Commit(ctx))
		if got != n {
			t.Fatalf("a transaction read %d after %d was written", got, n)
		}
	}
	if places[one.Port()] > 0 || places[nodes.Standbys()[1].Port()] == 0 {
		t.Errorf("%v: none is expected from %d, some from %d", places, one.Port(), nodes.Standbys()[1].Port())
	}
	// Without the session the paused replica is as good as the other.
	stale := 0
	for range 4 {
		var got int
		must(t, c.QueryRow(providers.WithReadOnly(t.Context()), "select n from t").Scan(&got))
		if got == 0 {
			stale++
		}
	}
	if stale != 2 {
		t.Errorf("%d of 4 reads without a session were stale", stale)
	}
	// With none of them it is the primary's.
	replay(nodes.Standbys()[1], true)
	_, err = c.Exec(ctx, "update t set n = 100")
	must(t, err)
	var got, from int
	must(t, c.QueryRow(reader, "select n, current_setting('port')::int from t").Scan(&got, &from))
	if got != 100 || from != nodes.Primary().Port() {
		t.Errorf("read %d from %d", got, from)
	}
	// What a session saw on one replica it sees on the other.
	replay(nodes.Standbys()[1], false)
	must(t, nodes.Standbys()[1].WaitForReplay(t.Context(), session.places[0].lsn.String()))
	other := NewSession()
	watcher := providers.WithReadOnly(WithSession(t.Context(), other))
	last := 0
	for range 10 {
		must(t, c.QueryRow(watcher, "select n from t").Scan(&got))
		if got < last {
			t.Errorf("%d after %d", got, last)
		}
		last = got
	}
	replay(one, false)
	if !slices.Contains([]int{100}, last) {
		t.Errorf("it never got to the newest: %d", last)
	}
}

// What a caller's text is wrong with, or a third server, has no replica put out.
func TestErrorsOfStatementsEjectNobody(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 1})
	c := openNodes(t, providers.Config{}, quick, nodes.Primary().DSN(""), nodes.Standbys()[0].DSN(""))
	until(t, c, "the standby", c.isFit(1))
	before := c.monitor.view()
	for _, sql := range []string{
		"select '\x00'", "do $$ begin raise exception using errcode = '08006'; end $$", "do $$ begin raise exception using errcode = '08P01'; end $$",
		"selec", "select 1/0", "",
	} {
		for _, ctx := range []context.Context{t.Context(), providers.WithReadOnly(t.Context())} {
			begun := time.Now()
			_, err := c.Exec(ctx, sql)
			if (err == nil) != (sql == "") || time.Since(begun) > 3*time.Second {
				t.Errorf("%q: after %s: %v", sql, time.Since(begun), err)
			}
		}
	}
	if c.monitor.view() != before {
		t.Errorf("%q", c.monitor.known())
	}
}
