package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// CreateTestTenant makes a tenant in the database of db: a row in the table
// tenants, which is made if it is missing, and a schema with the tenant's id
// for its name. A tenant that is there stays as it is. It fails the test on an
// id that cannot be the name of a schema: one that is empty, over 63 bytes
// (PostgreSQL would cut it, so that two tenants might become one), not UTF-8,
// with a NUL, or a name that PostgreSQL keeps for itself.
func CreateTestTenant(t *testing.T, db *sql.DB, tenantID string) {
	t.Helper()
	ctx, cancel := limited(t.Context())
	defer cancel()
	if err := createTenant(ctx, db, tenantID); err != nil {
		t.Fatal(err)
	}
}

func createTenant(ctx context.Context, db *sql.DB, id string) error {
	if err := checkTenant(id); err != nil {
		return err
	}
	if db == nil {
		return errors.New("pgtest: CreateTestTenant: the database is nil")
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("pgtest: tenant %q: %w", id, err)
	}
	defer func() { _ = tx.Rollback() }()
	for _, stmt := range []struct {
		sql  string
		args []any
	}{
		// IF NOT EXISTS does not hold against another who creates the same at
		// the same time.
		{`select pg_advisory_xact_lock(hashtext('pgtest.tenants'))`, nil},
		{`create table if not exists tenants (
			id text primary key,
			created_at timestamptz not null default now())`, nil},
		{`insert into tenants (id) values ($1) on conflict do nothing`, []any{id}},
		{`create schema if not exists ` + pgx.Identifier{id}.Sanitize(), nil},
	} {
		if _, err := tx.ExecContext(ctx, stmt.sql, stmt.args...); err != nil {
			return fmt.Errorf("pgtest: tenant %q: %w", id, err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("pgtest: tenant %q: %w", id, err)
	}
	return nil
}

func checkTenant(id string) error {
	var fault string
	switch {
	case id == "":
		fault = "is empty"
	case len(id) > maxIdentifier:
		fault = fmt.Sprintf("has %d bytes, more than the %d of a name in PostgreSQL", len(id), maxIdentifier)
	case strings.ContainsRune(id, 0):
		fault = "contains a NUL"
	case !utf8.ValidString(id):
		fault = "is not UTF-8"
	case strings.HasPrefix(id, "pg_"), id == "public", id == "information_schema":
		fault = "is the name of a schema of PostgreSQL's own"
	default:
		return nil
	}
	return fmt.Errorf("pgtest: the tenant id %q %s", id, fault)
}
