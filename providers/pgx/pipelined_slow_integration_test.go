package pgx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

func TestPipelinedDeadline(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	mustExec(t, p, waiter)
	observer := openPool(t, providers.Config{DSN: p.cfg.DSN, Pool: providers.PoolStrategy{MaxSize: 1}})
	_, _ = p.Exec(t.Context(), "select wait_for_it()") // described, and harmless
	lock := begin(t, p, providers.TxOptions{})
	defer func() { _ = lock.Rollback(t.Context()) }()
	mustExec(t, lock, "select pg_advisory_xact_lock(4711)")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := p.Exec(ctx, "select wait_for_it()")
	var timeout *providers.TimeoutError
	if !errors.As(err, &timeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("not a timeout: %v", err)
	}
	if took := time.Since(start); took > patience/2 {
		t.Errorf("the caller came back after %s", took)
	}
	eventually(t, "the server ended the statement by itself", func() bool {
		return value[int](t, observer, "select count(*)::int from pg_locks where locktype = 'advisory' and not granted") == 0
	})
	eventually(t, "nothing is under way", func() bool { return p.Stats().Pipeline.Depth == 0 })
	if got := value[string](t, p, "select current_setting('statement_timeout')"); got != "0" {
		t.Errorf("the next statement got a limit of %s", got)
	}
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ctx := range []context.Context{dead, providers.WithReadOnly(dead)} {
		_, err := p.Exec(ctx, "select 1")
		if !errors.Is(err, context.Canceled) || providers.OutcomeOf(err) == providers.OutcomeCommitted {
			t.Errorf("with a dead context: %v", err)
		}
	}
}

// TestPipelinedOrphanIsStopped cancels a statement that has no deadline: the
// server is asked to stop once nobody else is on the connection.
func TestPipelinedOrphanIsStopped(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	observer := openPool(t, providers.Config{DSN: p.cfg.DSN, Pool: providers.PoolStrategy{MaxSize: 1}})
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _, _ = p.Exec(ctx, "select pg_sleep(1000)") })
	sleeping := func() bool {
		return value[int](t, observer, "select count(*)::int from pg_stat_activity where query like 'select pg_sleep(1000)%' and state = 'active' and pid <> pg_backend_pid()") == 1
	}
	eventually(t, "it sleeps", sleeping)
	cancel()
	done.Wait()
	eventually(t, "the server stopped", func() bool { return !sleeping() })
	eventually(t, "the handle works on", func() bool { _, err := p.Exec(t.Context(), "select 1"); return err == nil })
}

func TestPipelinedLargeResults(t *testing.T) {
	p := pipelinedPool(t, providers.Config{Pipelining: &providers.Pipelining{Connections: 1, ReadConnections: 1, MaxResultBytes: 1000}})
	mustExec(t, p, "create table t (s text)")
	ctx := providers.WithReadOnly(t.Context())
	for range 3 {
		var s string
		if err := p.QueryRow(ctx, "select repeat('x', 5000)").Scan(&s); err != nil || len(s) != 5000 {
			t.Fatalf("%d bytes, %v", len(s), err)
		}
	}
	if s := p.Stats().Pipeline; s.Large != 1 || s.Slow < 2 {
		t.Errorf("the large result is to be found out once: %+v", s)
	}
	if n := sent(p, func() { mustExec(t, declaring{p}, "select repeat('z', 5000)") }); n == 0 || p.Stats().Pipeline.Large != 1 {
		t.Error("a result that nobody looks at counts as large")
	}
	var s string
	if err := p.QueryRow(t.Context(), "insert into t values (repeat('x', $1)) returning s", 5000).Scan(&s); err != nil || len(s) != 5000 {
		t.Errorf("a write's result has more room: %v", err)
	}
	err := p.QueryRow(t.Context(), "insert into t values (repeat('y', $1)) returning s", 64_001).Scan(&s)
	if err == nil || providers.OutcomeOf(err) != providers.OutcomeCommitted || !strings.Contains(err.Error(), "MaxResultBytes") {
		t.Errorf("a write that returns too much: %v (%v)", err, providers.OutcomeOf(err))
	}
	if n := value[int](t, p, "select count(*)::int from t where s like 'y%'"); n != 1 {
		t.Errorf("it was done %d times", n)
	}
}

// TestPipelinedReadsMoveAway has something slow at the head of the line.
func TestPipelinedReadsMoveAway(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	mustExec(t, p, waiter)
	ctx := providers.WithReadOnly(t.Context())
	_, _ = p.Exec(ctx, "select wait_for_it()")
	if n := value[int](t, p, "select 1"); n != 1 {
		t.Fatal(n)
	}
	release := heldUp(ctx, t, p)
	defer release()
	for range 20 {
		done, cancel := context.WithTimeout(ctx, patience)
		var n int
		if err := p.QueryRow(done, "select 1").Scan(&n); err != nil {
			t.Fatalf("a read waited behind a slow one: %v", err)
		}
		cancel()
	}
}

// TestTrap27PipelinedLargeBothWays has new connections prepare long statements
// that return much, all at once.
func TestTrap27PipelinedLargeBothWays(t *testing.T) {
	p := pipelinedPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 2}})
	ctx, cancel := context.WithTimeout(providers.WithReadOnly(t.Context()), 3*patience)
	defer cancel()
	ask := func(i int) {
		sql := fmt.Sprintf("select repeat('%d', 200000), '%s'", i%10, strings.Repeat("x", 30_000+i))
		var s string
		if err := p.QueryRow(ctx, sql).Scan(&s, new(string)); err != nil || len(s) != 200_000 {
			t.Errorf("statement %d: %d bytes, %v", i, len(s), err)
		}
	}
	for range 2 {
		var all sync.WaitGroup
		for i := range 80 {
			all.Go(func() { ask(i) })
		}
		all.Wait()
		p.Reset()
		eventually(t, "new connections are there", func() bool {
			_ = value[int](t, p, "select 1")
			return p.Stats().Pipeline.Connections > 0
		})
	}
}

// declaring declares what it executes to only read.
type declaring struct{ *Pool }

func (d declaring) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return d.Pool.Exec(providers.WithReadOnly(ctx), sql, args...)
}
