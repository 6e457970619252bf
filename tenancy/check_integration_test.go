package tenancy

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

func TestCheckNamesEveryFaultAtOnce(t *testing.T) {
	s := newStage(t, `create schema other; grant usage on schema other to APP;
		create table good (tenant_id int, v text); alter table good enable row level security, force row level security;
		create table "Not Enabled" (tenant_id int); create table other.deep (tenant_id int); create table silent (tenant_id int);
		create table owned (tenant_id int); create table unused (tenant_id int); create table by_column (tenant_id int, v int);
		create table of_nobody (id int); create table parted (tenant_id int) partition by list (tenant_id);
		create table part partition of parted for values in (1); create temp table passing (tenant_id int);
		alter table owned owner to APP; alter table owned enable row level security;
		alter table silent enable row level security; alter table parted enable row level security;
		grant all on good, "Not Enabled", other.deep, silent, parted, part, of_nobody to APP; grant select (v) on by_column to APP`)
	_, err := openWith(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN})
	requireFaults(t, err, `table "public"."Not Enabled" has the column tenant_id but no row security`, `"other"."deep"`,
		`"public"."part" has`, `"public"."by_column"`, `alter table "public"."owned" force row level security`)
	skip := SkipTables("Not Enabled", "other.deep", "part", "public.by_column", "owned")
	mustOpen(t, RLS("app.tenant_id", skip), providers.Config{DSN: s.appDSN})
	mustOpen(t, RLS("app.tenant_id", TenantColumn("org")), providers.Config{DSN: s.appDSN})
	s.exec(t, `alter table good rename column tenant_id to org; alter table good disable row level security`)
	_, err = openWith(t, RLS("app.tenant_id", TenantColumn("org")), providers.Config{DSN: s.appDSN})
	requireFaults(t, err, `"public"."good" has the column org`)
}

func TestCheckOfTheRolesOfTenants(t *testing.T) {
	s := orders(t)
	privileged, user, stranger := s.role(t, "bypassrls"), s.role(t, ""), s.role(t, "")
	s.exec(t, "grant "+privileged+", "+user+" to APP")
	_, err := openWith(t, RLS("app.tenant_id", Role(privileged)), providers.Config{DSN: s.appDSN})
	requireFaults(t, err, `role "`+privileged+`" has BYPASSRLS`)
	_, err = openWith(t, RLS("app.tenant_id", Role("nobody at all")), providers.Config{DSN: s.appDSN})
	requireFaults(t, err, `role "nobody at all" does not exist`)
	_, err = openWith(t, RLS("app.tenant_id", Role(stranger)), providers.Config{DSN: s.appDSN})
	requireFaults(t, err, `no member; fix: grant "`+stranger+`"`)

	anyRole := RoleFunc(func(context.Context) (string, error) { return user, nil })
	_, err = openWith(t, RLS("app.tenant_id", anyRole), providers.Config{DSN: s.appDSN})
	requireFaults(t, err, `role "`+privileged+`" has BYPASSRLS`)
	mustOpen(t, RLS("app.tenant_id", anyRole, BypassRole(privileged)), providers.Config{DSN: s.appDSN})

	// A superuser may connect if what tenants do is done by another role.
	pool := mustOpen(t, RLS("app.tenant_id", Role(s.app)), providers.Config{DSN: s.dsn})
	if got := value[string](tenant(t, "b"), t, pool, itemsSQL); got != "of b" {
		t.Errorf("b sees %q", got)
	}
	if got := value[string](bypass(t), t, pool, itemsSQL); got != "of a, of b" {
		t.Errorf("the bypass sees %q", got)
	}
}

// An owner is also who belongs to the owner.
func TestCheckOfAnOwnersMember(t *testing.T) {
	s := orders(t)
	member := s.role(t, "login password 'app'")
	s.exec(t, "grant APP to "+member+"; alter table orders no force row level security")
	_, err := openWith(t, RLS("app.tenant_id"), providers.Config{DSN: s.as(t, member)})
	requireFaults(t, err, "belongs to the role of tenants")
	s.exec(t, "alter table orders force row level security")
	mustOpen(t, RLS("app.tenant_id"), providers.Config{DSN: s.as(t, member)})
}

// Views read as their owner, and materialized views have no policies.
func TestCheckOfViews(t *testing.T) {
	s := orders(t)
	s.exec(t, `create view leaking as select item from orders; create view above as select * from leaking;
		create materialized view copied as select item from orders; create view unused as select * from orders;
		create view bound as select * from orders; alter view bound owner to APP;
		create table plain (id int); create view of_nobody as select * from plain;
		grant select on leaking, above, copied, of_nobody to APP`)
	_, err := openWith(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN})
	requireFaults(t, err, `view "public"."leaking" reads tables of tenants as its owner`, `view "public"."above"`,
		`materialized view "public"."copied" holds rows of tenants`)

	mustOpen(t, RLS("app.tenant_id", SkipTables("leaking", "public.above", "copied")), providers.Config{DSN: s.appDSN})

	s.exec(t, `drop materialized view copied; drop view above; alter view leaking owner to APP`)
	pool := mustOpen(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN})
	if got := value[string](tenant(t, "a"), t, pool, strings.Replace(itemsSQL, "orders", "leaking", 1)); got != "of a" {
		t.Errorf("a sees %q", got)
	}
	// The table's owner is not bound without FORCE, and so is his view.
	reader := s.role(t, "login password 'app'")
	s.exec(t, `grant select on leaking to `+reader+`; alter table orders no force row level security`)
	_, err = openWith(t, RLS("app.tenant_id"), providers.Config{DSN: s.as(t, reader)})
	requireFaults(t, err, `view "public"."leaking"`)
}

func TestSecurityInvokerViewsAreFine(t *testing.T) {
	s := orders(t)
	var version int
	if err := s.admin.QueryRow(t.Context(), "select current_setting('server_version_num')::int").Scan(&version); err != nil {
		t.Fatal(err)
	}
	if version < 150000 {
		return // which has no such views
	}
	s.exec(t, `create view v with (security_invoker = on) as select item from orders; grant select on v to APP`)
	pool := mustOpen(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN})
	if got := value[string](tenant(t, "b"), t, pool, `select item from v`); got != "of b" {
		t.Errorf("b sees %q", got)
	}
}

func TestCheckOfForeignTables(t *testing.T) {
	s := newStage(t, `create foreign data wrapper nothing; create server none foreign data wrapper nothing;
		create foreign table remote (tenant_id int) server none; grant select on remote to APP`)
	_, err := openWith(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN})
	requireFaults(t, err, `foreign table "public"."remote"`)
	mustOpen(t, RLS("app.tenant_id", SkipTables("remote")), providers.Config{DSN: s.appDSN})
}

func TestADatabaseThatCannotBeChecked(t *testing.T) {
	s := newStage(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := RLS("app.tenant_id").Open(ctx, providers.Config{DSN: s.appDSN}, func(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
		defer cancel()
		return pgxOpen(ctx, cfg)
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "could not be checked") {
		t.Error(err)
	}
}
