package tenancy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// CheckError says why a database would not keep tenants apart. Nothing was
// changed.
type CheckError struct {
	// Faults are all that were found.
	Faults []CheckFault
}

// CheckFault is one way in which tenants could see each other.
type CheckFault struct {
	// Object is what has the fault: role "app", table "public"."orders".
	Object string
	// Problem says what is wrong with it.
	Problem string
	// Fix is the SQL that mends it, or what else to do.
	Fix string
}

// String returns all of it in a line.
func (f CheckFault) String() string { return f.Object + " " + f.Problem + "; fix: " + f.Fix }

func (e *CheckError) Error() string {
	faults := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		faults[i] = f.String()
	}
	return fmt.Sprintf("pgkeel: tenancy: the database would not keep tenants apart (%d faults), so it was not opened:\n\t%s",
		len(faults), strings.Join(faults, "\n\t"))
}

// confinedRoles are the roles that tenants' operations can be done by, in a form
// that any provider can ask in: $1 is the role if it is known, $2 whether it can
// be any that the connecting role may become, except for $3.
const confinedRoles = `with recursive confined as (
	select r.oid, r.rolname, r.rolsuper, r.rolbypassrls, pg_has_role(session_user, r.oid, 'MEMBER') as attainable
	from pg_catalog.pg_roles r
	where case when $1::text <> '' then r.rolname = $1::text
		when $2::bool then pg_has_role(session_user, r.oid, 'MEMBER') and r.rolname <> $3::text
		else r.rolname = session_user end)`

const rolesSQL = confinedRoles + `
select rolname::text, rolsuper, rolbypassrls, attainable from confined order by 1`

// tablesSQL finds the tables that have the tenant's column ($4), and that a
// confined role may use, with whether one of them counts as the owner.
const tablesSQL = confinedRoles + `
select n.nspname::text, c.relname::text, c.relkind::text, c.relrowsecurity, c.relforcerowsecurity,
	exists (select from confined r where not r.rolsuper and pg_has_role(r.oid, c.relowner, 'USAGE'))
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attname = $4::text
where c.relkind in ('r', 'p', 'f') and c.relpersistence <> 't'
	and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
	and exists (select from confined r where has_any_column_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE')
		or has_table_privilege(r.oid, c.oid, 'DELETE'))
order by 1, 2`

// viewsSQL finds the views that read such a table as somebody whom its policies
// do not bind, and materialized ones, which no policy binds. A view reads as its
// owner, unless it is a security_invoker.
const viewsSQL = confinedRoles + `,
reads as (
	select w.ev_class as view, d.refobjid as relation
	from pg_catalog.pg_rewrite w
	join pg_catalog.pg_class v on v.oid = w.ev_class and v.relkind in ('v', 'm')
	join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = w.oid
		and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid <> w.ev_class),
reaches as (
	select view, relation from reads
	union
	select r.view, s.relation from reads r join reaches s on s.view = r.relation)
select distinct n.nspname::text, v.relname::text, v.relkind::text
from reaches
join pg_catalog.pg_class v on v.oid = reaches.view
join pg_catalog.pg_namespace n on n.oid = v.relnamespace
join pg_catalog.pg_roles o on o.oid = v.relowner
join pg_catalog.pg_class c on c.oid = reaches.relation and c.relkind in ('r', 'p')
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attname = $4::text
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
	and exists (select from confined r where has_any_column_privilege(r.oid, v.oid, 'SELECT, INSERT, UPDATE')
		or has_table_privilege(r.oid, v.oid, 'DELETE'))
	and (v.relkind = 'm' or (o.rolsuper or o.rolbypassrls
			or pg_has_role(o.oid, c.relowner, 'USAGE') and not c.relforcerowsecurity)
		and not coalesce((select option_value::bool from pg_options_to_table(v.reloptions)
			where option_name = 'security_invoker'), false))
order by 1, 2`

// check looks for everything that would let tenants see each other.
func (m *rlsMode) check(ctx context.Context, db providers.Querier) error {
	var faults []CheckFault
	args := []any{m.role, m.roleOf != nil, m.bypassRole}
	roles, err := m.checkRoles(ctx, db, args)
	faults = append(faults, roles...)
	if err == nil {
		var tables []CheckFault
		tables, err = m.checkTables(ctx, db, append(args, m.column))
		faults = append(faults, tables...)
	}
	if err == nil {
		var views []CheckFault
		views, err = m.checkViews(ctx, db, append(args, m.column))
		faults = append(faults, views...)
	}
	switch {
	case err != nil:
		return fmt.Errorf("pgkeel: tenancy: the database could not be checked, so it was not opened: %w", err)
	case len(faults) > 0:
		return &CheckError{faults}
	default:
		return nil
	}
}

