package bench

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/cluster"
)

// replicas are scenarios of a primary and a standby.
func replicas() []Scenario {
	baseline := onStandby(onPool(func(pool *pgxpool.Pool, site Site) Op { return queryRow(pool, site) }))
	return []Scenario{
		{
			Name: "cluster.reader", About: "a row by its key, by Reader() of a handle with a replica; the baseline is a pool on that replica",
			Standby: true, Apart: true, Setup: setupItems, Bar: Bar{CPU: 1.03}, Ours: withReplica(readByReader), Baseline: baseline,
		},
	}
}

// readByReader reads as a service does, which asks for the reader each time.
func readByReader(db *pgkeel.DB, site Site) Op {
	sql := `select name, price from ` + site.Table("items") + ` where id = $1`
	return func(ctx context.Context, caller, n int) error {
		var name string
		var price float64
		return db.Reader().QueryRow(ctx, sql, keyOf(caller, n)).Scan(&name, &price)
	}
}

// withReplica opens a handle on the primary and its standby. A read that no replica
// is fit for fails, so that the primary does nobody's work.
func withReplica(op func(db *pgkeel.DB, site Site) Op) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		return onHandle(op, pgkeel.WithReplicas(site.Standby), pgkeel.WithCluster(cluster.Options{Fallback: cluster.FallbackError}))(ctx, site)
	}
}

// onStandby opens a side on the standby.
func onStandby(open Opener) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		site.DSN = site.Standby
		return open(ctx, site)
	}
}
