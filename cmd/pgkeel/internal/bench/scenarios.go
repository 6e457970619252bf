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

// Scenarios returns all there are, in the order of the report.
func Scenarios() []Scenario {
	return append([]Scenario{
		single("queryrow", "a row by its key", nothingEnabled, queryRow),
		parallel(single("queryrow.par", "the same by several callers", nothingEnabled, queryRow)),
		single("queryrow.hooks", "the same with hooks on every event and leak detection", Bar{}, queryRow, hooked()...),
		single("queryrow.all", "the same with everything enabled", everythingEnabled, queryRow, everything()...),
		single("rows1000", "1,000 rows, scanned", nothingEnabled, rows1000),
		single("exec", "an update by key", nothingEnabled, exec),
		single("exec.all", "the same with everything enabled", everythingEnabled, exec, everything()...),
		items("tx", "begin, an update, commit", onHandle(txOnHandle), onPool(txOnPool)),
		items("runtx", "the same as a closure: RunTx, pgx.BeginFunc", onHandle(runTxOnHandle), onPool(runTxOnPool)),
		items("batch10", "a batch of 10 queries", onHandle(batchOn[*pgkeel.DB]), onPool(batchOn[*pgxpool.Pool])),
		copying(),
		items("one", "a row as a struct: One, pgx.CollectExactlyOneRow", onHandle(oneOnHandle), onPool(oneOnPool)),
		items("all1000", "1,000 rows as structs: All, pgx.CollectRows", onHandle(allOnHandle), onPool(allOnPool)),
	}, slices.Concat(batches(), copies(), notifications(), pipelines(), tenants(), replicas())...)
}

// items is a scenario on the table items with nothing enabled.
func items(name, about string, our, base Opener) Scenario {
	return Scenario{Name: name, About: about, Bar: nothingEnabled, Apart: true, Setup: setupItems, Ours: our, Baseline: base}
}

// single is a scenario of single statements, for which both sides have the
// same methods, and so run the very same code. The options are pgkeel's alone.
func single(name, about string, bar Bar, op func(q pgkeel.Querier, site Site) Op, options ...pgkeel.Option) Scenario {
	sc := items(name, about,
		onHandle(func(db *pgkeel.DB, site Site) Op { return op(db, site) }, options...),
		onPool(func(pool *pgxpool.Pool, site Site) Op { return op(pool, site) }))
	sc.Bar = bar
	return sc
}

// parallel runs a scenario with several callers.
func parallel(sc Scenario) Scenario {
	sc.Parallel = true
	return sc
}

func queryRow(q pgkeel.Querier, site Site) Op {
	sql := `select name, price from ` + site.Table("items") + ` where id = $1`
	return func(ctx context.Context, caller, n int) error {
		var name string
		var price float64
		return q.QueryRow(ctx, sql, keyOf(caller, n)).Scan(&name, &price)
	}
}

func exec(q pgkeel.Querier, site Site) Op {
	sql := updateSQL(site)
	return func(ctx context.Context, caller, n int) error {
		tag, err := q.Exec(ctx, sql, keyOf(caller, n))
		if err != nil {
			return err
		}
		return expect(1, tag.RowsAffected())
	}
}

func updateSQL(site Site) string {
	return `update ` + site.Table("items") + ` set quantity = quantity + 1 where id = $1`
}

// expect finds out a side that does less than it should.
func expect(want, got int64) error {
	if want != got {
		return fmt.Errorf("%d rows instead of %d", got, want)
	}
	return nil
}

// item is a row of the table items.
type item struct {
	ID       int64
	Name     string
	Price    float64
	Quantity int64
	Created  time.Time
}

// manyRows is how many rows rows1000 and all1000 read.
const manyRows = 1000

func itemsSQL(site Site, where string) string {
	return `select id, name, price, quantity, created from ` + site.Table("items") + ` where ` + where
}

func manySQL(site Site) string {
	return itemsSQL(site, fmt.Sprintf(`id between $1 and $1 + %d`, manyRows-1))
}

