package pgx

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// A function of the application throws away what is prepared on the connection.
func TestPipelinedDeallocatedBehindItsBack(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	mustExec(t, p, `create function throw_away() returns int language plpgsql as $$ begin execute 'deallocate all'; return 1; end $$`)
	reader := providers.WithReadOnly(t.Context())
	bounded, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const sql = "select coalesce(current_setting('app.tenant', true), '') || '/' || current_setting('statement_timeout')"
	tenant := []string{"app.tenant", "a"}
	for round := range 3 {
		for name, tc := range map[string]struct {
			ctx      context.Context
			settings []string
			want     string
		}{
			"settings":                  {t.Context(), tenant, "a/0"},
			"settings of a read":        {reader, tenant, "a/0"},
			"a deadline":                {bounded, nil, "/61440ms"},
			"a read with a deadline":    {providers.WithReadOnly(bounded), nil, "/61440ms"},
			"settings and a deadline":   {bounded, tenant, "a/61440ms"},
			"neither":                   {t.Context(), nil, "/0"},
			"a read with nothing at it": {reader, nil, "/0"},
		} {
			var got string
			ask := func() {
				call := scoped(providers.CallQuery, sql, nil, tc.settings...)
				if err := p.Run(tc.ctx, call); err != nil {
					t.Fatal(err)
				}
				if err := providers.FirstRow(call.Rows).Scan(&got); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the limit of the first after the loss may come too late
				ask()
			}
			if n := sent(p, ask); n != 1 || got != tc.want {
				t.Errorf("round %d, %s: sent %d times, saw %q, want %q", round, name, n, got, tc.want)
			}
		}
		_ = value[int](t, p, "select throw_away()")
		if err := p.QueryRow(reader, "select throw_away()").Scan(new(int)); err != nil {
			t.Fatal(err)
		}
	}
}

// A connection prepares a statement that was described on another one, before the
// table changed.
func TestPipelinedOtherColumnsOnAnotherConnection(t *testing.T) {
	for name, tc := range map[string]struct {
		before, change string
		want           any
	}{
		"one more":          {"create table t (v text, n int); insert into t values ('x', 1)", "alter table t add m text", "x"},
		"one less":          {"create table t (v text, n int); insert into t values ('x', 1)", "alter table t drop n", "x"},
		"a wider type":      {"create table t (v int); insert into t values (1)", "alter table t alter v type bigint", int64(1)},
		"a text":            {"create table t (v int); insert into t values (1)", "alter table t alter v type text", "1"},
		"another name":      {"create table t (z text); insert into t values ('x')", "alter table t rename z to v", "x"},
		"a type of its own": {"create type mood as enum ('x'); create table t (v int)", "drop table t; create table t (v mood); insert into t values ('x')", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			p := pipelinedPool(t, providers.Config{})
			mustExec(t, p, tc.before)
			ask := func(ctx context.Context) map[string]any {
				rows, err := p.Query(ctx, "select * from t")
				if err != nil {
					t.Fatal(err)
				}
				m, err := pgx.CollectRows(rows, pgx.RowToMap)
				switch {
				case err != nil:
					t.Error(err)
				case len(m) == 1:
					return m[0]
				}
				return nil
			}
			ask(t.Context()) // on the connection of what may write
			mustExec(t, p, tc.change)
			reader := providers.WithReadOnly(t.Context())
			for i, ctx := range []context.Context{reader, reader, t.Context(), reader, t.Context()} {
				n := sent(p, func() {
					if got := ask(ctx); got["v"] != tc.want {
						t.Errorf("%d: %v", i, got)
					}
				})
				if n == 0 {
					t.Errorf("%d was not pipelined", i)
				}
			}
		})
	}
}

// What was refused by the new connection before it ran does not fail.
func TestPipelinedArgumentsOfOtherTypesOnAnotherConnection(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	mustExec(t, p, "create table t (id text); insert into t values ('1')")
	const sql = "select id::text from t where id = $1"
	_ = value[string](t, p, sql, "1")
	mustExec(t, p, "alter table t alter id type int using id::int")
	for range 3 {
		var id string
		if err := p.QueryRow(providers.WithReadOnly(t.Context()), sql, "1").Scan(&id); err != nil || id != "1" {
			t.Errorf("%q, %v", id, err)
		}
	}
}

// Arguments that fit the table as it is now are taken. Where the server finds out, one
// call fails, as with the driver.
func TestPipelinedArgumentsThatFitNow(t *testing.T) {
	for name, tc := range map[string]struct {
		change string
		arg    any
		fails  int
	}{
		"could not be encoded before":  {"text[] using null", []string{"a"}, 0},
		"were refused by the server":   {"text", "no number", 1},
		"were refused, and are no int": {"timestamptz using null", time.Now(), 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := pipelinedPool(t, providers.Config{})
			mustExec(t, p, "create table t (v int)")
			const sql = "insert into t values ($1)"
			mustExec(t, p, sql, 1)
			mustExec(t, p, "alter table t alter v type "+tc.change)
			failed := 0
			n := sent(p, func() {
				for range 3 {
					if _, err := p.Exec(t.Context(), sql, tc.arg); err != nil {
						failed++
					}
				}
			})
			if n != 3 || failed != tc.fails {
				t.Errorf("%d were pipelined, and %d failed", n, failed)
			}
			_, err := p.Exec(t.Context(), sql, func() {})
			if err == nil || providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Errorf("an argument that never fits: %v", err)
			}
		})
	}
}

