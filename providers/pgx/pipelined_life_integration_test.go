package pgx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

func TestPipelinedConnectionsAreReplaced(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	pid := func() int { return value[int](t, p, "select pg_backend_pid()") }
	old := pid()
	p.Reset()
	eventually(t, "another connection is used", func() bool { return pid() != old })
	// One that was killed while it was idle is found out before it is used.
	p = pipelinedPool(t, providers.Config{Pipelining: &providers.Pipelining{Connections: 1, ReadConnections: 1}, DSN: p.cfg.DSN}, everyTime)
	killer := openPool(t, providers.Config{DSN: p.cfg.DSN, Pool: providers.PoolStrategy{MaxSize: 1}})
	warm(t, p)
	mustExec(t, killer, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
	mustExec(t, p, "create table if not exists t (n int)")
	for range 5 {
		if _, err := p.Exec(t.Context(), "insert into t values ($1)", 1); err != nil {
			t.Errorf("a dead connection was used: %v", err)
		}
	}
	p.pipelined.engine.Tick(time.Now().Add(1000 * time.Hour))
	eventually(t, "old connections are closed", func() bool { return p.Stats().Pipeline.Connections == 0 })
}

func TestPipelinedForgetsOldStatements(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	for i := range pipelineStatements + 200 {
		if got := value[int](t, p, fmt.Sprintf("select %d", i)); got != i {
			t.Fatalf("%d instead of %d", got, i)
		}
	}
	for i := range 50 { // those at the beginning are gone, and prepared anew
		if got := value[int](t, p, fmt.Sprintf("select %d", i)); got != i {
			t.Fatalf("%d instead of %d", got, i)
		}
	}
	if n := value[int](t, p, "select count(*)::int from pg_prepared_statements"); n > pipelineStatements+10 {
		t.Errorf("%d statements are prepared", n)
	}
}

func TestPipelinedCannotConnect(t *testing.T) {
	var logged logBuffer
	p := openPool(t, providers.Config{
		DSN: withPassword(t, closedPort(t)), Pipelining: &providers.Pipelining{}, Logger: logged.logger(),
		ConnectTimeout: time.Second,
	})
	eventually(t, "the attempt failed", func() bool {
		_, err := p.Exec(t.Context(), "select 1")
		if !errors.Is(err, providers.ErrUnreachable) {
			t.Fatalf("want unreachable, got %v", err)
		}
		return bytes.Contains([]byte(logged.String()), []byte("pipelined connection"))
	})
	if strings.Contains(logged.String(), "s3cret") {
		t.Error("the log has the password")
	}
}

func withPassword(t testing.TB, address string) string {
	t.Helper()
	return "postgres://u:s3cret@" + address + "/d"
}

func TestPipelinedClosed(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	mustExec(t, p, waiter)
	other := openPool(t, providers.Config{DSN: p.cfg.DSN})
	lock := begin(t, other, providers.TxOptions{})
	mustExec(t, lock, "select pg_advisory_xact_lock(4711)")
	var err error
	var done sync.WaitGroup
	done.Go(func() { _, err = p.Exec(t.Context(), "select wait_for_it()") })
	eventually(t, "it is under way, and not only being described", func() bool {
		return value[int](t, other, "select count(*)::int from pg_locks where locktype = 'advisory' and not granted") > 0
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_ = p.Close(ctx)
	done.Wait()
	if err == nil || providers.OutcomeOf(err) != providers.OutcomeUnknown {
		t.Errorf("a statement that Close cut off: %v", err)
	}
	if _, err := p.Exec(t.Context(), "select 1"); !errors.Is(err, providers.ErrPoolClosed) {
		t.Errorf("on a closed pool: %v", err)
	}
	mustRollback(t, lock)
}
