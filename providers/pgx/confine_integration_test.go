package pgx

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

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
