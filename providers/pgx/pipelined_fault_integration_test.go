package pgx

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
	"github.com/pgkeel/pgkeel/providers"
)

// ledger is what callers were told about their writes.
type ledger struct {
	mu   sync.Mutex
	told map[int64]error
}

func (l *ledger) note(id int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told[id] = err
}

// check holds what callers were told against what is in the table.
func (l *ledger) check(t testing.TB, p *Pool) (unknown int) {
	t.Helper()
	rows, err := p.Query(t.Context(), "select id, count(*) from w group by id")
	if err != nil {
		t.Fatal(err)
	}
	there := map[int64]int{}
	for rows.Next() {
		var id int64
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			t.Fatal(err)
		}
		there[id] = n
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, err := range l.told {
		switch n := there[id]; {
		case n > 1:
			t.Errorf("write %d was applied %d times", id, n)
		case err == nil && n == 0:
			t.Errorf("write %d was acknowledged and is lost", id)
		case err == nil:
		case providers.OutcomeOf(err) == providers.OutcomeUnknown:
			unknown++
		case providers.OutcomeOf(err) == providers.OutcomeCommitted && n == 0, providers.OutcomeOf(err) != providers.OutcomeCommitted && n == 1:
			t.Errorf("write %d: told %v (%v), there %d times", id, providers.OutcomeOf(err), err, n)
		}
	}
	return unknown
}

