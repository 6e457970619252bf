package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/tenancy"
)

const (
	// tenantSetting is the parameter that the policies look at.
	tenantSetting = "app.tenant_id"
	// tenantCount is how many tenants there are, each with as many rows as
	// rowsPerTenant says.
	tenantCount, rowsPerTenant = 100, 100
	// tenantSlice is for operations that take several round trips.
	tenantSlice = 20 * time.Millisecond
)

// tenants are scenarios of row-level security.
func tenants() []Scenario {
	ours := asTenants(onHandle(readAsTenant, pgkeel.WithTenancy(tenancy.RLS(tenantSetting))))
	// One of the connections is the pool's, for what cannot be shared.
	few := asTenants(sized(1, onPipeline(func(db *pgkeel.DB, site Site) Op { return readOfTenant(db.Reader(), site) },
		pgkeel.Pipelining{ReadConnections: farConnections - 1, Traffic: pgkeel.PipelineReads},
		pgkeel.WithTenancy(tenancy.RLS(tenantSetting)))))
	naive := asTenants(onPool(readNaively))
	return []Scenario{
		{
			Name: "tenant.rls", About: "a tenant's row; the baseline is begin, set_config, select, commit",
			Setup: setupTenants, Bar: Bar{Throughput: 2.2}, Ours: ours, Baseline: naive,
		},
		{
			Name: "tenant.rls.2ms", About: "the same, 2 ms from the server",
			Slice: longSlice, Setup: setupTenants, Bar: Bar{Throughput: 3.5}, Ours: faraway(ours), Baseline: faraway(naive),
		},
		{
			Name: "tenant.pipelined", About: "the same by 128 callers, 4 connections a side",
			Callers: 128, Slice: longSlice, Setup: setupTenants, Bar: Bar{Throughput: 10},
			Ours: faraway(few), Baseline: faraway(sized(farConnections, naive)),
		},
		{
			Name: "tenant.cost", About: "a tenant's row by 8 callers; the baseline reads it without any tenant",
			Callers: 8, Slice: tenantSlice, Setup: setupTenants, Bar: Bar{Throughput: 0.85},
			Ours: ours, Baseline: onPool(readUnscoped),
		},
	}
}

// setupTenants makes the table notes, of which each tenant sees its own rows.
func setupTenants(ctx context.Context, conn *pgx.Conn, schema string) error {
	table := tableIn(schema, "notes")
	for _, sql := range []string{
		`create table if not exists ` + table + ` (tenant_id text not null, id bigint not null, body text not null,
			primary key (tenant_id, id))`,
		fmt.Sprintf(`insert into %s select 'tenant ' || t, i, 'note ' || t || '/' || i
			from generate_series(1, %d) t, generate_series(1, %d) i on conflict do nothing`, table, tenantCount, rowsPerTenant),
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	plan, err := tenancy.Policies(ctx, conn, tenancy.PolicyOptions{Setting: tenantSetting, Schemas: []string{schema}})
	if err != nil {
		return err
	}
	if err := plan.Apply(ctx); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `vacuum analyze `+table)
	return err
}

// asTenants opens a side as a role that row-level security binds, and drops the
// role when the side closes.
func asTenants(open Opener) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		admin, role, password := site.DSN, site.Schema+"_"+rand.Text()[:6], rand.Text()
		own, err := dsnAs(admin, role, password)
		if err != nil {
			return Side{}, err
		}
		quoted, schema := pgx.Identifier{role}.Sanitize(), pgx.Identifier{site.Schema}.Sanitize()
		drop := func(ctx context.Context) error {
			return adminExec(context.WithoutCancel(ctx), admin, `drop owned by `+quoted, `drop role `+quoted)
		}
		if err := adminExec(ctx, admin,
			`create role `+quoted+` login password '`+password+`'`,
			`grant usage on schema `+schema+` to `+quoted,
			`grant select on all tables in schema `+schema+` to `+quoted,
		); err != nil {
			return Side{}, fmt.Errorf("make a role for tenants: %w", err)
		}
		site.DSN = own
		side, err := open(ctx, site)
		if err != nil {
			return side, errors.Join(err, drop(ctx))
		}
		closing := side.Close
		side.Close = func(ctx context.Context) error { return errors.Join(closing(ctx), drop(ctx)) }
		return side, nil
	}
}

