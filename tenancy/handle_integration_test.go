package tenancy_test

import (
	"context"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/tenancy"
)

// A file of several statements also gets through a handle that sends settings
// along with each.
func TestSchemasThroughAHandle(t *testing.T) {
	db, err := pgkeel.Open(t.Context(), pgtest.NewDB(t), pgkeel.WithDeadlinePropagation(), pgkeel.WithTenancy(tenancy.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close(context.Background()) }()
	schemas, err := tenancy.NewSchemas(db)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, id := range []string{"a", "b"} {
		if err := schemas.Create(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	report, err := schemas.Migrate(ctx, tenancy.MigrateOptions{FS: fstest.MapFS{
		"1.sql": {Data: []byte(`create table t (schema text); insert into t values (current_schema())`)},
	}})
	if err != nil || report.Migrated != 2 {
		t.Fatalf("%+v %v", report, err)
	}
	for _, id := range []string{"a", "b"} {
		var schema string
		if err := db.QueryRow(pgkeel.WithTenantID(ctx, id), `select schema from t`).Scan(&schema); err != nil || schema != "tenant_"+id {
			t.Errorf("%s: %q %v", id, schema, err)
		}
	}
}
