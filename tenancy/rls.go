package tenancy

import (
	"context"

	"github.com/pgkeel/pgkeel/providers"
)

// DefaultTenantColumn is the column that says whose a row is.
const DefaultTenantColumn = "tenant_id"

// RLS keeps tenants apart by PostgreSQL's row-level security: the tenant's id is
// in the custom parameter that setting names, such as "app.tenant_id", for as
// long as an operation takes, and policies compare it with a column of each
// table. [Policies] makes them. The server decides, so a query that forgets its
// WHERE shows nothing of another tenant.
//
// Open refuses a database in which a policy would not bind the role that the
// tenants' operations are done by, with a [*CheckError]; so it connects.
//
// What row-level security cannot do: it does not bind TRUNCATE and foreign keys,
// nor what a SECURITY DEFINER function does that belongs to another role. And SQL
// that an attacker could write himself may set the parameter: statements take
// their values as arguments.
func RLS(setting string, options ...RLSOption) Mode {
	m := &rlsMode{setting: setting, column: DefaultTenantColumn}
	m.checkParameter("RLS", setting)
	for _, o := range options {
		if o == nil {
			m.fault(true, "RLS", "one of the options is nil; leave it out")
			continue
		}
		o.applyRLS(m)
	}
	m.fault(m.userSetting != "" && sameParameter(m.userSetting, setting), "UserSetting",
		"%q is the tenant's parameter; use another", m.userSetting)
	m.fault(m.bypassRole != "" && m.bypassRole == m.role, "BypassRole", "%q is the role of tenants; use another", m.role)
	return m
}

type rlsMode struct {
	confinement

	setting string
	column  string
	skip    []string
}

var _ Mode = (*rlsMode)(nil)

type rlsOption func(*rlsMode)

func (o rlsOption) applyRLS(m *rlsMode) { o(m) }

// TenantColumn is the name of the column that says whose a row is, in all
// tables. Default: tenant_id. Tables without it belong to nobody, and are not
// looked at.
func TenantColumn(name string) RLSOption {
	return rlsOption(func(m *rlsMode) {
		m.fault(name == "", "TenantColumn", "is empty; leave it out for %s", DefaultTenantColumn)
		m.column = name
	})
}

// SkipTables names tables, views and foreign tables that tenants may see all of,
// although they have the tenant's column or read tables that have it: as "table"
// in any schema, or as "schema.table".
func SkipTables(names ...string) RLSOption {
	return rlsOption(func(m *rlsMode) { m.skip = append(m.skip, names...) })
}

// Open opens the pool and checks the database.
func (m *rlsMode) Open(ctx context.Context, cfg providers.Config, open Opener) (providers.Pool, error) {
	if err := m.configure(&cfg, m.scopeFunc(nil, m.tenantSetting)); err != nil {
		return nil, err
	}
	pool, err := open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := m.check(bypassFor(ctx, "tenancy: the check at Open"), pool); err != nil {
		closePool(ctx, pool)
		return nil, err
	}
	return pool, nil
}

func (m *rlsMode) tenantSetting(id string) (providers.Setting, error) {
	if fault := textFault(id); fault != "" {
		return providers.Setting{}, refusef("the tenant's id %s", fault)
	}
	return providers.Setting{Name: m.setting, Value: id}, nil
}
