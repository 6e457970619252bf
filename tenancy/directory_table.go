package tenancy

import (
	"context"
	"fmt"

	"github.com/pgkeel/pgkeel/providers"
)

// DirectoryTable is a [Directory] in a control database: query gets the tenant's
// id as $1 and returns the DSN, such as
//
//	select dsn from tenants where id = $1
//
// No row, or NULL, is a tenant that does not exist; more than one row is an error.
// control is a handle of its own, not the one whose tenants it knows.
func DirectoryTable(control providers.Querier, query string) Directory {
	return &tableDirectory{control, query}
}

type tableDirectory struct {
	control providers.Querier
	query   string
}

// Lookup runs the query.
func (d *tableDirectory) Lookup(ctx context.Context, tenant string) (string, error) {
	rows, err := d.control.Query(ctx, d.query, tenant)
	if err != nil {
		return "", fmt.Errorf("the directory's query: %w", err)
	}
	defer rows.Close()
	var dsn *string
	found := 0
	for rows.Next() {
		if found++; found > 1 {
			return "", fmt.Errorf("the directory's query returned more than one row for the tenant %q", tenant)
		}
		if err := rows.Scan(&dsn); err != nil {
			return "", fmt.Errorf("the directory's query: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return "", fmt.Errorf("the directory's query: %w", err)
	}
	if dsn == nil {
		return "", unknownTenant(tenant)
	}
	return *dsn, nil
}
