package tenancy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// DefaultPolicyName is the name of the policies of [Policies].
const DefaultPolicyName = "pgkeel_tenant"

// PolicyOptions say which tables get which policy. Zero is the default for every
// field but Setting.
type PolicyOptions struct {
	// Setting is the custom parameter that [RLS] was given.
	Setting string
	// Column says whose a row is. Default: tenant_id.
	Column string
	// Schemas are those whose tables are looked at. Default: all but PostgreSQL's.
	Schemas []string
	// Tables are those that get a policy, as "table" or "schema.table", Skip
	// those that do not. Default: all that have the column.
	Tables, Skip []string
	// Name is the policy's. Default: pgkeel_tenant.
	Name string
	// InTransaction makes indexes in a way that may run inside of a transaction,
	// for tools that apply all of the SQL in one: writers wait meanwhile. Default:
	// CREATE INDEX CONCURRENTLY, which must stand on its own.
	InTransaction bool
}

// PolicyPlan is what is missing for tables to be kept apart.
type PolicyPlan struct {
	db         providers.Querier
	statements []string
}

// Policies plans row-level security for the tables that have the tenant's column,
// partitions included: each gets an index that begins with the column, a policy
// for reading and writing, and ENABLE and FORCE ROW LEVEL SECURITY, so far as it
// has not got them. Of a database that has it all the plan is empty, so it may be
// applied by every deployment.
//
// A table that has a policy of another name gets none: as permissive policies
// add up, one more could only show more. It is enabled and forced all the same.
//
// db is a pool or handle that connects as the owner of the tables. It runs the
// statements under [Bypass], each on its own; a [BypassRole] would put them into
// transactions, so set InTransaction there.
func Policies(ctx context.Context, db providers.Querier, o PolicyOptions) (*PolicyPlan, error) {
	o.Column = cmp.Or(o.Column, DefaultTenantColumn)
	o.Name = cmp.Or(o.Name, DefaultPolicyName)
	var c confinement
	c.checkParameter("PolicyOptions.Setting", o.Setting)
	c.fault(db == nil, "Policies", "the database is nil")
	if err := errors.Join(c.faults...); err != nil {
		return nil, err
	}
	tables, err := o.tables(bypassFor(ctx, "tenancy: plan policies"), db)
	if err != nil {
		return nil, fmt.Errorf("pgkeel: tenancy: the tables could not be read, so no policy was planned: %w", err)
	}
	plan := &PolicyPlan{db: db}
	for _, t := range tables {
		plan.statements = append(plan.statements, o.statements(t)...)
	}
	return plan, nil
}

// Statements are what [PolicyPlan.Apply] runs, in that order.
func (p *PolicyPlan) Statements() []string { return slices.Clone(p.statements) }

// SQL is the plan as a script: a statement a line, each with its semicolon.
func (p *PolicyPlan) SQL() string {
	var b strings.Builder
	for _, s := range p.statements {
		b.WriteString(s + ";\n")
	}
	return b.String()
}

// Apply runs the plan. What ran before an error stays, and does not keep
// anybody from his rows that he had before: a table's policy is there before it
// is enabled. So mend the cause, make a new plan and apply that.
func (p *PolicyPlan) Apply(ctx context.Context) error {
	ctx = bypassFor(ctx, "tenancy: apply policies")
	for i, s := range p.statements {
		if _, err := p.db.Exec(ctx, s); err != nil {
			return fmt.Errorf("pgkeel: tenancy: statement %d of %d failed (%s), those before it are applied: %s: %w",
				i+1, len(p.statements), providers.OutcomeOf(err), s, err)
		}
	}
	return nil
}

// policyTable is a table with the tenant's column, as it is.
type policyTable struct {
	schema, name    string
	partitioned     bool
	partition       bool
	columnType      string
	enabled, forced bool
	indexed         bool
	others          bool // has policies of another name
	policy          *policy
}

// policy is one that has the name of ours.
type policy struct {
	plain            bool // permissive, for all commands
	public           bool // and for all roles
	using, withCheck string
}

