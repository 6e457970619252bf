package tenancy

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// twoSchemas has a table of two tenants, and one of the same name in public.
func twoSchemas(t testing.TB) *stage {
	t.Helper()
	return newStage(t, `create schema tenant_a; create schema tenant_b; create table orders (item text); insert into orders values ('of public');
		create table tenant_a.orders (item text); create table tenant_b.orders (item text);
		insert into tenant_a.orders values ('of a'); insert into tenant_b.orders values ('of b');
		grant usage on schema tenant_a, tenant_b to APP; grant all on tenant_a.orders, tenant_b.orders, orders to APP`)
}

// keywords is the DSN in its other form.
func keywords(t testing.TB, dsn string) string {
	t.Helper()
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable", c.Host, c.Port, c.User, c.Password, c.Database)
}

func TestSchemaKeepsTenantsApart(t *testing.T) {
	s := twoSchemas(t)
	for form, dsn := range map[string]string{"url": s.appDSN, "keywords": keywords(t, s.appDSN)} {
		pool := mustOpen(t, Schema(), providers.Config{DSN: dsn, Pool: providers.PoolStrategy{MaxSize: 1}})
		for range 3 {
			for _, id := range []string{"a", "b"} {
				if got := value[string](tenant(t, id), t, pool, itemsSQL); got != "of "+id {
					t.Errorf("%s: %s sees %q", form, id, got)
				}
			}
			err := pool.QueryRow(tenant(t, "c"), itemsSQL).Scan(new(string))
			if pg := providers.NewPGError(err); pg == nil || pg.Code != "42P01" {
				t.Errorf("%s: without a schema: %v", form, err)
			}
			if err := pool.QueryRow(bypass(t), itemsSQL).Scan(new(string)); err == nil {
				t.Errorf("%s: the bypass need not qualify its names", form)
			}
			if got := value[string](bypass(t), t, pool, `select item from tenant_b.orders`); got != "of b" {
				t.Errorf("%s: the bypass sees %q", form, got)
			}
		}
		if err := pool.QueryRow(t.Context(), itemsSQL).Scan(new(string)); !errors.Is(err, ErrNoTenant) {
			t.Errorf("%s: without a tenant: %v", form, err)
		}
	}
}

func TestSharedSchemasStandBehind(t *testing.T) {
	s := twoSchemas(t)
	s.exec(t, `create table countries (name text); insert into countries values ('here'); grant select on countries to APP;
		create function public.twice(int) returns int language sql as 'select 2 * $1'`)
	pool := mustOpen(t, Schema(SharedSchemas("public")), providers.Config{DSN: s.appDSN})
	for _, id := range []string{"a", "b"} {
		if got := value[string](tenant(t, id), t, pool, `select item || name || twice(2) from orders, countries`); got != "of "+id+"here4" {
			t.Errorf("%s: %q", id, got)
		}
	}
	if got := value[string](bypass(t), t, pool, `select name from countries`); got != "here" {
		t.Errorf("%q", got)
	}
}