// TestPipelinedLosesNothing kills backends at random while many callers write
// and read.
func TestPipelinedLosesNothing(t *testing.T) {
	dsn := pgtest.NewDB(t)
	p := openPool(t, providers.Config{
		DSN: dsn, Pool: providers.PoolStrategy{MaxSize: 3}, Logger: slog.New(slog.DiscardHandler),
		Pipelining: &providers.Pipelining{Connections: 2, ReadConnections: 2},
	})
	mustExec(t, p, "create table w (id bigint)")
	killer := openPool(t, providers.Config{DSN: dsn, Pool: providers.PoolStrategy{MaxSize: 1}})
	l := &ledger{told: map[int64]error{}}
	ctx, stop := context.WithCancel(t.Context())
	var next atomic.Int64
	var callers, kills sync.WaitGroup
	for w := range 16 {
		callers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 7))
			for ctx.Err() == nil {
				if r.IntN(2) == 0 {
					id := next.Add(1)
					_, err := p.Exec(t.Context(), "insert into w values ($1)", id)
					l.note(id, err)
					continue
				}
				var n int
				ctx := providers.WithReadOnly(t.Context())
				// The connection of the pool that a read is moved to can be hit, too.
				if err := p.QueryRow(ctx, "select 1 + $1::int", w).Scan(&n); err == nil && n != w+1 {
					t.Errorf("read %d instead of %d", n, w+1)
				}
			}
		})
	}
	kills.Go(func() {
		for range 40 {
			_, _ = killer.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid() order by random() limit 1`)
			before := next.Load()
			eventually(t, "writes go on", func() bool { return next.Load() > before+20 })
		}
	})
	kills.Wait()
	stop()
	callers.Wait()
	unknown := l.check(t, killer)
	s := p.Stats().Pipeline
	if s.Lost == 0 || s.Statements < 500 {
		t.Errorf("it proved little: %+v", *s)
	}
	t.Logf("%d writes, %d of them with an unknown outcome; %+v", next.Load(), unknown, *s)
}

// TestPipelinedFaultAtEveryMessage loses the connection at each message of a scenario
// in turn, those by which it is made included, in both directions.
func TestPipelinedFaultAtEveryMessage(t *testing.T) {
	dsn, runs := pgtest.NewDB(t), 0
	one := func(testing.TB) string { return dsn } // emptied for each run
	fault.EachMessage(t, one, fault.CutAfter, func(t *testing.T, proxy *fault.Proxy) {
		runs++
		playThrough(t, proxy)
	})
	if runs < 100 {
		t.Errorf("the scenario has only %d messages", runs)
	}
}

// playThrough reads and writes through a proxy, and holds what callers were told
// against what is in the table.
func playThrough(t *testing.T, proxy *fault.Proxy) {
	upstream := openPool(t, providers.Config{DSN: proxy.Upstream(), Pool: providers.PoolStrategy{MaxSize: 1}})
	mustExec(t, upstream, "drop table if exists w; create table w (id bigint)")
	p := openPool(t, providers.Config{
		DSN: proxy.DSN(), Pool: providers.PoolStrategy{MaxSize: 2}, Logger: slog.New(slog.DiscardHandler),
		Pipelining: &providers.Pipelining{Connections: 1, ReadConnections: 1, SlowAfter: time.Hour},
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	works := func() bool {
		var m int
		return p.QueryRow(ctx, "select 1").Scan(&m) == nil && p.QueryRow(providers.WithReadOnly(ctx), "select 1").Scan(&m) == nil
	}
	eventually(t, "shared connections are open", func() bool { return works() && p.Stats().Pipeline.Connections == 2 })
	l := &ledger{told: map[int64]error{}}
	var all sync.WaitGroup
	for i := range int64(4) {
		all.Go(func() {
			_, err := p.Exec(ctx, "insert into w values ($1)", i)
			l.note(i, err)
			var m int64
			if err := p.QueryRow(providers.WithReadOnly(ctx), "select $1::bigint", i).Scan(&m); err != nil && !isTyped(err) || err == nil && m != i {
				t.Errorf("a read ended with %d, %v", m, err)
			}
			l.note(i+100, p.QueryRow(ctx, "insert into w values ($1) returning id", i+100).Scan(&m))
		})
	}
	all.Wait()
	for id, err := range l.told {
		if err != nil && !isTyped(err) {
			t.Errorf("write %d ended with %v", id, err)
		}
	}
	eventually(t, "the handle works on", works)
	closing, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Close(closing); err != nil {
		t.Error(err)
	}
	// A session that was cut off may not even have read what it was sent, and looks idle.
	// It ends once it has: what it writes later would be found by the next run.
	eventually(t, "the server has noticed what it lost", func() bool { return backends(t, upstream, "true") == 0 })
	l.check(t, upstream)
}

// warm waits until the shared connections are there.
func warm(t testing.TB, p *Pool) {
	t.Helper()
	want := int32(0)
	o := p.cfg.Pipelining.Resolved()
	if o.Connections > 0 {
		want++
	}
	if o.ReadConnections > 0 {
		want++
	}
	eventually(t, "shared connections are open", func() bool {
		mustExec(t, p, "select 1")
		var n int
		if err := p.QueryRow(providers.WithReadOnly(t.Context()), "select 1").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return p.Stats().Pipeline.Connections >= want
	})
}

// isTyped reports whether an error says what happened, or that nobody knows.
func isTyped(err error) bool {
	var told interface{ Outcome() providers.Outcome }
	var pg *providers.PGError
	return errors.As(err, &told) || errors.As(err, &pg)
}

// TestTrap28PipelinedCancelsNobody has callers give up at random: their own wait ends
// in time, and no other's statement is hit.
func TestTrap28PipelinedCancelsNobody(t *testing.T) {
	p := openPool(t, providers.Config{
		Pool: providers.PoolStrategy{MaxSize: 4}, Pipelining: &providers.Pipelining{Connections: 1, ReadConnections: 1},
	})
	warm(t, p)
	var all sync.WaitGroup
	for w := range 12 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 9))
			for range 60 {
				impatient := r.IntN(3) == 0
				ctx, cancel := context.WithCancel(t.Context())
				if r.IntN(2) == 0 {
					ctx = providers.WithReadOnly(ctx)
				}
				if impatient {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(3000))*time.Microsecond)
				}
				var n int
				err := p.QueryRow(ctx, "select $1::int from pg_sleep($2)", w, float64(r.IntN(3))/1000).Scan(&n)
				var timeout interface{ Timeout() bool } // a TimeoutError, or an ExhaustedError
				switch {
				case err == nil && n != w:
					t.Errorf("%d got the answer of %d", w, n)
				case err != nil && !impatient:
					t.Errorf("a statement of somebody who waits failed: %v", err)
				case err != nil && (!errors.As(err, &timeout) || !timeout.Timeout() || !errors.Is(err, context.DeadlineExceeded)):
					t.Errorf("not a timeout: %v", err)
				}
				cancel()
			}
		})
	}
	all.Wait()
	eventually(t, "nothing is under way", func() bool { return p.Stats().Pipeline.Depth == 0 })
}

// TestPipelinedClosedWhileInUse closes a pool, and before that replaces and ends its
// connections, while many use it.
func TestPipelinedClosedWhileInUse(t *testing.T) {
	dsn := pgtest.NewDB(t)
	setup := openPool(t, providers.Config{DSN: dsn, Pool: providers.PoolStrategy{MaxSize: 1}})
	mustExec(t, setup, "create table w (id bigint)")
	for round := range int64(12) {
		p := openPool(t, providers.Config{
			DSN: dsn, Pool: providers.PoolStrategy{MaxSize: 3}, Pipelining: &providers.Pipelining{},
			Logger: slog.New(slog.DiscardHandler),
		})
		l := &ledger{told: map[int64]error{}}
		var done atomic.Int64
		var all sync.WaitGroup
		for w := range int64(12) {
			all.Go(func() {
				for i := int64(0); ; i++ {
					id := (round*12+w)*100_000 + i
					var n int64
					var err error
					if i%2 == 0 {
						_, err = p.Exec(t.Context(), "insert into w values ($1)", id)
						l.note(id, err)
					} else if err = p.QueryRow(providers.WithReadOnly(t.Context()), "select $1::int8", id).Scan(&n); err == nil && n != id {
						t.Errorf("%d got the answer of %d", id, n)
					}
					if errors.Is(err, providers.ErrPoolClosed) {
						return
					}
					if err != nil && !isTyped(err) && !pgconn.SafeToRetry(err) {
						t.Error(err)
					}
					switch done.Add(1) % 97 {
					case 30:
						p.Reset()
					case 60:
						p.pipelined.evict()
					}
				}
			})
		}
		eventually(t, "it is in use", func() bool { return done.Load() > 30*round })
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(round)*time.Millisecond)
		_ = p.Close(ctx)
		cancel()
		all.Wait()
		l.check(t, setup)
		mustExec(t, setup, "truncate w")
	}
}
