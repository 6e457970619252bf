package pgx

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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
