package bench

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/batch"
)

// The promises about batches.
var (
	asFastAsBare    = Bar{Throughput: 0.98}
	faster3thanLoop = Bar{Throughput: 3}
)

// batches are scenarios of package batch. Their operations read rows by key, the
// cheapest that a server has to offer, so that what the two sides do themselves
// is not lost in its work.
func batches() []Scenario {
	atomic, isolated := batch.Options{}, batch.Options{Mode: batch.Isolated}
	var all []Scenario
	for _, n := range []int{10, 100, 1000} {
		all = append(all, withBar(asFastAsBare, items(fmt.Sprintf("batch.%d", n),
			fmt.Sprintf("batch.Run of %d statements, all or nothing; the baseline is SendBatch", n),
			onHandle(runBatch(n, atomic, false)), onPool(sendBatch(n, false)))))
	}
	return append(all,
		withBar(faster3thanLoop, items("batch.loop", "batch.Run of 100 statements; the baseline is a loop of single ones",
			onHandle(runBatch(100, atomic, false)), onPool(loopOf(100)))),
		withBar(asFastAsBare, items("batch.rows", "100 with callbacks, all or nothing; the baseline is Begin, SendBatch, Commit",
			onHandle(runBatch(100, atomic, true)), onPool(sendBatchInTx(100)))),
		withBar(Bar{}, items("batch.isolated", "100, each by itself; the baseline is SendBatch, where an error ends all",
			onHandle(runBatch(100, isolated, true)), onPool(sendBatch(100, true)))),
	)
}

func withBar(bar Bar, sc Scenario) Scenario {
	sc.Bar = bar
	return sc
}

func itemSQL(site Site) string {
	return `select name, price from ` + site.Table("items") + ` where id = $1`
}

// queue queues n statements, with callbacks that scan their rows if asked.
func queue(sql string, caller, n int, called bool) *pgx.Batch {
	b := &pgx.Batch{QueuedQueries: make([]*pgx.QueuedQuery, 0, n)}
	for i := range n {
		q := b.Queue(sql, keyOf(caller, i))
		if called {
			q.QueryRow(func(row pgx.Row) error {
				var name string
				var price float64
				return row.Scan(&name, &price)
			})
		}
	}
	return b
}

func runBatch(n int, options batch.Options, called bool) func(db *pgkeel.DB, site Site) Op {
	return func(db *pgkeel.DB, site Site) Op {
		sql := itemSQL(site)
		return func(ctx context.Context, caller, _ int) error {
			report, err := batch.Run(ctx, db, queue(sql, caller, n, called), options)
			if err != nil {
				return err
			}
			return expect(int64(n), report.RowsAffected)
		}
	}
}

func sendBatch(n int, called bool) func(pool *pgxpool.Pool, site Site) Op {
	return func(pool *pgxpool.Pool, site Site) Op {
		sql := itemSQL(site)
		return func(ctx context.Context, caller, _ int) error {
			return pool.SendBatch(ctx, queue(sql, caller, n, called)).Close()
		}
	}
}

func sendBatchInTx(n int) func(pool *pgxpool.Pool, site Site) Op {
	return func(pool *pgxpool.Pool, site Site) Op {
		sql := itemSQL(site)
		return func(ctx context.Context, caller, _ int) error {
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				return tx.SendBatch(ctx, queue(sql, caller, n, true)).Close()
			})
		}
	}
}

func loopOf(n int) func(pool *pgxpool.Pool, site Site) Op {
	return func(pool *pgxpool.Pool, site Site) Op {
		sql := itemSQL(site)
		return func(ctx context.Context, caller, _ int) error {
			for i := range n {
				if _, err := pool.Exec(ctx, sql, keyOf(caller, i)); err != nil {
					return err
				}
			}
			return nil
		}
	}
}