func (m *rlsMode) checkRoles(ctx context.Context, db providers.Querier, args []any) ([]CheckFault, error) {
	roles, err := collect[struct {
		Name                      string
		Super, Bypass, Attainable bool
	}](ctx, db, rolesSQL, args)
	if err != nil {
		return nil, err
	}
	var faults []CheckFault
	for _, role := range roles {
		quoted := pgx.Identifier{role.Name}.Sanitize()
		fault := func(problem, fix string) {
			faults = append(faults, CheckFault{"role " + quoted, problem, fix})
		}
		// What else it is does not matter to a superuser.
		if role.Super {
			fault("is a superuser, whom no policy binds", "connect as another role, or name one with tenancy.Role for what tenants do")
		} else if role.Bypass {
			fault("has BYPASSRLS, so no policy binds it", "alter role "+quoted+" nobypassrls, or name another with tenancy.Role for what tenants do"+
				" and keep this one for tenancy.Bypass with tenancy.BypassRole")
		}
		if !role.Attainable {
			fault("cannot be assumed by the role that connects, which is no member", "grant "+quoted+" to the role that connects")
		}
	}
	if m.role != "" && len(roles) == 0 {
		quoted := pgx.Identifier{m.role}.Sanitize()
		faults = append(faults, CheckFault{"role " + quoted, "does not exist", "create role " + quoted + ", and grant it to the role that connects"})
	}
	return faults, nil
}

func (m *rlsMode) checkTables(ctx context.Context, db providers.Querier, args []any) ([]CheckFault, error) {
	tables, err := collect[struct {
		Schema, Name, Kind     string
		Enabled, Forced, Owned bool
	}](ctx, db, tablesSQL, args)
	if err != nil {
		return nil, err
	}
	var faults []CheckFault
	for _, table := range tables {
		quoted := pgx.Identifier{table.Schema, table.Name}.Sanitize()
		switch {
		case m.skipped(table.Schema, table.Name):
		case table.Kind == "f":
			faults = append(faults, CheckFault{
				"foreign table " + quoted, "has the column " + m.column + ", and foreign tables have no row security",
				"revoke all on " + quoted + " from the role of tenants, or name it in tenancy.SkipTables",
			})
		case !table.Enabled:
			faults = append(faults, CheckFault{
				"table " + quoted, "has the column " + m.column + " but no row security",
				"run tenancy.Policies, or name it in tenancy.SkipTables",
			})
		case table.Owned && !table.Forced:
			faults = append(faults, CheckFault{
				"table " + quoted, "belongs to the role of tenants, whom its policies do not bind",
				"alter table " + quoted + " force row level security",
			})
		}
	}
	return faults, nil
}

func (m *rlsMode) checkViews(ctx context.Context, db providers.Querier, args []any) ([]CheckFault, error) {
	views, err := collect[struct{ Schema, Name, Kind string }](ctx, db, viewsSQL, args)
	if err != nil {
		return nil, err
	}
	var faults []CheckFault
	for _, view := range views {
		quoted := pgx.Identifier{view.Schema, view.Name}.Sanitize()
		switch {
		case m.skipped(view.Schema, view.Name):
		case view.Kind == "m":
			faults = append(faults, CheckFault{
				"materialized view " + quoted, "holds rows of tenants, and materialized views have no row security",
				"revoke all on " + quoted + " from the role of tenants, or name it in tenancy.SkipTables",
			})
		default:
			faults = append(faults, CheckFault{
				"view " + quoted, "reads tables of tenants as its owner, whom their policies do not bind",
				"alter view " + quoted + " set (security_invoker = true) on PostgreSQL 15 and later, " +
					"or give it to an owner whom policies bind, or name it in tenancy.SkipTables",
			})
		}
	}
	return faults, nil
}

// collect reads all rows, column by column.
func collect[T any](ctx context.Context, db providers.Querier, sql string, args []any) ([]T, error) {
	rows, _ := db.Query(ctx, sql, args...) // its error is the rows' own
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

// skipped reports whether the user takes it upon himself.
func (m *rlsMode) skipped(schema, name string) bool {
	return slices.Contains(m.skip, name) || slices.Contains(m.skip, schema+"."+name)
}

// sameParameter compares the names of parameters as PostgreSQL does.
func sameParameter(a, b string) bool { return strings.EqualFold(a, b) }
