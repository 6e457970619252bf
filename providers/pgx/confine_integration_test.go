package pgx

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgkeel/pgkeel/providers"
)

type tenantKey struct{}

var errNoTenant = errors.New("no tenant")

func asTenant(ctx context.Context, tenant string) context.Context {
	return context.WithValue(ctx, tenantKey{}, tenant)
}

// tenants is the scope of a test: the tenant of the context in app.tenant.
func tenants(ctx context.Context) (providers.Scope, error) {
	tenant, ok := ctx.Value(tenantKey{}).(string)
	switch {
	case !ok:
		return providers.Scope{}, errNoTenant
	case tenant == "":
		return providers.Scope{}, nil // around it
	}
	return providers.Scope{Settings: []providers.Setting{{Name: "app.tenant", Value: tenant}}}, nil
}

const tenantSQL = "select coalesce(current_setting('app.tenant', true), '')"

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

func openConfined(t *testing.T, cfg providers.Config) *Pool {
	t.Helper()
	cfg.Scope = tenants
	p := openPool(t, cfg)
	mustExec(t, confinedTo{p, ""}, "create table copied (id int, tenant text default coalesce(current_setting('app.tenant', true), ''))")
	return p
}

// confinedTo asks as a tenant.
type confinedTo struct {
	*Pool
	tenant string
}

func (c confinedTo) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return c.Pool.Exec(asTenant(ctx, c.tenant), sql, args...)
}

func (c confinedTo) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return c.Pool.QueryRow(asTenant(ctx, c.tenant), sql, args...)
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

// A transaction, a connection, and a session of the unwrapped pool stay in the
// scope that they began in.
func TestScopesStayApart(t *testing.T) {
	p := openConfined(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
	one, two := asTenant(t.Context(), "one"), asTenant(t.Context(), "two")
	refused := func(t *testing.T, what string, err error) {
		t.Helper()
		if !errors.Is(err, providers.ErrOtherScope) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("%s: %v", what, err)
		}
	}
	t.Run("transaction", func(t *testing.T) {
		tx, err := p.Begin(one, providers.TxOptions{})
		if err != nil {
			t.Fatal(err)
		}
		inner := tx.(*Tx)
		_, err = tx.Exec(two, "select 1")
		refused(t, "exec", err)
		_, err = tx.Query(two, "select 1")
		refused(t, "query", err)
		refused(t, "query row", tx.QueryRow(two, "select 1").Scan())
		_, err = tx.Savepoint(two, "")
		refused(t, "savepoint", err)
		refused(t, "batch", inner.SendBatch(two, &pgx.Batch{}).Close())
		_, err = inner.CopyFrom(two, pgx.Identifier{"copied"}, []string{"id"}, pgx.CopyFromRows(nil))
		refused(t, "copy", err)
		_, err = inner.CopyToWriter(two, io.Discard, "copy copied to stdout")
		refused(t, "copy to", err)
		_, err = inner.Prepare(two, "q", "select 1")
		refused(t, "prepare", err)
		refused(t, "run", tx.Run(two, &providers.Call{SQL: "select 1", Scope: []providers.Setting{{Name: "a.b", Value: "c"}}}))
		if _, err := tx.Exec(one, "insert into copied values (1)"); err != nil {
			t.Error(err)
		}
		if err := tx.Commit(t.Context()); err != nil { // whoever ends it
			t.Error(err)
		}
	})
	t.Run("connection", func(t *testing.T) {
		c, err := p.Acquire(one)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
		_, err = c.Exec(two, "select 1")
		refused(t, "exec", err)
		_, err = c.Query(two, "select 1")
		refused(t, "query", err)
		refused(t, "query row", c.QueryRow(two, "select 1").Scan())
		_, err = c.Begin(two, providers.TxOptions{})
		refused(t, "begin", err)
		refused(t, "run", c.Run(two, &providers.Call{SQL: "select 1"}))
		refused(t, "batch", c.(*Conn).SendBatch(two, &pgx.Batch{}).Close())
		_, err = c.(*Conn).CopyFrom(two, pgx.Identifier{"copied"}, []string{"id"}, pgx.CopyFromRows(nil))
		refused(t, "copy", err)
	})
	t.Run("unwrapped pool", func(t *testing.T) {
		c, err := p.Unwrap().Acquire(one)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
		_, err = c.Exec(two, "select 1")
		if !errors.Is(err, providers.ErrOtherScope) {
			t.Error(err)
		}
		b := &pgx.Batch{}
		b.Queue("select 1")
		if err := c.SendBatch(two, b).Close(); !errors.Is(err, providers.ErrOtherScope) {
			t.Error(err)
		}
		if got, err := scanString(c.QueryRow(t.Context(), tenantSQL)); err != nil || got != "one" {
			t.Errorf("without a tenant the session's counts: %q, %v", got, err)
		}
	})
}