// The type, or that which a domain is made of, without its modifier, but so that
// char(8) does not become char(1). An index that is not valid, or holds some rows only, does not count.
const policyTablesSQL = `
select n.nspname::text, c.relname::text, c.relkind = 'p', c.relispartition,
	format_type(coalesce(nullif(y.typbasetype, 0), y.oid), -1),
	c.relrowsecurity, c.relforcerowsecurity,
	exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indkey[0] = a.attnum and i.indisvalid and i.indpred is null),
	exists (select from pg_catalog.pg_policy o where o.polrelid = c.oid and o.polname <> $2::text),
	p.oid is not null, coalesce(p.polpermissive and p.polcmd = '*', false), coalesce(p.polroles = '{0}', false),
	coalesce(pg_get_expr(p.polqual, c.oid), ''), coalesce(pg_get_expr(p.polwithcheck, c.oid), '')
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attname = $1::text
join pg_catalog.pg_type y on y.oid = a.atttypid
left join pg_catalog.pg_policy p on p.polrelid = c.oid and p.polname = $2::text
where c.relkind in ('r', 'p') and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
order by 1, 2`

func (o *PolicyOptions) tables(ctx context.Context, db providers.Querier) ([]policyTable, error) {
	rows, err := db.Query(ctx, policyTablesSQL, o.Column, o.Name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var tables []policyTable
	for rows.Next() {
		var t policyTable
		var p policy
		var has bool
		if err := rows.Scan(&t.schema, &t.name, &t.partitioned, &t.partition, &t.columnType, &t.enabled, &t.forced,
			&t.indexed, &t.others, &has, &p.plain, &p.public, &p.using, &p.withCheck); err != nil {
			return nil, err
		}
		if has {
			t.policy = &p
		}
		if o.wants(t) {
			tables = append(tables, t)
		}
	}
	return tables, rows.Err()
}

func (o *PolicyOptions) wants(t policyTable) bool {
	named := func(names []string) bool {
		return slices.Contains(names, t.name) || slices.Contains(names, t.schema+"."+t.name)
	}
	return (len(o.Schemas) == 0 || slices.Contains(o.Schemas, t.schema)) &&
		(len(o.Tables) == 0 || named(o.Tables)) && !named(o.Skip)
}

// statements are what is missing. The index comes first, since the policy needs
// it; then the policy, since a table without one shows nothing.
func (o *PolicyOptions) statements(t policyTable) []string {
	table, column := pgx.Identifier{t.schema, t.name}.Sanitize(), pgx.Identifier{o.Column}.Sanitize()
	name := pgx.Identifier{o.Name}.Sanitize()
	var statements []string
	add := func(format string, args ...any) { statements = append(statements, fmt.Sprintf(format, args...)) }
	switch {
	case t.indexed || t.partition: // which gets that of its parent
	case t.partitioned || o.InTransaction: // PostgreSQL has no other way for the former
		add("create index on %s (%s)", table, column)
	default:
		add("create index concurrently on %s (%s)", table, column)
	}
	is := o.condition(column, t.columnType)
	create := t.policy == nil && !t.others
	if t.policy != nil && !t.policy.plain {
		add("drop policy %s on %s", name, table)
		create = true
	}
	switch {
	case create:
		add("create policy %s on %s using (%s) with check (%s)", name, table, is, is)
	case t.policy != nil && !o.isRight(t.policy, t.columnType):
		add("alter policy %s on %s to public using (%s) with check (%s)", name, table, is, is)
	}
	switch {
	case !t.enabled:
		add("alter table %s enable row level security, force row level security", table)
	case !t.forced:
		add("alter table %s force row level security", table)
	}
	return statements
}

// condition is true for the rows of the tenant. Once a transaction has set a
// parameter, it is empty in the session from then on, not NULL. The parameter is
// read in a query of its own so that the planner does not know its value: it
// plans a prepared statement once, and would make the plan for whichever tenant
// came first. If that one had half of the table, everybody would read all of it.
func (o *PolicyOptions) condition(column, columnType string) string {
	return fmt.Sprintf("%s = (select nullif(current_setting('%s', true), '')::%s)", column, o.Setting, columnType)
}

func (o *PolicyOptions) isRight(p *policy, columnType string) bool {
	return p.public && o.isOurs(p.using, columnType) && o.isOurs(p.withCheck, columnType)
}

// isOurs reports whether the server prints the condition so. If another version
// printed it differently, the policy would be made anew, to no harm.
func (o *PolicyOptions) isOurs(printed, columnType string) bool {
	cast := `(::(text|` + regexp.QuoteMeta(columnType) + `))?`
	column := `(` + regexp.QuoteMeta(pgx.Identifier{o.Column}.Sanitize()) + `|` + regexp.QuoteMeta(o.Column) + `)`
	ours := regexp.MustCompile(`^\(*` + column + `\)*` + cast + ` = \(+ SELECT \(*NULLIF\(current_setting\('` +
		regexp.QuoteMeta(o.Setting) + `'::text, true\), ''::text\)\)*` + cast + ` AS "nullif"\)+` + cast + `\)*$`)
	return ours.MatchString(printed)
}
