package tenancy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// registrySchema holds what is known of the tenants' schemas.
const registrySchema = "pgkeel"

// registrySQL makes the registry. A schema can belong to one tenant only, whatever
// SchemaName says.
var registrySQL = []string{
	`create schema if not exists pgkeel`,
	`create table if not exists pgkeel.tenants (
		tenant text primary key,
		schema text not null unique,
		created_at timestamptz not null default now())`,
	`create table if not exists pgkeel.migrations (
		schema text not null,
		file text not null,
		checksum text not null,
		applied_at timestamptz not null default now(),
		primary key (schema, file))`,
}

// Tx is a transaction that schemas are administered in: a pgkeel.Tx.
type Tx interface {
	providers.Querier
	Commit(ctx context.Context) error
	Rollback(ctx context.Context) error
}

// Beginner begins transactions: a *pgkeel.DB or a *pgkeel.Conn. Its parameter is
// inferred.
type Beginner[T Tx] interface {
	providers.Querier
	Begin(ctx context.Context, options ...providers.TxOptions) (T, error)
}

// Schemas administers the schemas of tenants for [Schema]. It does so under
// [Bypass], with the caller's reason if there is one, and in transactions that
// also work behind PgBouncer. What it knows is in the tables tenants and
// migrations of the schema pgkeel, which it makes at the first use; the role
// needs the right to create schemas. It is safe for concurrent use, also by
// several processes.
type Schemas struct {
	mode  *schemaMode
	db    providers.Querier
	begin func(ctx context.Context) (Tx, error)
}

// TenantSchema is a tenant and its schema.
type TenantSchema struct {
	// Tenant is the id.
	Tenant string
	// Schema is the name, not quoted.
	Schema string
	// CreatedAt is when Create was called for it first.
	CreatedAt time.Time
}

// NewSchemas returns what administers the schemas in the database of db. The
// options are those that [Schema] is given.
func NewSchemas[T Tx](db Beginner[T], options ...SchemaOption) (*Schemas, error) {
	m := newSchemaMode(options)
	m.fault(any(db) == nil, "NewSchemas", "the database is nil")
	if len(m.faults) > 0 {
		return nil, errors.Join(m.faults...)
	}
	return &Schemas{mode: m, db: db, begin: func(ctx context.Context) (Tx, error) { return db.Begin(ctx) }}, nil
}

// Create makes the tenant's schema, empty: [Schemas.Migrate] fills it. A schema
// that exists stays as it is and becomes the tenant's, unless it is another's.
func (s *Schemas) Create(ctx context.Context, tenant string) error {
	return s.change(ctx, "create", tenant, func(ctx context.Context, tx Tx, name string) error {
		if _, err := tx.Exec(ctx, `insert into pgkeel.tenants (tenant, schema) values ($1, $2) on conflict do nothing`, tenant, name); err != nil {
			return err
		}
		var owner, schema string
		err := tx.QueryRow(ctx, `select tenant, schema from pgkeel.tenants where tenant = $1 or schema = $2
			order by tenant = $1 and schema = $2 limit 1`, tenant, name).Scan(&owner, &schema)
		if err != nil {
			return err
		}
		if owner != tenant || schema != name {
			return fmt.Errorf("the schema %q cannot be that of tenant %q, as %q is that of %q: "+
				"SchemaName must give each tenant one name, and no two the same", name, tenant, schema, owner)
		}
		_, err = tx.Exec(ctx, "create schema if not exists "+pgx.Identifier{name}.Sanitize())
		return err
	})
}

