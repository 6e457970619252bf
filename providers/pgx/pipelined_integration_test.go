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

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// pipelinedPool is a pool whose shared connections are open. Nothing counts as
// slow, since the machine may be.
func pipelinedPool(t testing.TB, cfg providers.Config, changes ...func(*Pool)) *Pool {
	t.Helper()
	if cfg.Pipelining == nil {
		cfg.Pipelining = &providers.Pipelining{Connections: 1, ReadConnections: 1}
	}
	if cfg.Pipelining.SlowAfter == 0 {
		cfg.Pipelining.SlowAfter = time.Hour
	}
	if cfg.Pool.MaxSize == 0 {
		cfg.Pool.MaxSize = 4
	}
	p := openPool(t, cfg)
	for _, change := range changes {
		change(p)
	}
	if cfg.Pipelining.Traffic == providers.PipelineAll {
		warm(t, p)
	}
	return p
}

// everyTime has the engine ping idle connections every time.
func everyTime(p *Pool) {
	p.pipelined.close(ended())
	p.pingAfter = 0
	p.pipelined = p.newPipelined()
}

// sent is how many statements were pipelined while something was done.
func sent(p *Pool, do func()) int64 {
	before := p.Stats().Pipeline.Statements
	do()
	return p.Stats().Pipeline.Statements - before
}

// heldUp runs a statement that holds up the shared connection until the
// returned function lets it go on.
func heldUp(ctx context.Context, t testing.TB, p *Pool) (release func()) {
	t.Helper()
	lock := begin(t, p, providers.TxOptions{})
	mustExec(t, lock, "select pg_advisory_xact_lock(4711)")
	var done sync.WaitGroup
	done.Go(func() {
		// The lock is asked for by a function that looks like any other.
		if _, err := p.Exec(ctx, "select wait_for_it()"); err != nil && ctx.Err() == nil {
			t.Errorf("the statement that waited: %v", err)
		}
	})
	observer := openPool(t, providers.Config{DSN: p.cfg.DSN, Pool: providers.PoolStrategy{MaxSize: 1}})
	eventually(t, "the statement waits", func() bool {
		return value[int](t, observer, "select count(*)::int from pg_locks where locktype = 'advisory' and not granted") > 0
	})
	return func() {
		mustRollback(t, lock)
		done.Wait()
	}
}

const waiter = `create function wait_for_it() returns int language sql as 'select pg_advisory_xact_lock(4711); select 1'`

func TestPipelinedWhatIsPipelined(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	mustExec(t, p, "create table t (n int); create temp table x (n int)")
	for name, tc := range map[string]struct {
		sql  string
		args []any
		want bool
	}{
		"select":                 {"select 1", nil, true},
		"comment first":          {"-- name: Get :one\n select 2", nil, true},
		"insert":                 {"insert into t values ($1)", []any{1}, true},
		"update":                 {"update t set n = $1", []any{1}, true},
		"delete":                 {"DELETE FROM t", nil, true},
		"with":                   {"with a as (select 1) select * from a", nil, true},
		"values":                 {"values (1)", nil, true},
		"table":                  {"table t", nil, true},
		"semicolons at the end":  {"select 3;;", nil, true},
		"semicolon in a literal": {"select 'a; b'", nil, true},
		"named arguments":        {"select @a::int", []any{pgx.NamedArgs{"a": 1}}, true},
		"strict named arguments": {"select @a::int", []any{pgx.StrictNamedArgs{"a": 1}}, true},
		"two statements":         {"select 1; select 2", nil, false},
		"set":                    {"set application_name = 'x'", nil, false},
		"set_config":             {"select set_config('application_name', 'x', false)", nil, false},
		"advisory lock":          {"select pg_advisory_lock(1)", nil, false},
		"listen":                 {"listen a", nil, false},
		"begin":                  {"begin; rollback", nil, false},
		"do":                     {"do $$ begin end $$", nil, false},
		"create":                 {"create table u (n int)", nil, false},
		"copy":                   {"copy (select 1) to program 'cat > /dev/null'", nil, false},
		"an option of pgx":       {"select 4", []any{pgx.QueryExecModeExec}, false},
		"large argument":         {"select length($1::text)", []any{strings.Repeat("x", 100_000)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := sent(p, func() {
				if _, err := p.Exec(t.Context(), tc.sql, tc.args...); err != nil {
					t.Error(err)
				}
			})
			// The first time it is described as well; one too large only that.
			if name != "large argument" && (n > 0) != tc.want {
				t.Errorf("%d statements pipelined", n)
			}
		})
	}
}

