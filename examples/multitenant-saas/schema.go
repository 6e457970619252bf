package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/tenancy"
)

const (
	// tenantSetting and userSetting are where the server finds who is asking.
	tenantSetting, userSetting = "app.tenant_id", "app.user_id"
	// appRole is what the application connects as: it owns nothing and is bound
	// by the policies. adminRole is what it becomes under tenancy.Bypass.
	appRole, adminRole = "saas_app", "saas_admin"
)

// schema is made as the owner. Statements of tenants need not name the tenant:
// the default puts it in, the policy holds them to it. As foreign keys are not
// bound by policies, that of notes has the tenant in it.
var schema = []string{
	`create table if not exists tenants (
		tenant_id  text primary key,
		name       text not null,
		created_at timestamptz not null default now()
	)`,
	`create table if not exists users (
		tenant_id  text not null default current_setting('app.tenant_id') references tenants,
		id         bigint generated always as identity,
		name       text not null,
		token_hash bytea not null,
		primary key (tenant_id, id),
		unique (tenant_id, token_hash)
	)`,
	`create table if not exists notes (
		tenant_id  text not null default current_setting('app.tenant_id'),
		id         bigint generated always as identity primary key,
		author     bigint not null default current_setting('app.user_id')::bigint,
		title      text not null,
		body       text not null,
		created_at timestamptz not null default now(),
		foreign key (tenant_id, author) references users (tenant_id, id)
	)`,
	`grant select, insert on tenants, users to saas_app`,
	`grant select, insert, update, delete on notes to saas_app`,
	`grant select on tenants, users, notes to saas_admin`,
}

// roles are made unless they are there: they belong to the server, not to the
// database.
const roles = `
do $$ begin
	if not exists (select from pg_roles where rolname = 'saas_admin') then
		create role saas_admin nologin bypassrls;
	end if;
	if not exists (select from pg_roles where rolname = 'saas_app') then
		create role saas_app login;
	end if;
	grant saas_admin to saas_app;
end $$`

// prepare makes what is missing of roles, tables and policies, as their owner
// and in one transaction. Instances that start together do so one by one.
func prepare(ctx context.Context, ownerDSN, appPassword string) (err error) {
	owner, err := pgkeel.Open(ctx, ownerDSN, pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 1}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, owner.Close(ctx)) }()
	return owner.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtext('multitenant-saas'))`); err != nil {
			return err
		}
		login, err := pgkeel.One[string](ctx, tx, `select format('alter role saas_app login password %L', $1::text)`, appPassword)
		if err != nil {
			return err
		}
		for _, statement := range slices.Concat([]string{roles, login}, schema) {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		plan, err := tenancy.Policies(ctx, tx, tenancy.PolicyOptions{
			Setting: tenantSetting, Tables: []string{"tenants", "users", "notes"}, InTransaction: true,
		})
		if err != nil {
			return err
		}
		return plan.Apply(ctx)
	})
}

// as is the DSN for another role.
func as(dsn, role, password string) (string, error) {
	if !strings.Contains(dsn, "://") { // key=value, of which the last counts
		escaped := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password)
		return fmt.Sprintf("%s user=%s password='%s'", dsn, role, escaped), nil
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", errors.New("the DSN is no URL") // the error of Parse has the password in it
	}
	u.User = url.UserPassword(role, password)
	return u.String(), nil
}
