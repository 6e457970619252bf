package tenancy_test

import (
	"context"
	"fmt"
	"log"

	"github.com/pgkeel/pgkeel/providers"
	pgxprovider "github.com/pgkeel/pgkeel/providers/pgx"
	"github.com/pgkeel/pgkeel/tenancy"
)

// A database per tenant, whose DSN a control database knows. With the handle the
// mode is an option: pgkeel.WithTenancy(tenancy.Database(…)).
func ExampleDatabase() {
	ctx := context.Background()
	control, err := pgxprovider.Open(ctx, providers.Config{DSN: "postgres://control.example.com/control"})
	if err != nil {
		log.Fatal(err)
	}
	mode := tenancy.Database(
		tenancy.DirectoryTable(control, `select dsn from tenants where id = $1`),
		tenancy.MaxConnections(100),
	)
	pool, err := mode.Open(ctx, providers.Config{}, pgxprovider.Provider{}.Open)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = pool.Close(ctx) }()

	var orders int
	acme := providers.WithTenantID(ctx, "acme")
	err = pool.QueryRow(acme, `select count(*) from orders`).Scan(&orders) // on acme's database
	fmt.Println(orders, err)
}
