package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	// maxName is where PostgreSQL cuts a name, in bytes: what is longer could
	// become the name of another tenant's schema.
	maxName = 63
	// schemaPrefix is in front of a tenant's id.
	schemaPrefix = "tenant_"
	// basePath is the search path of a session outside of any operation.
	basePath = "pg_catalog"
)

// Schema keeps tenants apart by a schema for each: the search path of a
// tenant's operation is the tenant's schema, so that unqualified names mean its
// tables. [Schemas] makes and migrates them.
//
// Outside of a tenant's operation the search path has no schema of an
// application in it. A statement can therefore not be taken for one on another
// table, and what is done under [Bypass] qualifies its names, those of
// AfterConnect and of the warm-up queries included (shared schemas need not be
// qualified under Bypass). The search path is sent as a parameter at start-up,
// and one in the DSN is an error; behind PgBouncer, which refuses such
// parameters, statements are not prepared ahead, and it is not needed.
//
// A server process remembers every table that it has met, at some 10 kB for one
// with an index, until its connection ends: with many thousands of them a shorter
// MaxLifetime keeps the server's memory small.
//
// Of a tenant whose schema does not exist, every statement fails as the table
// does not exist. Qualified names reach other schemas all the same, as do
// statements that set the search path: [Role] or [RoleFunc] and the server's
// privileges keep tenants from them.
func Schema(options ...SchemaOption) Mode { return newSchemaMode(options) }

func newSchemaMode(options []SchemaOption) *schemaMode {
	m := &schemaMode{name: defaultSchemaName}
	for _, o := range options {
		if o == nil {
			m.fault(true, "Schema", "one of the options is nil; leave it out")
			continue
		}
		o.applySchema(m)
	}
	return m
}

type schemaMode struct {
	confinement

	name   func(tenant string) (string, error)
	shared []string
}

var _ Mode = (*schemaMode)(nil)

type schemaOption func(*schemaMode)

func (o schemaOption) applySchema(m *schemaMode) { o(m) }

// SchemaName tells the name of a tenant's schema. It is asked at the beginning of
// each operation, so it should be quick, and it has to give the same answer each
// time. It must not give two tenants the same name: then they would share all
// they have. That cannot be checked when a statement runs, but [Schemas.Create]
// refuses the second. The name is quoted, so it may have any characters; it has
// to be UTF-8 of 1 to 63 bytes, and not one that PostgreSQL or pgkeel uses itself.
//
// Default: tenant_ and the id, which may have up to 56 characters of a to z, 0 to
// 9 and _.
func SchemaName(name func(tenant string) (string, error)) SchemaOption {
	return schemaOption(func(m *schemaMode) {
		m.fault(name == nil, "SchemaName", "the function is nil; leave it out for %s and the id", schemaPrefix)
		m.name = name
	})
}

// SharedSchemas are behind the tenant's in the search path, such as one for
// extensions, or public. A table that is missing in a tenant's schema is looked
// for there: a table that tenants have must not exist in them.
func SharedSchemas(names ...string) SchemaOption {
	return schemaOption(func(m *schemaMode) {
		for _, name := range names {
			fault := nameFault(name)
			m.fault(fault != "", "SharedSchemas", "the name %q %s", name, fault)
		}
		m.shared = append(m.shared, names...)
	})
}

// Open opens the pool.
func (m *schemaMode) Open(ctx context.Context, cfg providers.Config, open Opener) (providers.Pool, error) {
	var bypass []providers.Setting
	if len(m.shared) > 0 {
		bypass = []providers.Setting{{Name: "search_path", Value: searchPath(m.shared...)}}
	}
	direct := cfg.Profile != providers.ProfilePgBouncer
	err := m.configure(&cfg, m.scopeFunc(bypass, m.tenantSetting))
	if direct {
		var dsnErr error
		cfg.DSN, dsnErr = withSearchPath(cfg.DSN)
		err = errors.Join(err, dsnErr)
	}
	if err != nil {
		return nil, err
	}
	pool, err := open(ctx, cfg)
	if err != nil || !direct {
		return pool, err
	}
	if err := checkBasePath(bypassFor(ctx, "tenancy: the check at Open"), pool); err != nil {
		closePool(ctx, pool)
		return nil, err
	}
	return pool, nil
}

