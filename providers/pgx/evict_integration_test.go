package pgx

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// evictable opens a pool, and another that looks at it.
func evictable(t testing.TB, cfg providers.Config) (p, other *Pool, heard *troubled) {
	t.Helper()
	heard = &troubled{}
	cfg.DSN = pgtest.NewDB(t)
	other = openPool(t, cfg)
	cfg.OnTrouble = heard.hear
	p = openPool(t, cfg)
	t.Cleanup(func() {
		if all := heard.take(); len(all) > 0 {
			t.Errorf("an eviction is no trouble: %v", all)
		}
	})
	return p, other, heard
}

// backends are the sessions of a pool but its own.
func backends(t testing.TB, other *Pool, where string) int {
	t.Helper()
	return value[int](t, other, "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend' and "+where)
}

func TestEvictEndsIdleConnections(t *testing.T) {
	const size = 3
	p, other, _ := evictable(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: size}})
	releaseAll(acquireN(t, p, size))
	before := p.Stats()
	p.Evict()
	p.Evict()
	eventually(t, "the server's sessions end", func() bool { return backends(t, other, "true") == 0 })
	mustExec(t, p, "select 1")
	if after := p.Stats(); after.Closed != before.Closed+size || after.Connects != before.Connects+1 {
		t.Errorf("%+v, before %+v", after, before)
	}
}

func TestEvictRestoresMinSize(t *testing.T) {
	const size = 3
	p, _, _ := evictable(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: size, MinSize: size}})
	held := acquireN(t, p, 2)
	before := p.Stats().Connects
	p.Evict()
	releaseAll(held)
	eventually(t, "MinSize is restored", func() bool {
		s := p.Stats()
		return s.Connects == before+size && s.Open == size && s.Idle == size
	})
}

// What runs on a connection that is evicted fails as it does when it is lost.
func TestEvictEndsConnectionsInUse(t *testing.T) {
	const slow = "select pg_sleep(600)"
	for name, use := range map[string]func(ctx context.Context, p *Pool, begun func()) error{
		"statement": func(ctx context.Context, p *Pool, _ func()) error { _, err := p.Exec(ctx, slow); return err },
		"query":     func(ctx context.Context, p *Pool, _ func()) error { return p.QueryRow(ctx, slow).Scan(nil) },
		"rows": func(ctx context.Context, p *Pool, begun func()) error {
			rows, err := p.Query(ctx, "select repeat('x', 10000) from generate_series(1, 100000)")
			if err != nil {
				return err
			}
			defer rows.Close()
			rows.Next()
			begun()
			for rows.Next() {
			}
			return rows.Err()
		},
		"connection": func(ctx context.Context, p *Pool, begun func()) error {
			c, err := p.Acquire(ctx)
			if err != nil {
				return err
			}
			defer c.Release()
			begun()
			_, err = c.Exec(ctx, "select 1")
			return err
		},
		"transaction": func(ctx context.Context, p *Pool, begun func()) error {
			tx, err := p.Begin(ctx, providers.TxOptions{})
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "insert into t values (1)"); err != nil {
				return err
			}
			begun()
			err = tx.Commit(ctx)
			if o := providers.OutcomeOf(err); o != providers.OutcomeRolledBack && o != providers.OutcomeUnknown {
				t.Errorf("the outcome is %s: %v", o, err)
			}
			return err
		},
		"statement of a transaction": func(ctx context.Context, p *Pool, _ func()) error {
			tx, err := p.Begin(ctx, providers.TxOptions{})
			if err != nil {
				return err
			}
			_, _ = tx.Exec(ctx, slow)
			err = tx.Commit(ctx)
			if o := providers.OutcomeOf(err); o != providers.OutcomeRolledBack {
				t.Errorf("COMMIT was not sent, and the outcome is %s: %v", o, err)
			}
			return err
		},
		"batch": func(ctx context.Context, p *Pool, _ func()) error {
			return p.RunBatch(ctx, callOf(1, (&pgx.Batch{}).Queue(slow)))
		},
		"unwrapped": func(ctx context.Context, p *Pool, _ func()) error { _, err := p.Unwrap().Exec(ctx, slow); return err },
		"listen": func(ctx context.Context, p *Pool, begun func()) error {
			l, err := p.Listen(ctx, providers.ListenOptions{})
			if err != nil {
				return err
			}
			begun()
			_, err = l.WaitForNotification(ctx)
			return errors.Join(err, l.Close(ctx))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, other, _ := evictable(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
			mustExec(t, p, "create table t (n int)")
			failed, begun, evicted := make(chan error, 1), make(chan struct{}, 1), make(chan struct{})
			go func() { failed <- use(t.Context(), p, func() { begun <- struct{}{}; <-evicted }) }()
			eventually(t, "it is in use", func() bool {
				return len(begun) > 0 || backends(t, other, "wait_event = 'PgSleep'") > 0
			})
			p.Evict()
			close(evicted)
			err := <-failed
			if err == nil || errors.Is(err, context.Canceled) || providers.OutcomeOf(err) == providers.OutcomeCommitted {
				t.Errorf("%v", err)
			}
			if got := providers.OutcomeOf(err); name == "statement" && got != providers.OutcomeUnknown {
				t.Errorf("it was sent, and its outcome is %s: %v", got, err)
			}
			mustExec(t, p, "insert into t values (2)") // goes on
			eventually(t, "it is back", func() bool { return p.Stats().InUse == 0 })
			if sum := value[int](t, p, "select coalesce(sum(n), 0) from t"); sum != 2 {
				t.Errorf("the sum is %d", sum)
			}
		})
	}
}

