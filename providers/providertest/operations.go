package providertest

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// The table that tells in which scope each of its rows was written, and the
// statement that writes one.
const (
	scopeTable = "create table t (n int, x text default coalesce(current_setting('app.x', true), ''))"
	insertOne  = "insert into t (n) values (1)"
)

// operation is a way to reach the database. Each writes one row into scopeTable.
type operation func(ctx context.Context) error

// operations are all that a pool, connection or transaction has, by name. What
// its type does not claim is not there.
func operations(q querier) map[string]operation {
	all := statements(q)
	if p, ok := q.(providers.Pool); ok {
		all["acquire"] = func(ctx context.Context) error { return acquireAndInsert(ctx, p) }
	}
	if b, ok := q.(beginner); ok {
		all["begin"] = func(ctx context.Context) error {
			tx, err := b.Begin(ctx, providers.TxOptions{})
			return insertAndCommit(ctx, tx, err)
		}
	}
	if tx, ok := q.(providers.Tx); ok {
		all["savepoint"] = func(ctx context.Context) error {
			sp, err := tx.Savepoint(ctx, "")
			return insertAndCommit(ctx, sp, err)
		}
	}
	if b, ok := q.(providers.Batcher); ok {
		all["batch"] = func(ctx context.Context) error {
			batch := &pgx.Batch{}
			batch.Queue("select 1")
			batch.Queue(insertOne)
			return b.SendBatch(ctx, batch).Close()
		}
	}
	if b, ok := q.(providers.BatchRunner); ok {
		all["batch run in one"] = func(ctx context.Context) error { return b.RunBatch(ctx, insertBatch(0)) }
		all["batch run by one"] = func(ctx context.Context) error { return b.RunBatch(ctx, insertBatch(1)) }
	}
	if c, ok := q.(providers.Copier); ok {
		all["copy"] = func(ctx context.Context) error {
			_, err := c.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}}))
			return err
		}
	}
	if c, ok := q.(providers.RawCopier); ok {
		all["copy in"] = func(ctx context.Context) error {
			return second(c.CopyFromReader(ctx, strings.NewReader("1\n"), "copy t (n) from stdin"))
		}
		all["copy out"] = func(ctx context.Context) error {
			return second(c.CopyToWriter(ctx, io.Discard, "copy ("+insertOne+" returning n) to stdout"))
		}
	}
	return all
}

// statements are the operations that every pool, connection and transaction has.
func statements(q querier) map[string]operation {
	const returning = insertOne + " returning x"
	run := func(ctx context.Context, kind providers.CallKind, sql string, pairs ...string) error {
		call := scoped(kind, sql, nil, pairs...)
		err := q.Run(ctx, call)
		if err == nil && kind == providers.CallQuery {
			err = providers.FirstRow(call.Rows).Scan(new(string))
		}
		return err
	}
	return map[string]operation{
		"exec":                func(ctx context.Context) error { return second(q.Exec(ctx, insertOne)) },
		"exec with arguments": func(ctx context.Context) error { return second(q.Exec(ctx, "insert into t (n) values ($1)", 1)) },
		"query":               func(ctx context.Context) error { return queryError(ctx, q, returning) },
		"query row":           func(ctx context.Context) error { return q.QueryRow(ctx, returning).Scan(new(string)) },
		"run exec":            func(ctx context.Context) error { return run(ctx, providers.CallExec, insertOne) },
		"run query":           func(ctx context.Context) error { return run(ctx, providers.CallQuery, returning) },
		"run exec in scope":   func(ctx context.Context) error { return run(ctx, providers.CallExec, insertOne, "app.y", "1") },
		"run query in scope":  func(ctx context.Context) error { return run(ctx, providers.CallQuery, returning, "app.y", "1") },
	}
}

func acquireAndInsert(ctx context.Context, p providers.Pool) error {
	c, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	return second(c.Exec(ctx, insertOne))
}

func insertAndCommit(ctx context.Context, tx providers.Tx, err error) error {
	if err != nil {
		return err
	}
	if err := second(tx.Exec(ctx, insertOne)); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	return tx.Commit(ctx)
}

// insertBatch is a batch of two statements.
func insertBatch(group int) *providers.BatchCall {
	batch := &pgx.Batch{}
	batch.Queue("select 1")
	batch.Queue(insertOne)
	queued := batch.QueuedQueries
	return &providers.BatchCall{
		Group: group, MaxStatements: 10, MaxBytes: 10_000, StopOnError: true,
		Next: func() (*pgx.QueuedQuery, error) {
			if len(queued) == 0 {
				return nil, nil
			}
			next := queued[0]
			queued = queued[1:]
			return next, nil
		},
	}
}
