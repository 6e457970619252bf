package pgx

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgkeel/pgkeel/providers"
)

// path is a way to ask the server for the tenant.
type path func(ctx context.Context, p *Pool) (string, error)

func scanString(row pgx.Row) (s string, err error) {
	err = row.Scan(&s)
	return s, err
}

var paths = map[string]path{
	"query row": func(ctx context.Context, p *Pool) (string, error) { return scanString(p.QueryRow(ctx, tenantSQL)) },
	"query": func(ctx context.Context, p *Pool) (string, error) {
		rows, err := p.Query(ctx, tenantSQL)
		if err != nil {
			return "", err
		}
		return pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
	},
	"exec": func(ctx context.Context, p *Pool) (string, error) {
		tag, err := p.Exec(ctx, "select 1 where current_setting('app.tenant', true) = $1", ctx.Value(tenantKey{}))
		if err == nil && tag.RowsAffected() == 1 {
			return ctx.Value(tenantKey{}).(string), nil
		}
		return "", err
	},
	"run": func(ctx context.Context, p *Pool) (string, error) {
		call := &providers.Call{SQL: tenantSQL + " || current_setting('app.more')", Scope: []providers.Setting{{Name: "app.more", Value: ""}}}
		if err := p.Run(ctx, call); err != nil {
			return "", err
		}
		return scanString(providers.FirstRow(call.Rows))
	},
	"read-only": func(ctx context.Context, p *Pool) (string, error) {
		return scanString(p.QueryRow(providers.WithReadOnly(ctx), tenantSQL))
	},
	"connection": func(ctx context.Context, p *Pool) (string, error) {
		c, err := p.Acquire(ctx)
		if err != nil {
			return "", err
		}
		defer c.Release()
		return scanString(c.QueryRow(ctx, tenantSQL))
	},
	"raw connection of an acquired one": func(ctx context.Context, p *Pool) (string, error) {
		c, err := p.Acquire(ctx)
		if err != nil {
			return "", err
		}
		defer c.Release()
		raw := c.(*Conn).Unwrap()
		if raw == nil {
			return "", errors.New("no raw connection")
		}
		return scanString(raw.QueryRow(ctx, tenantSQL))
	},
	"transaction of a connection": func(ctx context.Context, p *Pool) (string, error) {
		c, err := p.Acquire(ctx)
		if err != nil {
			return "", err
		}
		defer c.Release()
		tx, err := c.Begin(ctx, providers.TxOptions{})
		if err != nil {
			return "", err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		return scanString(tx.QueryRow(ctx, tenantSQL))
	},
	"transaction": func(ctx context.Context, p *Pool) (string, error) {
		tx, err := p.Begin(ctx, providers.TxOptions{Isolation: providers.RepeatableRead})
		if err != nil {
			return "", err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		return scanString(tx.QueryRow(ctx, tenantSQL))
	},
	"savepoint": func(ctx context.Context, p *Pool) (string, error) {
		tx, err := p.Begin(ctx, providers.TxOptions{})
		if err != nil {
			return "", err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		sp, err := tx.Savepoint(ctx, "")
		if err != nil {
			return "", err
		}
		if err := sp.Rollback(ctx); err != nil {
			return "", err
		}
		return scanString(tx.QueryRow(ctx, tenantSQL))
	},
	"batch": func(ctx context.Context, p *Pool) (string, error) {
		b := &pgx.Batch{}
		b.Queue("select 1")
		b.Queue(tenantSQL)
		results := p.SendBatch(ctx, b)
		defer func() { _ = results.Close() }()
		if _, err := results.Exec(); err != nil {
			return "", err
		}
		return scanString(results.QueryRow())
	},
	"batch with callbacks": func(ctx context.Context, p *Pool) (got string, err error) {
		b := &pgx.Batch{}
		b.Queue(tenantSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&got) })
		err = p.SendBatch(ctx, b).Close()
		return got, err
	},
	"batch with a transaction": func(ctx context.Context, p *Pool) (string, error) {
		b := &pgx.Batch{}
		b.BeginTx(pgx.TxOptions{})
		b.Queue("select 1")
		results := p.SendBatch(ctx, b)
		for range 2 {
			if _, err := results.Exec(); err != nil {
				_ = results.Close()
				return "", err
			}
		}
		if err := results.Close(); err != nil {
			return "", err
		}
		tx := results.Tx()
		defer func() { _ = tx.Rollback(ctx) }()
		return scanString(tx.QueryRow(ctx, tenantSQL))
	},
	"batch of a connection": func(ctx context.Context, p *Pool) (got string, err error) {
		c, err := p.Acquire(ctx)
		if err != nil {
			return "", err
		}
		defer c.Release()
		b := &pgx.Batch{}
		b.Queue(tenantSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&got) })
		err = c.(*Conn).SendBatch(ctx, b).Close()
		return got, err
	},
	"stream, one by one":     streamed(1, false),
	"stream, all or nothing": streamed(0, false),
	"stream in groups":       streamed(2, false),
	"stream in blocks":       streamed(0, true),
	"copy out": func(ctx context.Context, p *Pool) (string, error) {
		var out strings.Builder
		_, err := p.CopyToWriter(ctx, &out, "copy ("+tenantSQL+") to stdout")
		return strings.TrimSpace(out.String()), err
	},
	"copy out of a connection": func(ctx context.Context, p *Pool) (string, error) {
		c, err := p.Acquire(ctx)
		if err != nil {
			return "", err
		}
		defer c.Release()
		var out strings.Builder
		_, err = c.(*Conn).CopyToWriter(ctx, &out, "copy ("+tenantSQL+") to stdout")
		return strings.TrimSpace(out.String()), err
	},
	"copy rows": func(ctx context.Context, p *Pool) (string, error) {
		_, err := p.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"id"}, pgx.CopyFromRows([][]any{{1}}))
		return copied(p, err)
	},
	"copy rows on a connection": func(ctx context.Context, p *Pool) (string, error) {
		c, err := p.Acquire(ctx)
		if err != nil {
			return "", err
		}
		_, err = c.(*Conn).CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"id"}, pgx.CopyFromRows([][]any{{1}}))
		c.Release()
		return copied(p, err)
	},
	"copy from a reader": func(ctx context.Context, p *Pool) (string, error) {
		_, err := p.CopyFromReader(ctx, strings.NewReader("1\n"), "copy copied (id) from stdin")
		return copied(p, err)
	},
	"unwrapped pool": func(ctx context.Context, p *Pool) (string, error) {
		return scanString(p.Unwrap().QueryRow(ctx, tenantSQL))
	},
	"transaction of the unwrapped pool": func(ctx context.Context, p *Pool) (string, error) {
		tx, err := p.Unwrap().Begin(ctx)
		if err != nil {
			return "", err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		return scanString(tx.QueryRow(ctx, tenantSQL))
	},
	"database/sql": func(ctx context.Context, p *Pool) (string, error) {
		db := sql.OpenDB(stdlib.GetPoolConnector(p.Unwrap()))
		defer db.Close()
		db.SetMaxIdleConns(0)
		var got string
		err := db.QueryRowContext(ctx, tenantSQL).Scan(&got)
		return got, err
	},
}