// What would end the transaction that the settings belong to is refused.
func TestNobodyEndsTheScope(t *testing.T) {
	p := openConfined(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
	one := asTenant(t.Context(), "one")
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, providers.ErrEndsScope) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("%s: %v", what, err)
		}
	}
	batch := &pgx.Batch{}
	batch.Queue("select 1")
	batch.Queue("commit")
	_, err := p.Exec(one, "begin")
	refused("pool", err)
	refused("batch", p.SendBatch(one, batch).Close())
	c, err := p.Acquire(one)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Exec(one, "begin")
	refused("connection", err)
	refused("batch of a connection", c.(*Conn).SendBatch(one, batch).Close())
	c.Release()
	tx, err := p.Begin(one, providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(one, "commit; insert into copied values (1)")
	refused("transaction", err)
	refused("batch of a transaction", tx.(*Tx).SendBatch(one, batch).Close())
	if _, err := tx.Exec(one, "savepoint s; rollback to s"); err != nil {
		t.Error(err)
	}
	if err := tx.Rollback(one); err != nil {
		t.Error(err)
	}
	if _, err := p.Exec(asTenant(t.Context(), ""), "begin; commit"); err != nil {
		t.Errorf("around the scopes: %v", err)
	}
}

// A COMMIT inside of DO or a procedure does not end the scope.
func TestNobodyEndsTheScopeFromInside(t *testing.T) {
	p := openConfined(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
	mustExec(t, confinedTo{p, ""}, "create procedure escape() language plpgsql as $$ begin commit; insert into copied values (1); end $$")
	one := asTenant(t.Context(), "one")
	batch := &pgx.Batch{}
	batch.Queue("call escape()")
	for name, run := range map[string]func() error{
		"exec": func() error { _, err := p.Exec(one, "call escape()"); return err },
		"query": func() error {
			rows, err := p.Query(one, "call escape()")
			if err == nil {
				rows.Close()
				err = rows.Err()
			}
			return err
		},
		"do": func() error {
			_, err := p.Exec(one, "do $$ begin commit; insert into copied values (1); end $$")
			return err
		},
		"batch": func() error { return p.SendBatch(one, batch).Close() },
		"stream": func() error {
			return p.RunBatch(one, &providers.BatchCall{Group: 1, MaxStatements: 1, MaxBytes: 1, Next: once("call escape()")})
		},
		"transaction": func() error {
			tx, err := p.Begin(one, providers.TxOptions{})
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback(one) }()
			_, err = tx.Exec(one, "call escape()")
			return err
		},
	} {
		if err := run(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if n := value[int64](t, confinedTo{p, ""}, "select count(*) from copied"); n != 0 {
		t.Errorf("%d rows were written outside of the scope", n)
	}
	if _, err := p.Exec(one, "do $$ begin insert into copied values (2); end $$"); err != nil {
		t.Error(err)
	}
	if got := value[string](t, confinedTo{p, ""}, "select tenant from copied"); got != "one" {
		t.Errorf("a block without COMMIT wrote as %q", got)
	}
}

func once(sql string) func() (*pgx.QueuedQuery, error) {
	b := &pgx.Batch{}
	b.Queue(sql)
	queued := b.QueuedQueries
	return func() (*pgx.QueuedQuery, error) {
		if len(queued) == 0 {
			return nil, nil //nolint:nilnil // that is the end
		}
		q := queued[0]
		queued = nil
		return q, nil
	}
}

// Where the scope decides what names mean, a batch finds the tables of its scope on
// a connection that has not met it, and is undone as a whole.
func TestBatchesOfScopesThatChangeNames(t *testing.T) {
	scope := func(ctx context.Context) (providers.Scope, error) {
		scope, err := tenants(ctx)
		if len(scope.Settings) > 0 {
			scope.Settings = []providers.Setting{{Name: "search_path", Value: scope.Settings[0].Value}}
		}
		return scope, err
	}
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}, Scope: scope})
	mustExec(t, confinedTo{p, ""}, "create schema one; create table one.notes (id int primary key)")
	one := asTenant(t.Context(), "one")
	for name, send := range map[string]func(b *pgx.Batch) error{
		"pool": func(b *pgx.Batch) error { return p.SendBatch(one, b).Close() },
		"conn": func(b *pgx.Batch) error {
			c, err := p.Acquire(one)
			if err != nil {
				return err
			}
			defer c.Release()
			return c.(*Conn).SendBatch(one, b).Close()
		},
	} {
		p.Reset()
		insert := &pgx.Batch{}
		insert.Queue("insert into notes values ($1)", 1)
		if err := send(insert); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		twice := &pgx.Batch{}
		twice.Queue("insert into notes values ($1)", 2)
		twice.Queue("insert into notes values ($1)", 2)
		if err := send(twice); err == nil {
			t.Errorf("%s: a key twice", name)
		}
		begins := &pgx.Batch{}
		begins.BeginTx(pgx.TxOptions{})
		if err := send(begins); !errors.Is(err, errBeginsInScope) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("%s: a batch that begins: %v", name, err)
		}
		if n := value[int64](t, confinedTo{p, ""}, "with gone as (delete from one.notes returning 1) select count(*) from gone"); n != 1 {
			t.Errorf("%s: %d rows", name, n)
		}
	}
}