func TestPipelinedTraffic(t *testing.T) {
	for name, tc := range map[string]struct {
		traffic     providers.PipelineTraffic
		ctx         func(context.Context) context.Context
		readOnly    bool
		wantSomeone bool
	}{
		"all":                      {traffic: providers.PipelineAll, wantSomeone: true},
		"all, opted out":           {traffic: providers.PipelineAll, ctx: optOut},
		"reads, of a write":        {traffic: providers.PipelineReads},
		"reads, of a write, asked": {traffic: providers.PipelineReads, ctx: optIn},
		"reads, of a read":         {traffic: providers.PipelineReads, readOnly: true, wantSomeone: true},
		"on request, not asked":    {traffic: providers.PipelineOnRequest, readOnly: true},
		"on request, asked":        {traffic: providers.PipelineOnRequest, ctx: optIn, wantSomeone: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := pipelinedPool(t, providers.Config{Pipelining: &providers.Pipelining{Traffic: tc.traffic}})
			ctx := t.Context()
			if tc.ctx != nil {
				ctx = tc.ctx(ctx)
			}
			if tc.readOnly {
				ctx = providers.WithReadOnly(ctx)
			}
			ask := func() bool {
				return sent(p, func() { _, _ = p.Exec(ctx, "select 1") }) > 0
			}
			if tc.wantSomeone {
				eventually(t, "it is pipelined", ask)
				return
			}
			for range 5 {
				if ask() {
					t.Fatal("it was pipelined")
				}
			}
		})
	}
}

func optIn(ctx context.Context) context.Context  { return providers.WithPipelined(ctx, true) }
func optOut(ctx context.Context) context.Context { return providers.WithPipelined(ctx, false) }

func TestPipelinedScopeHoldsForOneStatement(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	const seen = `select coalesce(current_setting('app.tenant', true), '') || '/' || current_setting('statement_timeout')`
	var all sync.WaitGroup
	for w := range 16 {
		all.Go(func() {
			for i := range 20 {
				tenant := fmt.Sprintf("tenant-%d", w)
				call := scoped(providers.CallQuery, seen, nil, "app.tenant", tenant, "statement_timeout", "7s")
				want := tenant + "/7s"
				ctx := t.Context()
				if i%2 == 0 {
					ctx = providers.WithReadOnly(ctx)
				}
				if i%5 == 0 {
					call = scoped(providers.CallQuery, seen, nil)
					want = "/0"
				}
				if err := p.Run(ctx, call); err != nil {
					t.Error(err)
					return
				}
				var got string
				if err := providers.FirstRow(call.Rows).Scan(&got); err != nil || got != want {
					t.Errorf("saw %q (%v), want %q", got, err, want)
				}
			}
		})
	}
	all.Wait()
	if s := p.Stats().Pipeline; s.Statements < 100 {
		t.Errorf("it proved little: %+v", s)
	}
}

func TestPipelinedScopeThatFailsTakesTheStatementWithIt(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	mustExec(t, p, "create table t (n int)")
	mustExec(t, p, "insert into t values ($1)", 0)
	n := sent(p, func() {
		call := scoped(providers.CallExec, "insert into t values ($1)", []any{1}, "app.tenant", "a", "work_mem", "no size")
		err := p.Run(t.Context(), call)
		if pg := providers.NewPGError(err); pg == nil || pg.Code != "22023" {
			t.Errorf("want invalid parameter value, got %v", err)
		}
	})
	if n != 1 || value[int](t, p, "select count(*)::int from t") != 1 {
		t.Errorf("%d pipelined, or the statement ran without its setting", n)
	}
	// Settings that decide what names mean are not for a shared connection.
	n = sent(p, func() {
		call := scoped(providers.CallExec, "insert into t values ($1)", []any{1}, "search_path", "public")
		if err := p.Run(t.Context(), call); err != nil {
			t.Error(err)
		}
	})
	if n != 0 {
		t.Error("a search_path travelled on a shared connection")
	}
}

