package tenancy_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/tenancy"
)

// Policies are planned and applied as the owner of the tables, and the
// application connects as a role that they bind.
func ExampleRLS() {
	if err := withRLS(context.Background()); err != nil {
		log.Print(err)
	}
}

func withRLS(ctx context.Context) error {
	owner, err := pgkeel.Open(ctx, os.Getenv("OWNER_URL"))
	if err != nil {
		return err
	}
	defer func() { _ = owner.Close(ctx) }()
	plan, err := tenancy.Policies(ctx, owner, tenancy.PolicyOptions{Setting: "app.tenant_id"})
	if err != nil {
		return err
	}
	if err := plan.Apply(ctx); err != nil { // or print plan.SQL()
		return err
	}

	db, err := pgkeel.Open(ctx, os.Getenv("DATABASE_URL"), pgkeel.WithTenancy(
		tenancy.RLS("app.tenant_id", tenancy.UserSetting("app.user_id"), tenancy.TenantConcurrency(10))))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close(ctx) }()
	orders, err := db.QueryCount(pgkeel.WithTenantID(ctx, "acme"), `select count(*) from orders`)
	fmt.Println(orders) // acme's
	return err
}

func ExampleSchemas() {
	if err := withSchemas(context.Background()); err != nil {
		log.Print(err)
	}
}

func withSchemas(ctx context.Context) error {
	db, err := pgkeel.Open(ctx, os.Getenv("DATABASE_URL"), pgkeel.WithTenancy(tenancy.Schema()))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close(ctx) }()
	schemas, err := tenancy.NewSchemas(db)
	if err != nil {
		return err
	}
	if err := schemas.Create(ctx, "acme"); err != nil {
		return err
	}
	report, err := schemas.Migrate(ctx, tenancy.MigrateOptions{
		FS:       os.DirFS("migrations"),
		Parallel: 8,
		Progress: func(p tenancy.MigrateProgress) { log.Printf("%d of %d: %s %v", p.Done, p.Total, p.Tenant, p.Err) },
	})
	fmt.Println(report.Migrated)
	return err
}