// A setting that fails takes everything behind it with it.
func TestTrap34FailedSettings(t *testing.T) {
	cfg := providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}}
	cfg.Scope = func(ctx context.Context) (providers.Scope, error) {
		if scope, err := tenants(ctx); err != nil || len(scope.Settings) == 0 {
			return scope, err
		}
		return providers.Scope{Settings: []providers.Setting{{Name: "role", Value: "nobody at all"}}}, nil
	}
	p := openPool(t, cfg)
	mustExec(t, confinedTo{p, ""}, "create table copied (id int, tenant text)")
	for name, ask := range paths {
		t.Run(name, func(t *testing.T) {
			if got, err := ask(asTenant(t.Context(), "one"), p); err == nil {
				t.Errorf("it ran: %q", got)
			}
		})
	}
	if n := value[int64](t, confinedTo{p, ""}, "select count(*) from copied"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// What cannot be confined is refused: sessions that nobody resets.
func TestUnwrappedPoolWithoutResets(t *testing.T) {
	p := openConfined(t, providers.Config{SessionReset: providers.ResetNever})
	if _, err := p.Unwrap().Exec(asTenant(t.Context(), "one"), "select 1"); !errors.Is(err, errRawScope) {
		t.Error(err)
	}
}

// A wrong number of arguments is found out ahead of a batch as well, and so ahead of
// a statement that travels as one.
func TestWrongNumberOfArgumentsIsNotSent(t *testing.T) {
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
	mustExec(t, p, "create schema one")
	mustExec(t, p, "create table one.t (id int)")
	const sql = "insert into t values ($1)"
	run := func(args ...any) error {
		return p.Run(t.Context(), scoped(providers.CallExec, sql, args, "search_path", "one"))
	}
	if err := run(1); err != nil {
		t.Fatal(err)
	}
	if err := run(1, 2); providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("a statement: %v", err)
	}
	b := &pgx.Batch{}
	b.Queue("select $1::int", 1, 2)
	if err := p.SendBatch(t.Context(), b).Close(); providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("a batch: %v", err)
	}
}
