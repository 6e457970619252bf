package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel"
)

// Op is one operation: the n-th of a caller in a round, from 0. Several
// callers run it at once, so it keeps no state of its own.
type Op func(ctx context.Context, caller, n int) error

// Side is one of the two that are compared, ready to work.
type Side struct {
	Op    Op
	Close func(ctx context.Context) error
	// Note is what the report tells of the side when it has worked. Optional.
	Note func() string
}

// Site is where a side is to work.
type Site struct {
	// DSN of the database.
	DSN string
	// Standby is the DSN of a standby, for a scenario that asks for one.
	Standby string
	// Schema of the scenario's tables; qualify their names with Table.
	Schema string
	// PoolSize is the same for both sides, unless the scenario says otherwise.
	PoolSize int
	// Callers is how many will work at once.
	Callers int
	// Duration is what each side gets in a round.
	Duration time.Duration
}

// Table is the quoted name of a table of the benchmark.
func (s Site) Table(name string) string { return tableIn(s.Schema, name) }

func tableIn(schema, name string) string { return pgx.Identifier{schema, name}.Sanitize() }

// Opener opens a side. An error leaves nothing open.
type Opener func(ctx context.Context, site Site) (Side, error)

// SetupFunc prepares the database on a connection of its own.
type SetupFunc func(ctx context.Context, conn *pgx.Conn, schema string) error

// Scenario is one piece of work, written for both sides.
type Scenario struct {
	// Name as it is in the report and as -only matches it.
	Name string
	// About is a line for the help.
	About string
	// Parallel runs it with as many callers as -callers says, otherwise one.
	Parallel bool
	// Callers runs it with as many callers, whatever -callers says. Optional.
	Callers int
	// Slice is how long a side works before it is the other's turn. What is
	// under way at its end is waited for, so it must be long beside an
	// operation. Optional.
	Slice time.Duration
	// Apart keeps this process and the benchmark's own server on processors of
	// their own, for what is about a few hundredths of CPU.
	Apart bool
	// Timed says which operations count for the latency: the n-th of a caller.
	// Optional; all of them.
	Timed func(caller, n int) bool
	// Bar is what is promised of it; the report tells whether it held.
	Bar Bar
	// Standby asks for one, which only a PostgreSQL of the benchmark's own has.
	Standby bool
	// Setup makes the tables. It may run on a schema where an earlier scenario
	// has made the same. Optional.
	Setup SetupFunc
	// Reset runs before each round, outside of the measuring. Optional.
	Reset SetupFunc
	// Ours and Baseline open the sides.
	Ours, Baseline Opener
}

// Bar is a promise about a scenario. The zero Bar promises nothing.
type Bar struct {
	// CPU is the highest ratio of CPU per operation.
	CPU float64
	// Throughput is the lowest ratio of throughput.
	Throughput float64
	// P99 is the highest ratio of the 99th percentile of the latency.
	P99 float64
	// NoMoreAllocs promises that ours allocates no more often.
	NoMoreAllocs bool
	// Added is by how much the median may be longer.
	Added time.Duration
}

// The promises of the project.
var (
	nothingEnabled    = Bar{CPU: 1.01, NoMoreAllocs: true}
	everythingEnabled = Bar{CPU: 1.05}
)

// onHandle opens pgkeel's side: a handle with those options, and the pool size
// that both sides have.
func onHandle(op func(db *pgkeel.DB, site Site) Op, options ...pgkeel.Option) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		size := pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: int32(site.PoolSize)}) //nolint:gosec // at most maxCallers
		db, err := pgkeel.Open(ctx, site.DSN, slices.Concat([]pgkeel.Option{size}, options)...)
		if err != nil {
			return Side{}, err
		}
		return Side{Op: op(db, site), Close: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
			defer cancel()
			return db.Close(ctx)
		}}, nil
	}
}

// onPool opens the baseline: pgxpool as it comes.
func onPool(op func(pool *pgxpool.Pool, site Site) Op) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		config, err := pgxpool.ParseConfig(site.DSN)
		if err != nil {
			return Side{}, err
		}
		config.MaxConns = int32(site.PoolSize) //nolint:gosec // at most maxCallers
		pool, err := pgxpool.NewWithConfig(ctx, config)
		if err != nil {
			return Side{}, err
		}
		return Side{Op: op(pool, site), Close: func(context.Context) error {
			pool.Close()
			return nil
		}}, nil
	}
}

// everything is all that is optional in the handle, with hooks that do as
// little as a hook can.
func everything() []pgkeel.Option {
	return append(hooked(), pgkeel.WithDeadlinePropagation())
}

// hooked observes every event, and watches for leaks.
func hooked() []pgkeel.Option {
	return []pgkeel.Option{
		pgkeel.WithHooks(pgkeel.Hook{
			Name:   "bench",
			Before: func(ctx context.Context, _ *pgkeel.HookInfo) context.Context { return ctx },
			After:  func(context.Context, *pgkeel.HookInfo) {},
		}),
		pgkeel.WithLeakDetection(time.Minute),
	}
}

// itemCount is how many rows the table items has. Its keys begin with 1.
const itemCount = 10_000

// keyOf spreads the operations over the table, the same way on both sides, and
// so that callers do not meet on a row.
func keyOf(caller, n int) int64 { return int64((caller*1237+n*31)%itemCount) + 1 }

// setupItems makes the table items. Its pages have room for the new versions
// of their rows, so that updates do not make it grow.
func setupItems(ctx context.Context, conn *pgx.Conn, schema string) error {
	table := tableIn(schema, "items")
	for _, sql := range []string{
		`create table if not exists ` + table + ` (id bigint primary key, name text not null,
			price float8 not null, quantity bigint not null, created timestamptz not null) with (fillfactor = 50)`,
		fmt.Sprintf(`insert into %s select i, 'item ' || i, i / 100.0, 0, now() from generate_series(1, %d) i
			on conflict do nothing`, table, itemCount),
		`vacuum analyze ` + table,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