func (m *schemaMode) tenantSetting(id string) (providers.Setting, error) {
	name, err := m.schemaOf(id)
	if err != nil {
		return providers.Setting{}, err
	}
	path := pgx.Identifier{name}.Sanitize()
	if len(m.shared) > 0 {
		path = searchPath(append([]string{name}, m.shared...)...)
	}
	return providers.Setting{Name: "search_path", Value: path}, nil
}

// schemaOf returns the name of the tenant's schema, not quoted.
func (m *schemaMode) schemaOf(id string) (string, error) {
	name, err := m.name(id)
	if err != nil {
		var told *notSentError
		if errors.As(err, &told) {
			return "", err
		}
		return "", &notSentError{fmt.Errorf("pgkeel: tenancy: SchemaName: %w; nothing was sent", err)}
	}
	fault := nameFault(name)
	if fault == "" && (name == "public" || slices.Contains(m.shared, name)) {
		fault = "is that of a schema which is not for one tenant alone"
	}
	if fault != "" {
		return "", refusef("the tenant's schema name %q %s", cut(name), fault)
	}
	return name, nil
}

// defaultSchemaName gives every id a name of its own, as it changes nothing.
func defaultSchemaName(id string) (string, error) {
	if strings.ContainsFunc(id, func(r rune) bool { return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') }) {
		return "", refusef("the tenant's id %q has characters other than a to z, 0 to 9 and _; "+
			"say with SchemaName what its schema is called", cut(id))
	}
	return schemaPrefix + id, nil
}

// nameFault says why a schema of a tenant, or a shared one, cannot be called that.
func nameFault(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > maxName:
		return fmt.Sprintf("has %d bytes, more than the %d of a name in PostgreSQL", len(name), maxName)
	case strings.HasPrefix(strings.ToLower(name), "pg_"), name == "information_schema":
		return "is PostgreSQL's own"
	case name == "$user": // which PostgreSQL replaces, also when it is quoted
		return "stands for the role's name"
	case name == registrySchema:
		return "is that of pgkeel's own schema"
	default:
		return textFault(name)
	}
}

// cut keeps an error short.
func cut(s string) string {
	if len(s) > maxName {
		return s[:maxName] + "…"
	}
	return s
}

func searchPath(names ...string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = pgx.Identifier{name}.Sanitize()
	}
	return strings.Join(quoted, ", ")
}

// withSearchPath adds the base path to a DSN of either form. As a parameter of
// the start-up it is what RESET comes back to, and stands before what the role
// or the database have for it.
func withSearchPath(dsn string) (string, error) {
	before, err := pgx.ParseConfig(dsn)
	if err != nil {
		return dsn, nil //nolint:nilerr // the provider says so, and better
	}
	if given, ok := before.RuntimeParams["search_path"]; ok {
		return dsn, &providers.ConfigError{Field: "DSN", Problem: fmt.Sprintf("has the search_path %q, which a schema per tenant "+
			"sets itself; leave it out (shared schemas are an option: tenancy.SharedSchemas)", given)}
	}
	added := addParameter(dsn, "search_path", basePath)
	if after, err := pgx.ParseConfig(added); err != nil || after.RuntimeParams["search_path"] != basePath {
		return dsn, &providers.ConfigError{Field: "DSN", Problem: "cannot be given a search_path; " +
			"use postgres://user@host:5432/database or host=… user=… dbname=…"}
	}
	return added, nil
}

// addParameter adds a parameter, whose value needs no quotes, to a DSN.
func addParameter(dsn, name, value string) string {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return strings.TrimSpace(dsn + " " + name + "=" + value)
	}
	switch {
	case strings.HasSuffix(dsn, "?"), strings.HasSuffix(dsn, "&"):
	case strings.Contains(dsn, "?"):
		dsn += "&"
	default:
		dsn += "?"
	}
	return dsn + name + "=" + value
}

// checkBasePath refuses a server to which the parameter did not come through.
func checkBasePath(ctx context.Context, pool providers.Pool) error {
	var path string
	// What is in force at the moment can be a setting of the bypass.
	err := pool.QueryRow(ctx, `select reset_val from pg_catalog.pg_settings where name = 'search_path'`).Scan(&path)
	switch {
	case err != nil:
		return fmt.Errorf("pgkeel: tenancy: the database could not be checked, so it was not opened: %w", err)
	case path != basePath:
		return fmt.Errorf("pgkeel: tenancy: sessions begin with the search_path %q although %q was asked for, so the database was not opened; "+
			"something between here and the server drops parameters of the start-up: connect directly, or use ProfilePgBouncer", path, basePath)
	default:
		return nil
	}
}