// Drop removes the tenant's schema with all that is in it, for ever, and what was
// known of it. Without a schema it does nothing. PostgreSQL locks every table of
// the schema for it: of thousands, max_locks_per_transaction has to allow so many.
func (s *Schemas) Drop(ctx context.Context, tenant string) error {
	return s.change(ctx, "drop", tenant, func(ctx context.Context, tx Tx, name string) error {
		var owner string
		err := tx.QueryRow(ctx, `select coalesce(max(tenant), $1) from pgkeel.tenants where schema = $2`, tenant, name).Scan(&owner)
		if err != nil {
			return err
		}
		if owner != tenant {
			return fmt.Errorf("the schema %q is that of tenant %q", name, owner)
		}
		for _, sql := range []string{`delete from pgkeel.migrations where schema = $1`, `delete from pgkeel.tenants where schema = $1`} {
			if _, err := tx.Exec(ctx, sql, name); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, "drop schema if exists "+pgx.Identifier{name}.Sanitize()+" cascade")
		return err
	})
}

// List returns the tenants that have a schema, in the order of their ids.
func (s *Schemas) List(ctx context.Context) ([]TenantSchema, error) {
	ctx = bypassFor(ctx, "tenancy: list schemas")
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	list, err := s.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("pgkeel: tenancy: list schemas: %w", err)
	}
	return list, nil
}

func (s *Schemas) list(ctx context.Context) ([]TenantSchema, error) {
	rows, err := s.db.Query(ctx, `select tenant, schema, created_at from pgkeel.tenants order by tenant collate "C"`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []TenantSchema
	for rows.Next() {
		var t TenantSchema
		if err := rows.Scan(&t.Tenant, &t.Schema, &t.CreatedAt); err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, rows.Err()
}

// change does something to the schema of a tenant while nobody else does.
func (s *Schemas) change(ctx context.Context, what, tenant string, fn func(ctx context.Context, tx Tx, name string) error) error {
	ctx = bypassFor(ctx, "tenancy: "+what+" schema")
	if tenant == "" {
		return ErrNoTenant
	}
	name, err := s.mode.schemaOf(tenant)
	if err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	err = s.inTx(ctx, func(tx Tx) error {
		if _, err := tx.Exec(ctx, lockSQL, name); err != nil {
			return err
		}
		return fn(ctx, tx, name)
	})
	if err != nil {
		return fmt.Errorf("pgkeel: tenancy: %s the schema of tenant %q (%s): %w", what, cut(tenant), providers.OutcomeOf(err), err)
	}
	return nil
}

// lockSQL holds off others who change the schema, until the transaction ends.
const lockSQL = `select pg_advisory_xact_lock(hashtextextended('pgkeel.tenancy:' || $1::text, 0))`

// prepare makes the registry where it is missing.
func (s *Schemas) prepare(ctx context.Context) error {
	var there bool
	err := s.db.QueryRow(ctx, `select to_regclass('pgkeel.migrations') is not null`).Scan(&there)
	if err == nil && !there {
		err = s.inTx(ctx, func(tx Tx) error {
			// IF NOT EXISTS does not hold against another who does the same. No
			// schema of a tenant has this name.
			_, err := tx.Exec(ctx, lockSQL, registrySchema)
			for i := 0; err == nil && i < len(registrySQL); i++ {
				_, err = tx.Exec(ctx, registrySQL[i])
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("pgkeel: tenancy: the schema %s, for what is known of tenants' schemas, could not be made: %w", registrySchema, err)
	}
	return nil
}

// inTx runs fn in a transaction, which it commits if there is no error.
func (s *Schemas) inTx(ctx context.Context, fn func(tx Tx) error) error {
	tx, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after a commit it does nothing
	switch err := fn(tx); {
	case errors.Is(err, errEndedTx):
		return err
	case err != nil:
		return &rolledBackError{err}
	default:
		return tx.Commit(ctx)
	}
}

// rolledBackError is an error in a transaction that was never committed.
type rolledBackError struct{ error }

func (e *rolledBackError) Unwrap() error { return e.error }

// Outcome is OutcomeRolledBack: without a COMMIT the server undoes it, whatever
// became of the connection.
func (*rolledBackError) Outcome() providers.Outcome { return providers.OutcomeRolledBack }
