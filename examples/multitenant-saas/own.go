package main

import (
	"context"
	"fmt"

	"github.com/pgkeel/pgkeel/pgtest" //nolint:depguard // a PostgreSQL to try the example with; a real service has one
)

// startOwn starts a PostgreSQL that is gone at the end.
func startOwn(ctx context.Context) (*pgtest.Cluster, error) {
	cluster, err := pgtest.Start(ctx, pgtest.Options{})
	if err != nil {
		return nil, fmt.Errorf("start a PostgreSQL, as there is no -dsn: %w", err)
	}
	return cluster, nil
}
