package pgkeel_test

import (
	"context"
	"errors"
	"testing"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/tenancy"
)

// The *sql.DB of a handle with a database per tenant goes to the database of each
// context's tenant.
func TestSQLOverDatabases(t *testing.T) {
	dsns := map[string]string{"one": pgtest.NewDB(t), "two": pgtest.NewDB(t)}
	db, err := pgkeel.Open(t.Context(), "", pgkeel.WithTenancy(tenancy.Database(tenancy.DirectoryFunc(
		func(_ context.Context, tenant string) (string, error) {
			if dsn, ok := dsns[tenant]; ok {
				return dsn, nil
			}
			return "", tenancy.ErrUnknownTenant
		}))))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.WithoutCancel(t.Context()))
	sqlDB := db.SQL()
	if db.Unwrap() != nil || sqlDB == nil {
		t.Fatal("there is no one pool to unwrap, but a *sql.DB")
	}
	one, two := pgkeel.WithTenantID(t.Context(), "one"), pgkeel.WithTenantID(t.Context(), "two")
	for _, ctx := range []context.Context{one, two, one} {
		if _, err := sqlDB.ExecContext(ctx, "create table if not exists seen (who text)"); err != nil {
			t.Fatal(err)
		}
		tx, err := sqlDB.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		tenant, _ := pgkeel.GetTenantID(ctx)
		if _, err := tx.ExecContext(ctx, "insert into seen values ($1)", tenant); err != nil {
			t.Error(err)
		}
		if err := tx.Commit(); err != nil {
			t.Error(err)
		}
		var others int
		if err := sqlDB.QueryRowContext(ctx, "select count(*) from seen where who <> $1", tenant).Scan(&others); err != nil || others != 0 {
			t.Errorf("%s sees %d rows of others; %v", tenant, others, err)
		}
	}
	conn, err := sqlDB.Conn(one)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(two, "select 1"); err == nil {
		t.Error("a connection of one served two")
	}
	_ = conn.Close() // database/sql gave it up already
	if _, err := sqlDB.ExecContext(t.Context(), "select 1"); !errors.Is(err, tenancy.ErrNoTenant) {
		t.Errorf("without a tenant: %v", err)
	}
	if _, err := sqlDB.ExecContext(pgkeel.WithTenantID(t.Context(), "three"), "select 1"); !errors.Is(err, tenancy.ErrUnknownTenant) {
		t.Errorf("an unknown tenant: %v", err)
	}
}