// firstOf is where the many rows begin.
func firstOf(caller, n int) int64 { return keyOf(caller, n)%(itemCount-manyRows) + 1 }

func rows1000(q pgkeel.Querier, site Site) Op {
	sql := manySQL(site)
	return func(ctx context.Context, caller, n int) error {
		rows, err := q.Query(ctx, sql, firstOf(caller, n))
		if err != nil {
			return err
		}
		defer rows.Close()
		var it item
		var count int64
		for rows.Next() {
			if err := rows.Scan(&it.ID, &it.Name, &it.Price, &it.Quantity, &it.Created); err != nil {
				return err
			}
			count++
		}
		if err := rows.Err(); err != nil {
			return err
		}
		return expect(manyRows, count)
	}
}

func txOnHandle(db *pgkeel.DB, site Site) Op {
	sql := updateSQL(site)
	return func(ctx context.Context, caller, n int) error {
		tx, err := db.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(ctx) }() // after a commit it does nothing
		if _, err := tx.Exec(ctx, sql, keyOf(caller, n)); err != nil {
			return err
		}
		return tx.Commit(ctx)
	}
}

func txOnPool(pool *pgxpool.Pool, site Site) Op {
	sql := updateSQL(site)
	return func(ctx context.Context, caller, n int) error {
		tx, err := pool.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(ctx) }() // after a commit it does nothing
		if _, err := tx.Exec(ctx, sql, keyOf(caller, n)); err != nil {
			return err
		}
		return tx.Commit(ctx)
	}
}

func runTxOnHandle(db *pgkeel.DB, site Site) Op {
	sql := updateSQL(site)
	return func(ctx context.Context, caller, n int) error {
		return db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			_, err := tx.Exec(ctx, sql, keyOf(caller, n))
			return err
		})
	}
}

func runTxOnPool(pool *pgxpool.Pool, site Site) Op {
	sql := updateSQL(site)
	return func(ctx context.Context, caller, n int) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, sql, keyOf(caller, n))
			return err
		})
	}
}

type batcher interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// batchSize is how many queries batch10 sends at once.
const batchSize = 10

func batchOn[B batcher](b B, site Site) Op {
	sql := `select name, price from ` + site.Table("items") + ` where id = $1`
	return func(ctx context.Context, caller, n int) error {
		var batch pgx.Batch
		for i := range batchSize {
			batch.Queue(sql, keyOf(caller, n+i))
		}
		results := b.SendBatch(ctx, &batch)
		defer func() { _ = results.Close() }() // a second close does nothing
		for range batchSize {
			var name string
			var price float64
			if err := results.QueryRow().Scan(&name, &price); err != nil {
				return err
			}
		}
		return results.Close()
	}
}

func oneOnHandle(db *pgkeel.DB, site Site) Op {
	sql := itemsSQL(site, `id = $1`)
	return func(ctx context.Context, caller, n int) error {
		_, err := pgkeel.One[item](ctx, db, sql, keyOf(caller, n))
		return err
	}
}

func oneOnPool(pool *pgxpool.Pool, site Site) Op {
	sql := itemsSQL(site, `id = $1`)
	return func(ctx context.Context, caller, n int) error {
		rows, err := pool.Query(ctx, sql, keyOf(caller, n))
		if err != nil {
			return err
		}
		_, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[item])
		return err
	}
}

func allOnHandle(db *pgkeel.DB, site Site) Op {
	sql := manySQL(site)
	return func(ctx context.Context, caller, n int) error {
		all, err := pgkeel.All[item](ctx, db, sql, firstOf(caller, n))
		if err != nil {
			return err
		}
		return expect(manyRows, int64(len(all)))
	}
}

func allOnPool(pool *pgxpool.Pool, site Site) Op {
	sql := manySQL(site)
	return func(ctx context.Context, caller, n int) error {
		rows, err := pool.Query(ctx, sql, firstOf(caller, n))
		if err != nil {
			return err
		}
		all, err := pgx.CollectRows(rows, pgx.RowToStructByName[item])
		if err != nil {
			return err
		}
		return expect(manyRows, int64(len(all)))
	}
}