// TestTrap26PipelinedErrorsStay groups reads of which some fail.
func TestTrap26PipelinedErrorsStay(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	mustExec(t, p, waiter)
	ctx := providers.WithReadOnly(t.Context())
	mustQuery := func(n int) (int, error) {
		var got int
		err := p.QueryRow(ctx, "select 100 / $1::int", n).Scan(&got)
		return got, err
	}
	if _, err := mustQuery(1); err != nil {
		t.Fatal(err)
	}
	before := *p.Stats().Pipeline
	release := heldUp(ctx, t, p)
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			n := i % 4
			got, err := mustQuery(n)
			pg := providers.NewPGError(err)
			switch {
			case n == 0 && (pg == nil || pg.Code != "22012"):
				t.Errorf("a division by zero ended with %v", err)
			case n > 0 && (err != nil || got != 100/n):
				t.Errorf("100/%d is %d, %v", n, got, err)
			}
		})
	}
	all.Wait()
	release()
	after := *p.Stats().Pipeline
	t.Logf("%d statements in %d segments, %d again", after.Statements-before.Statements, after.Segments-before.Segments, after.Repeated-before.Repeated)
}

func TestPipelinedWriteDeclaredReadOnly(t *testing.T) {
	for name, pipelining := range map[string]*providers.Pipelining{"pipelined": {}, "pooled": nil} {
		t.Run(name, func(t *testing.T) {
			p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 3}, Pipelining: pipelining})
			if pipelining != nil {
				warm(t, p)
			}
			mustExec(t, p, "create table t (n int)")
			ctx := providers.WithReadOnly(t.Context())
			c := acquireN(t, p, 1)[0]
			defer c.Release()
			for what, q := range map[string]providers.Querier{"pool": p, "conn": c} {
				for range 2 {
					_, err := q.Exec(ctx, "insert into t values ($1)", 1)
					pg := providers.NewPGError(err)
					if pg == nil || !pg.IsReadOnly() || !strings.Contains(err.Error(), "Reader") {
						t.Errorf("%s: %v", what, err)
					}
					if providers.OutcomeOf(err) != providers.OutcomeRolledBack {
						t.Errorf("%s: outcome %v", what, providers.OutcomeOf(err))
					}
				}
				if n := value[int](t, q, "select count(*)::int from t"); n != 0 {
					t.Errorf("%s: %d rows were written", what, n)
				}
			}
			tx := begin(t, p, providers.TxOptions{})
			if _, err := tx.Exec(ctx, "insert into t values (1)"); err != nil {
				t.Errorf("in a transaction its own access mode counts: %v", err)
			}
			mustCommit(t, tx)
		})
	}
}

// TestTrap15Pipelined changes the schema under prepared statements.
func TestTrap15Pipelined(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	mustExec(t, p, "create table t (a int)")
	mustExec(t, p, "insert into t values ($1)", 1)
	for i, change := range []string{
		"alter table t add b text default 'b'", "alter table t alter a type bigint", "alter table t add c timestamptz default now()",
		"alter table t drop b", "drop table t; create table t (z text, a int); insert into t values ('z', 1)",
	} {
		for _, ctx := range []context.Context{t.Context(), providers.WithReadOnly(t.Context())} {
			for range 2 {
				rows, err := p.Query(ctx, "select * from t")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := pgx.CollectRows(rows, pgx.RowToMap); err != nil {
					t.Errorf("before change %d: %v", i, err)
				}
			}
		}
		if n := sent(p, func() { mustExec(t, p, "update t set a = a where a = $1", 1) }); n == 0 {
			t.Error("the update was not pipelined")
		}
		mustExec(t, p, change)
	}
	if value[string](t, p, "select z from t") != "z" {
		t.Error("the last change is not seen")
	}
}

// A statement whose arguments have other types now fails once, as with the driver.
func TestPipelinedArgumentsOfOtherTypes(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	mustExec(t, p, "create table t (id text)")
	mustExec(t, p, "insert into t values ($1)", "1")
	for _, ctx := range []context.Context{t.Context(), providers.WithReadOnly(t.Context())} {
		ask := func() error {
			var id string
			return p.QueryRow(ctx, "select id::text from t where id = $1", "1").Scan(&id)
		}
		for _, kind := range []string{"int", "text"} {
			if err := ask(); err != nil {
				t.Fatal(err)
			}
			mustExec(t, p, "alter table t alter id type "+kind+" using id::"+kind)
			first := ask()
			for range 2 {
				if err := ask(); err != nil {
					t.Errorf("%v, after %v", err, first)
				}
			}
		}
	}
}

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

// declaring declares what it executes to only read.
type declaring struct{ *Pool }

func (d declaring) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return d.Pool.Exec(providers.WithReadOnly(ctx), sql, args...)
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
