package pgkeel_test

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/batch"
)

// sendBatch writes and asks in one batch.
func (o *leakOp) sendBatch(ctx context.Context, on interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
},
) error {
	b := &pgx.Batch{}
	key := o.queue(b)
	err := on.SendBatch(ctx, b).Close()
	if err == nil {
		o.wrote(nil, key)
	}
	return err // which may be a callback's, so it says nothing of the row
}

// queue puts an insertion and a question into a batch.
func (o *leakOp) queue(b *pgx.Batch) (key int64) {
	key, sql, args := o.insertion()
	b.Queue(sql, args...)
	sql, arg := o.ask()
	b.Queue(sql, arg).Query(func(rows pgx.Rows) error {
		err := o.saw(pgx.CollectRows(rows, pgx.RowToStructByName[item]))
		return errors.Join(err, o.callback())
	})
	return key
}

// runBatch runs a batch in a mode.
func runBatch(options batch.Options, on func(o *leakOp) batch.Runner) leakPath {
	return func(ctx context.Context, o *leakOp) error {
		b := &pgx.Batch{}
		keys := map[int]int64{}
		for range 3 {
			keys[b.Len()] = o.queue(b)
		}
		report, err := batch.Run(ctx, on(o), b, options)
		for i, key := range keys {
			switch {
			case i >= len(report.States):
			case report.States[i] == batch.OK:
				o.wrote(nil, key)
			case report.States[i] != batch.Unknown:
				o.never(key)
			}
		}
		return err
	}
}

func onDB(o *leakOp) batch.Runner { return o.s.db }

var batchPaths = map[string]leakPath{
	"SendBatch": func(ctx context.Context, o *leakOp) error { return o.sendBatch(ctx, o.s.db) },
	"SendBatch with BeginTx": func(ctx context.Context, o *leakOp) error {
		b := &pgx.Batch{}
		b.BeginTx(pgx.TxOptions{})
		key := o.queue(b)
		results := o.s.db.SendBatch(ctx, b)
		tx := results.Tx()
		defer func() { _ = tx.Rollback(ctx) }()
		if err := results.Close(); err != nil {
			return err
		}
		if err := o.queryRow(ctx, tx); err != nil {
			return err
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		o.wrote(nil, key)
		return nil
	},
	"Tx.SendBatch": func(ctx context.Context, o *leakOp) error {
		var key int64
		err := o.s.db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			b := &pgx.Batch{}
			key = o.queue(b)
			return tx.SendBatch(ctx, b).Close()
		}, pgkeel.TxOptions{MaxAttempts: 1})
		if key != 0 {
			o.wrote(err, key)
		}
		return err
	},
	"batch.Run, atomic":   runBatch(batch.Options{}, onDB),
	"batch.Run, isolated": runBatch(batch.Options{Mode: batch.Isolated}, onDB),
	"batch.Run, grouped":  runBatch(batch.Options{Mode: batch.Grouped, GroupSize: 2}, onDB),
	"batch.Stream": func(ctx context.Context, o *leakOp) error {
		_, err := batch.Stream(ctx, o.s.db, func(yield func(*pgx.QueuedQuery, error) bool) {
			for range 3 {
				_, sql, args := o.insertion()
				if !yield(batch.Queue(sql, args...), o.callback()) {
					return
				}
			}
		}, batch.Options{Mode: batch.Grouped, GroupSize: 2})
		return err
	},
}
