package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

func plan(t testing.TB, s *stage, o PolicyOptions) []string {
	t.Helper()
	if o.Setting == "" {
		o.Setting = "app.tenant_id"
	}
	p, err := Policies(t.Context(), s.admin, o)
	if err != nil {
		t.Fatal(err)
	}
	if sql := p.SQL(); strings.Count(sql, ";\n") != len(p.Statements()) {
		t.Errorf("%q", sql)
	}
	return p.Statements()
}

func TestPoliciesForEveryType(t *testing.T) {
	types := map[string]string{
		"int": "1", "bigint": "2", "text": "acme", "varchar(20)": "acme", "char(8)": "acme", "uuid": "00000000-0000-0000-0000-000000000001",
		"numeric(10,2)": "1.50", "name": "acme", `"My Domain"`: "7",
	}
	s := newStage(t, `create domain "My Domain" as int check (value > 0)`)
	for typ, id := range types {
		s.exec(t, fmt.Sprintf(`drop table if exists t; create table t ("the Tenant's" %s, v text); alter table t owner to APP;
			insert into t values ('%s', 'mine'), (null, 'nobody''s')`, typ, id))
		o := PolicyOptions{Column: "the Tenant's"}
		s.policies(t, o)
		if again := plan(t, s, o); len(again) != 0 {
			t.Errorf("%s: a second time %q", typ, again)
		}
		pool := mustOpen(t, RLS("app.tenant_id", TenantColumn("the Tenant's")), providers.Config{DSN: s.appDSN})
		if got := value[string](tenant(t, id), t, pool, `select string_agg(v, ',') from t`); got != "mine" {
			t.Errorf("%s: %q", typ, got)
		}
		if _, err := pool.Exec(tenant(t, id), `insert into t values (null, 'x')`); err == nil {
			t.Errorf("%s: a row of nobody was written", typ)
		}
	}
}

func TestPoliciesDoOnlyWhatIsMissing(t *testing.T) {
	s := newStage(t, `create table t (tenant_id int, v text); create schema "S"; create table "S"."T" (tenant_id int, v text);
		create index on "S"."T" (tenant_id, v); create table of_nobody (v text)`)
	all := plan(t, s, PolicyOptions{})
	is := `tenant_id" = (select nullif(current_setting('app.tenant_id', true), '')::integer)`
	want := []string{
		`create policy "pgkeel_tenant" on "S"."T" using ("` + is + `) with check ("` + is + `)`,
		`alter table "S"."T" enable row level security, force row level security`,
		`create index concurrently on "public"."t" ("tenant_id")`,
		`create policy "pgkeel_tenant" on "public"."t" using ("` + is + `) with check ("` + is + `)`,
		`alter table "public"."t" enable row level security, force row level security`,
	}
	if !slices.Equal(all, want) {
		t.Errorf("%q", all)
	}
	for o, n := range map[*PolicyOptions]int{
		{Schemas: []string{"S"}}: 2, {Tables: []string{"t"}}: 3, {Tables: []string{"S.T"}}: 2,
		{Skip: []string{"public.t", "T"}}: 0, {Column: "org"}: 0,
	} {
		if got := plan(t, s, *o); len(got) != n {
			t.Errorf("%+v: %q", o, got)
		}
	}
	if got := plan(t, s, PolicyOptions{Tables: []string{"t"}, InTransaction: true})[0]; got != `create index on "public"."t" ("tenant_id")` {
		t.Error(got)
	}

	// An index of some rows only is none, and so is one that begins with another column.
	s.exec(t, `create index on t (tenant_id) where v is not null; create index on t (v, tenant_id)`)
	if got := plan(t, s, PolicyOptions{Tables: []string{"t"}}); len(got) != 3 {
		t.Errorf("%q", got)
	}
	s.exec(t, `create index on t (tenant_id); alter table t enable row level security; create policy pgkeel_tenant on t using (false)`)
	if got := plan(t, s, PolicyOptions{Tables: []string{"t"}}); len(got) != 2 ||
		!strings.HasPrefix(got[0], `alter policy "pgkeel_tenant" on "public"."t" to public`) || got[1] != `alter table "public"."t" force row level security` {
		t.Errorf("%q", got)
	}
}