// The same statement means tables of other types with each tenant.
func TestTrap33AStatementOfAnotherTenant(t *testing.T) {
	s := newStage(t, `create schema tenant_a; create schema tenant_b; create schema "tenant_""c";
		create table tenant_a.t (id int, v text); create table tenant_b.t (id text, v int, w int); create table "tenant_""c".t (id int, v text);
		insert into tenant_a.t values (1, 'a'); insert into tenant_b.t values ('1', 2, 3); insert into "tenant_""c".t values (1, 'c');
		grant usage on schema tenant_a, tenant_b, "tenant_""c" to APP;
		grant select on tenant_a.t, tenant_b.t, "tenant_""c".t to APP`)
	quoted := SchemaName(func(id string) (string, error) { return "tenant_" + id, nil })
	pool := mustOpen(t, Schema(quoted), providers.Config{DSN: s.appDSN, Pool: providers.PoolStrategy{MaxSize: 1}})
	want := map[string]string{"a": "1a", "b": "123", `"c`: "1c"}
	for range 3 {
		for id, v := range want {
			if got := all(tenant(t, id), t, pool); got != v {
				t.Errorf("%s sees %q", id, got)
			}
			tx, err := pool.Begin(tenant(t, id), providers.TxOptions{})
			if err != nil {
				t.Fatal(err)
			}
			// A transaction cannot repeat a statement whose plan is out of date.
			// What it must not do is to show another's rows.
			rows, err := tx.Query(tenant(t, id), `select id, v from t where id = 1::text::int`)
			for err == nil && rows.Next() {
				if values, err := rows.Values(); err != nil || fmt.Sprint(values[1]) != v[1:2] {
					t.Errorf("%s sees %v in a transaction, %v", id, values, err)
				}
			}
			rows.Close()
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// all joins the values of a table of any columns.
func all(ctx context.Context, t testing.TB, db providers.Querier) string {
	t.Helper()
	rows, err := db.Query(ctx, `select * from t`)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer rows.Close()
	var b strings.Builder
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			t.Error(err)
		}
		for _, v := range values {
			fmt.Fprint(&b, v)
		}
	}
	if rows.Err() != nil {
		t.Error(rows.Err())
	}
	return b.String()
}

// No application's table is in the path that a session has of its own, whatever
// the role or the database want, and whatever was done in it before.
func TestTheBasePathIsEmpty(t *testing.T) {
	s := twoSchemas(t)
	s.exec(t, `alter role APP set search_path = public`)
	for _, reset := range []providers.SessionReset{providers.ResetDirty, providers.ResetAlways} {
		pool := mustOpen(t, Schema(SharedSchemas("public")), providers.Config{
			DSN: s.appDSN, SessionReset: reset, Pool: providers.PoolStrategy{MaxSize: 1},
		})
		base := `select reset_val from pg_settings where name = 'search_path'`
		if _, err := pool.Exec(bypass(t), `set search_path = tenant_b`); err != nil {
			t.Fatal(err)
		}
		if got := value[string](bypass(t), t, pool, base); got != "pg_catalog" {
			t.Errorf("%v: %q", reset, got)
		}
		conn, err := pool.Acquire(bypass(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(bypass(t), `reset all`); err != nil {
			t.Error(err)
		}
		conn.Release()
		if got := value[string](tenant(t, "a"), t, pool, itemsSQL); got != "of a" {
			t.Errorf("%v: %q", reset, got)
		}
	}
}

func TestSchemaRefusesASessionWithAPathOfItsOwn(t *testing.T) {
	s := twoSchemas(t)
	var pool providers.Pool
	_, err := Schema().Open(t.Context(), providers.Config{DSN: s.appDSN}, func(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
		if !strings.Contains(cfg.DSN, "search_path=pg_catalog") {
			t.Error(cfg.DSN)
		}
		cfg.DSN = s.appDSN // as a proxy does that drops the parameter
		var err error
		pool, err = pgxOpen(ctx, cfg)
		return pool, err
	})
	if err == nil || !strings.Contains(err.Error(), `begin with the search_path "\"$user\", public"`) {
		t.Error(err)
	}
	if err := pool.Ping(bypass(t)); !errors.Is(err, providers.ErrPoolClosed) {
		t.Errorf("the pool is not closed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Schema().Open(ctx, providers.Config{DSN: s.appDSN}, func(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
		defer cancel()
		return pgxOpen(ctx, cfg)
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "could not be checked") {
		t.Error(err)
	}
	broken := errors.New("broken")
	_, err = Schema().Open(t.Context(), providers.Config{}, func(context.Context, providers.Config) (providers.Pool, error) { return nil, broken })
	if !errors.Is(err, broken) {
		t.Error(err)
	}
}

// PgBouncer refuses parameters at start-up, and hands each transaction another
// session.
func TestSchemaBehindPgBouncer(t *testing.T) {
	cluster := pgtest.New(t, pgtest.Options{})
	dsn := cluster.NewDB(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, id := range []string{"a", "b"} {
		_, err := conn.Exec(t.Context(), fmt.Sprintf(`create schema tenant_%[1]s; create table tenant_%[1]s.orders as select 'of %[1]s' as item`, id))
		if err != nil {
			t.Fatal(err)
		}
	}
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	pooler := cluster.Primary().NewPgBouncer(t, map[string]string{"default_pool_size": "1"})
	pool := mustOpen(t, Schema(), providers.Config{DSN: pooler.DSN(strings.TrimPrefix(u.Path, "/")), Profile: providers.ProfilePgBouncer})
	for range 3 {
		for _, id := range []string{"a", "b"} {
			if got := value[string](tenant(t, id), t, pool, itemsSQL); got != "of "+id {
				t.Errorf("%s sees %q", id, got)
			}
		}
		if err := pool.QueryRow(tenant(t, "c"), itemsSQL).Scan(new(string)); err == nil {
			t.Error("a tenant without a schema sees something")
		}
	}
}

func TestRolesOfSchemas(t *testing.T) {
	s := twoSchemas(t)
	a, b := s.role(t, ""), s.role(t, "")
	s.exec(t, fmt.Sprintf(`grant %[1]s, %[2]s to APP; grant usage on schema tenant_a to %[1]s; grant usage on schema tenant_b to %[2]s;
		grant select on tenant_a.orders to %[1]s; grant select on tenant_b.orders to %[2]s`, a, b))
	role := RoleFunc(func(ctx context.Context) (string, error) {
		id, _ := providers.GetTenantID(ctx)
		return map[string]string{"a": a, "b": b}[id], nil
	})
	pool := mustOpen(t, Schema(role), providers.Config{DSN: s.appDSN})
	if got := value[string](tenant(t, "a"), t, pool, itemsSQL); got != "of a" {
		t.Errorf("%q", got)
	}
	err := pool.QueryRow(tenant(t, "a"), `select item from tenant_b.orders`).Scan(new(string))
	if pg := providers.NewPGError(err); pg == nil || pg.Code != "42501" {
		t.Errorf("a tenant reaches another's schema by its name: %v", err)
	}
}