// Wrong arguments of one caller have nobody prepare the statement again.
func TestPipelinedWrongArgumentsChangeNothing(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	const sql = "select $1::int"
	_ = value[int](t, p, sql, 1)
	prepared := "select name from pg_prepared_statements where statement = $1"
	before := value[string](t, p, prepared, sql)
	for range 5 {
		for _, wrong := range []any{"no number", func() {}, []string{"a"}} {
			if err := p.QueryRow(t.Context(), sql, wrong).Scan(new(int)); err == nil {
				t.Errorf("%v was taken", wrong)
			}
			_ = value[int](t, p, sql, 1)
		}
	}
	mustExec(t, p, sql, 1) // and what was described in vain is closed
	if after := value[string](t, p, prepared, sql); after != before {
		t.Errorf("%s became %s", before, after)
	}
	if n := value[int](t, p, "select count(*)::int from pg_prepared_statements where statement = $1", sql); n != 1 {
		t.Errorf("it is prepared %d times", n)
	}
}

// Types that new connections know are known.
func TestPipelinedTypesOfNewConnections(t *testing.T) {
	p := pipelinedPool(t, providers.Config{AfterConnect: func(ctx context.Context, conn *pgx.Conn) error {
		if pair, err := conn.LoadType(ctx, "pair"); err == nil {
			conn.TypeMap().RegisterType(pair)
		}
		return nil
	}})
	for round := range 3 { // the type's OID is another one each time
		_ = value[int](t, p, "select 1")
		mustExec(t, p, "drop type if exists pair; create type pair as (a int, b text)")
		old := p.Stats().Connects
		p.Reset()
		eventually(t, "there are new connections", func() bool {
			_ = value[int](t, p, "select 1")
			return p.Stats().Connects > old && p.Stats().Pipeline.Connections > 0
		})
		for range 3 {
			var got struct {
				A int
				B string
			}
			if err := p.QueryRow(t.Context(), "select row(1, 'x')::pair").Scan(&got); err != nil || got.A != 1 || got.B != "x" {
				t.Errorf("round %d: %v, %v", round, got, err)
			}
		}
	}
}

// A table changes all the time while many read it and write to it. What they get is
// read as what it is. A plan can fail to fit more often than the statement is repeated.
func TestPipelinedTableChangesMeanwhile(t *testing.T) {
	p := pipelinedPool(t, providers.Config{Pipelining: &providers.Pipelining{}, Pool: providers.PoolStrategy{MaxSize: 6}})
	mustExec(t, p, "create table t (a int, b text default 'b')")
	mustExec(t, p, "insert into t values ($1)", 1)
	var asked, changed atomic.Int64
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			ctx, sql := t.Context(), "select * from t"
			if w%2 == 0 {
				ctx = providers.WithReadOnly(ctx)
			} else if w == 3 {
				sql = "update t set b = b returning *"
			}
			for changed.Load() < 60 && !t.Failed() {
				asked.Add(1)
				rows, err := p.Query(ctx, sql)
				if err != nil {
					t.Error(err)
					return
				}
				row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
				if pg := providers.NewPGError(err); err != nil && (pg == nil || !pg.IsStalePlan()) {
					t.Error(err)
				}
				for column, v := range row {
					switch got := fmt.Sprintf("%T %v", v, v); {
					case column == "a" && (got == "int32 1" || got == "int64 1" || got == "string 1"):
					case column == "b" && got == "string b", column[0] == 'c' && got == "int32 "+column[1:]:
					default:
						t.Errorf("%s is %s", column, got)
					}
				}
			}
		})
	}
	for i := range 60 {
		before := asked.Load()
		mustExec(t, p, fmt.Sprintf("alter table t add c%d int default %[1]d", i))
		mustExec(t, p, "alter table t alter a type "+[]string{"bigint", "text", "int using a::int"}[i%3])
		if i > 2 {
			mustExec(t, p, fmt.Sprintf("alter table t drop c%d", i-2))
		}
		if i%10 == 5 {
			p.Reset()
		}
		eventually(t, "others have looked", func() bool { return t.Failed() || asked.Load() > before+10 })
		changed.Add(1)
	}
	all.Wait()
	if s := p.Stats().Pipeline; s.Statements < 100 || s.Repeated == 0 {
		t.Errorf("it proved little: %+v", s)
	}
}