func TestPoliciesMendWhatDiffers(t *testing.T) {
	s := newStage(t, `create table t (tenant_id int, v text); alter table t owner to APP`)
	s.policies(t, PolicyOptions{})
	s.exec(t, `insert into t values (1, 'one'), (2, 'two')`)
	right := `tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::integer)`
	for _, wrong := range []string{
		`alter policy pgkeel_tenant on t using (true)`,
		`alter policy pgkeel_tenant on t with check (true)`,
		`alter policy pgkeel_tenant on t to APP`,
		`alter policy pgkeel_tenant on t using (` + right + ` or v = 'two')`,
		`alter policy pgkeel_tenant on t using (` + strings.ReplaceAll(right, "app.tenant_id", "app.other") + `)`,
		`alter policy pgkeel_tenant on t using (` + strings.ReplaceAll(right, "::integer", "::integer + 1") + `)`,
		`drop policy pgkeel_tenant on t; create policy pgkeel_tenant on t for select using (` + right + `)`,
		`drop policy pgkeel_tenant on t; create policy pgkeel_tenant on t as restrictive using (` + right + `)`,
	} {
		s.exec(t, wrong)
		if len(plan(t, s, PolicyOptions{})) == 0 {
			t.Errorf("%s: nothing to do", wrong)
		}
		s.policies(t, PolicyOptions{})
		if again := plan(t, s, PolicyOptions{}); len(again) != 0 {
			t.Errorf("%s: a second time %q", wrong, again)
		}
		pool := mustOpen(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN})
		if got := value[string](tenant(t, "1"), t, pool, `select string_agg(v, ',') from t`); got != "one" {
			t.Errorf("%s: %q", wrong, got)
		}
	}
}

// Permissive policies add up, so one more would widen what somebody made narrow.
func TestPoliciesOfOthersStay(t *testing.T) {
	s := newStage(t, `create table t (tenant_id int primary key, v text); create policy narrower on t using (false)`)
	if got := plan(t, s, PolicyOptions{}); !slices.Equal(got, []string{`alter table "public"."t" enable row level security, force row level security`}) {
		t.Errorf("%q", got)
	}
}

func TestPoliciesOfPartitions(t *testing.T) {
	s := newStage(t, `create table t (tenant_id int, v text) partition by hash (tenant_id);
		create table p1 partition of t for values with (modulus 2, remainder 0);
		create table p2 partition of t for values with (modulus 2, remainder 1);
		alter table t owner to APP; alter table p1 owner to APP; alter table p2 owner to APP; insert into t select i, i from generate_series(1, 10) i`)
	s.policies(t, PolicyOptions{})
	if again := plan(t, s, PolicyOptions{}); len(again) != 0 {
		t.Errorf("a second time %q", again)
	}
	var indexes int
	if err := s.admin.QueryRow(t.Context(), `select count(*) from pg_index where indrelid in ('t'::regclass, 'p1'::regclass, 'p2'::regclass)`).Scan(&indexes); err != nil || indexes != 3 {
		t.Errorf("%d indexes, %v", indexes, err)
	}
	pool := mustOpen(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN})
	sum := `select (select coalesce(sum(tenant_id), 0) from t) * 100 + (select coalesce(sum(tenant_id), 0) from p1) + (select coalesce(sum(tenant_id), 0) from p2)`
	if got := value[int64](tenant(t, "7"), t, pool, sum); got != 707 {
		t.Errorf("%d", got)
	}
}

// A statement is planned once for all tenants. If the planner knew whose id it
// is, it would make the plan for the first.
func TestAPlanIsNotThatOfTheFirstTenant(t *testing.T) {
	s := newStage(t, `create table t (tenant_id int, v text); alter table t owner to APP;
		insert into t select case when i % 20 = 0 then i else 1 end, repeat('x', 100) from generate_series(1, 40000) i`)
	s.policies(t, PolicyOptions{})
	s.exec(t, `analyze t; set role APP; prepare q as select v from t; set app.tenant_id = '1'`)
	for range 2 {
		rows, _ := s.admin.Query(t.Context(), `explain execute q`)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if all := strings.Join(lines, "\n"); err != nil || !strings.Contains(all, "t_tenant_id_idx") {
			t.Errorf("%s %v", all, err)
		}
		s.exec(t, `set app.tenant_id = '40'`)
	}
}

func TestPoliciesThroughAPool(t *testing.T) {
	s := newStage(t, `create table t (tenant_id int); alter table t owner to APP`)
	pool := mustOpen(t, RLS("app.tenant_id", SkipTables("t")), providers.Config{DSN: s.appDSN})
	p, err := Policies(t.Context(), pool, PolicyOptions{Setting: "app.tenant_id"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(t.Context()); err != nil {
		t.Error(err)
	}
	mustOpen(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN})
}

func TestPoliciesErrors(t *testing.T) {
	s := newStage(t, `create table t (tenant_id int)`)
	for field, o := range map[string]PolicyOptions{"Tenancy.PolicyOptions.Setting": {Setting: "x'y"}, "": {Setting: "app.tenant_id"}} {
		var db providers.Querier = s.admin
		if field == "" {
			db, field = nil, "Tenancy.Policies"
		}
		_, err := Policies(t.Context(), db, o)
		var fault *providers.ConfigError
		if !errors.As(err, &fault) || fault.Field != field {
			t.Error(err)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Policies(cancelled, mustOpen(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN}), PolicyOptions{Setting: "app.tenant_id"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	conn, err := pgx.Connect(t.Context(), s.appDSN) // which does not own the table
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	p, err := Policies(t.Context(), conn, PolicyOptions{Setting: "app.tenant_id"})
	if err != nil {
		t.Fatal(err)
	}
	err = p.Apply(t.Context())
	if err == nil || !strings.Contains(err.Error(), "statement 1 of 3 failed (rolled back)") {
		t.Error(err)
	}
}