// dsnAs is the DSN for another role.
func dsnAs(dsn, role, password string) (string, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return "", err
	}
	c := config.ConnConfig
	query := url.Values{"host": {c.Host}, "port": {strconv.Itoa(int(c.Port))}, "user": {role}, "password": {password}}
	if c.TLSConfig == nil {
		query.Set("sslmode", "disable")
	} else {
		query.Set("sslmode", "require")
	}
	return (&url.URL{Scheme: "postgres", Path: "/" + c.Database, RawQuery: query.Encode()}).String(), nil
}

func adminExec(ctx context.Context, dsn string, statements ...string) error {
	ctx, cancel := context.WithTimeout(ctx, cleanUpTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// note is a row of a tenant.
type note struct {
	tenant, body string
	id           int64
}

// noteOfCaller is what a caller reads: each time as another tenant.
func noteOfCaller(names []string, caller, n int) (tenant string, id int64, number int) {
	number = (caller*37 + n) % tenantCount
	return names[number], int64(n%rowsPerTenant) + 1, number + 1
}

func tenantNames() []string {
	names := make([]string, tenantCount)
	for i := range names {
		names[i] = "tenant " + strconv.Itoa(i+1)
	}
	return names
}

func (n *note) mustBe(tenant string, number int, id int64) error {
	want := "note " + strconv.Itoa(number) + "/" + strconv.FormatInt(id, 10)
	if n.tenant != tenant || n.id != id || n.body != want {
		return fmt.Errorf("%s got row %d of %s, %q", tenant, n.id, n.tenant, n.body)
	}
	return nil
}

// readAsTenant reads on the handle.
func readAsTenant(db *pgkeel.DB, site Site) Op { return readOfTenant(db, site) }

func readOfTenant(q pgkeel.Querier, site Site) Op {
	sql, names := `select tenant_id, id, body from `+site.Table("notes")+` where id = $1`, tenantNames()
	return func(ctx context.Context, caller, n int) error {
		tenant, id, number := noteOfCaller(names, caller, n)
		var got note
		if err := q.QueryRow(pgkeel.WithTenantID(ctx, tenant), sql, id).Scan(&got.tenant, &got.id, &got.body); err != nil {
			return err
		}
		return got.mustBe(tenant, number, id)
	}
}

// readNaively is what is done by hand.
func readNaively(pool *pgxpool.Pool, site Site) Op {
	sql, names := `select tenant_id, id, body from `+site.Table("notes")+` where id = $1`, tenantNames()
	return func(ctx context.Context, caller, n int) error {
		tenant, id, number := noteOfCaller(names, caller, n)
		var got note
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `select set_config('`+tenantSetting+`', $1, true)`, tenant); err != nil {
				return err
			}
			return tx.QueryRow(ctx, sql, id).Scan(&got.tenant, &got.id, &got.body)
		})
		if err != nil {
			return err
		}
		return got.mustBe(tenant, number, id)
	}
}

// readUnscoped names the tenant in the statement, as the policy does.
func readUnscoped(pool *pgxpool.Pool, site Site) Op {
	sql, names := `select tenant_id, id, body from `+site.Table("notes")+` where tenant_id = $2 and id = $1`, tenantNames()
	return func(ctx context.Context, caller, n int) error {
		tenant, id, number := noteOfCaller(names, caller, n)
		var got note
		if err := pool.QueryRow(ctx, sql, id, tenant).Scan(&got.tenant, &got.id, &got.body); err != nil {
			return err
		}
		return got.mustBe(tenant, number, id)
	}
}