// copied is who wrote the row of a COPY.
func copied(p *Pool, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return scanString(p.QueryRow(asTenant(context.Background(), ""), "delete from copied returning tenant"))
}

// streamed runs a stream of statements of which the last asks for the tenant.
func streamed(group int, callbacks bool) path {
	return func(ctx context.Context, p *Pool) (got string, err error) {
		b := &pgx.Batch{}
		for range 3 {
			b.Queue("select 1")
		}
		if callbacks {
			b.Queue(tenantSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&got) })
		} else {
			b.Queue("insert into copied (id) values (1)")
		}
		queued := b.QueuedQueries
		err = p.RunBatch(ctx, &providers.BatchCall{Group: group, MaxStatements: 10, MaxBytes: 1 << 20, Next: func() (*pgx.QueuedQuery, error) {
			if len(queued) == 0 {
				return nil, nil //nolint:nilnil // that is the end
			}
			q := queued[0]
			queued = queued[1:]
			return q, nil
		}})
		if err != nil || callbacks {
			return got, err
		}
		return copied(p, nil)
	}
}

// Every path is confined to the scope of its context, one after another on the
// same connection, and without a scope nothing is sent.
func TestTrap30EveryPathIsConfined(t *testing.T) {
	for mode, cfg := range map[string]providers.Config{
		"pooled":    {Pool: providers.PoolStrategy{MaxSize: 1}},
		"pipelined": {Pool: providers.PoolStrategy{MaxSize: 1}, Pipelining: &providers.Pipelining{Traffic: providers.PipelineAll}},
	} {
		t.Run(mode, func(t *testing.T) {
			p := openConfined(t, cfg)
			for name, ask := range paths {
				t.Run(name, func(t *testing.T) {
					for _, tenant := range []string{"one", "two", "'; select 1 --"} {
						if got, err := ask(asTenant(t.Context(), tenant), p); err != nil || got != tenant {
							t.Errorf("as %q the server saw %q, %v", tenant, got, err)
						}
						if left := value[string](t, confinedTo{p, ""}, tenantSQL); left != "" {
							t.Errorf("%q was left behind", left)
						}
					}
					_, err := ask(t.Context(), p)
					if !errors.Is(err, errNoTenant) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
						t.Errorf("without a tenant: %v", err)
					}
				})
			}
		})
	}
}