func TestEvictEndsSharedConnections(t *testing.T) {
	p, other, _ := evictable(t, providers.Config{
		Pool:       providers.PoolStrategy{MaxSize: 2},
		Pipelining: &providers.Pipelining{Traffic: providers.PipelineAll, Connections: 1, ReadConnections: 1},
	})
	warm(t, p)
	lost := p.Stats().Pipeline.Lost
	failed := make(chan error, 1)
	go func() {
		_, err := p.Exec(t.Context(), "select pg_sleep(600)")
		failed <- err
	}()
	eventually(t, "it runs", func() bool { return backends(t, other, "wait_event = 'PgSleep'") > 0 })
	p.Evict()
	if err := <-failed; providers.OutcomeOf(err) != providers.OutcomeUnknown {
		t.Errorf("%v", err)
	}
	warm(t, p)
	if n := p.Stats().Pipeline.Lost; n != lost {
		t.Errorf("%d are told as lost", n-lost)
	}
}

// An attempt to connect that is under way does not outlive an eviction, and the
// acquire that waits for it does not fail for it.
func TestEvictEndsAttempts(t *testing.T) {
	dsn := pgtest.NewDB(t)
	for name, evictIn := range map[string]string{"while it dials": "dial", "while Route decides": "route", "in AfterConnect": "after"} {
		t.Run(name, func(t *testing.T) {
			var opened atomic.Pointer[Pool]
			var once sync.Once
			evict := func(where string) {
				if where == evictIn {
					once.Do(func() { opened.Load().Evict() })
				}
			}
			gone := withAddress(t, dsn, listen(t, func(c net.Conn) {
				evict("dial")
				_, _ = c.Read(make([]byte, 1)) // and no answer ever
				_, _ = c.Read(make([]byte, 1<<10))
			}))
			var asked atomic.Int32
			heard := &troubled{}
			p := balanced(t, providers.Config{
				DSN: dsn, OnTrouble: heard.hear,
				Route: func(context.Context) (string, error) {
					first := asked.Add(1) == 1
					evict("route")
					if first && evictIn != "after" {
						return gone, nil
					}
					return dsn, nil
				},
				AfterConnect: func(context.Context, *pgx.Conn) error { evict("after"); return nil },
			})
			opened.Store(p)
			begin := time.Now()
			mustExec(t, p, "select 1")
			if took := time.Since(begin); took >= providers.DefaultConnectTimeout {
				t.Errorf("it waited for %s", took)
			}
			if s := p.Stats(); asked.Load() != 2 || s.Open != 1 || s.ConnectErrors != 0 || len(heard.take()) > 0 {
				t.Errorf("asked %d times, %+v", asked.Load(), s)
			}
		})
	}
}

// TestEvictLeavesNothingOld evicts all the time, and looks at the age of what is
// handed out.
func TestEvictLeavesNothingOld(t *testing.T) {
	const callers, evictions = 8, 40
	p, _, _ := evictable(t, providers.Config{
		Pool:       providers.PoolStrategy{MaxSize: 4, MinSize: 2},
		Pipelining: &providers.Pipelining{Connections: 1, ReadConnections: 1},
	})
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var served atomic.Int64
	for range callers {
		all.Go(func() {
			for ctx.Err() == nil {
				before := p.epoch.Load()
				c, err := p.Acquire(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				if s := c.(*Conn).lease.s; s.epoch != before && !before.over() {
					t.Error("a connection was handed out that was evicted before")
				}
				if _, err := c.Exec(context.Background(), "select 1"); err == nil {
					served.Add(1)
				}
				c.Release()
				if rand.N(4) == 0 {
					_, _ = p.Exec(providers.WithPipelined(context.Background(), true), "select 1")
				}
			}
		})
	}
	for range evictions {
		n := served.Load()
		eventually(t, "callers are served", func() bool { return served.Load() > n+callers })
		p.Evict()
	}
	stop()
	all.Wait()
	eventually(t, "all are back", func() bool { return p.Stats().InUse == 0 })
	for _, s := range p.allSessions() {
		if s.isOld() {
			eventually(t, "an evicted connection is gone", func() bool {
				p.sessionsMu.Lock()
				defer p.sessionsMu.Unlock()
				_, there := p.sessions[s]
				return !there
			})
		}
	}
	if s := p.Stats(); s.Open > 4 || s.Open < 0 || p.gauges.open.Load() < 0 {
		t.Errorf("%+v", s)
	}
	mustExec(t, p, "select 1")
}

func TestEvictAfterClose(t *testing.T) {
	p := openPool(t, providers.Config{})
	mustExec(t, p, "select 1")
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Evict()
}
