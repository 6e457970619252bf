package pgx

import (
	"bytes"
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

func wantReadOnly(t testing.TB, what string, err error) {
	t.Helper()
	if pg := providers.NewPGError(err); pg == nil || !pg.IsReadOnly() {
		t.Errorf("%s: %v", what, err)
	}
}

// writes are the ways to write.
var writes = map[string]func(ctx context.Context, p *Pool) error{
	"exec": func(ctx context.Context, p *Pool) error {
		_, err := p.Exec(ctx, "insert into t values (1)")
		return err
	},
	"query": func(ctx context.Context, p *Pool) error {
		return p.QueryRow(ctx, "insert into t values (1) returning n").Scan(new(int))
	},
	"connection": func(ctx context.Context, p *Pool) error {
		c, err := p.Acquire(ctx)
		if err != nil {
			return err
		}
		defer c.Release()
		_, err = c.Exec(ctx, "insert into t values (1)")
		return err
	},
	"transaction": func(ctx context.Context, p *Pool) error {
		tx, err := p.Begin(ctx, providers.TxOptions{})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		_, err = tx.Exec(ctx, "insert into t values (1)")
		return err
	},
	"first statement": func(ctx context.Context, p *Pool) error {
		_, err := p.BeginWith(ctx, providers.TxOptions{}, providers.Statement{SQL: "insert into t values (1)"})
		return err
	},
	"batch": func(ctx context.Context, p *Pool) error {
		b := &pgx.Batch{}
		b.Queue("insert into t values (1)")
		return p.SendBatch(ctx, b).Close()
	},
	"stream": func(ctx context.Context, p *Pool) error {
		return p.RunBatch(ctx, callOf(1, (&pgx.Batch{}).Queue("insert into t values (1)")))
	},
	"copy": func(ctx context.Context, p *Pool) error {
		_, err := p.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}}))
		return err
	},
	"unwrapped": func(ctx context.Context, p *Pool) error {
		_, err := p.Unwrap().Exec(ctx, "insert into t values (1)")
		return err
	},
}

// Every session of the pool is held to reading, and nobody has to say so again.
func TestReadOnlySessions(t *testing.T) {
	w, dsn := newWire(t, pgtest.NewDB(t))
	mustExec(t, openPool(t, providers.Config{DSN: dsn}), "create table t (n int)")
	for name, pipelining := range map[string]*providers.Pipelining{"pool": nil, "pipelined": {Traffic: providers.PipelineReads}} {
		t.Run(name, func(t *testing.T) {
			p := openPool(t, providers.Config{DSN: dsn, ReadOnly: true, Pipelining: pipelining, Pool: providers.PoolStrategy{MaxSize: 2}})
			if pipelining != nil {
				warm(t, p)
				if s := p.Stats().Pipeline; s.Connections == 0 {
					t.Errorf("undeclared reads share no connection: %+v", s)
				}
			}
			for name, write := range writes {
				wantReadOnly(t, name, write(t.Context(), p))
			}
			set := false
			w.mu.Lock()
			w.rule = func(_ byte, body []byte) verdict {
				set = set || bytes.Contains(body, []byte("transaction_read_only"))
				return forward
			}
			w.mu.Unlock()
			if _, err := p.Exec(providers.WithReadOnly(t.Context()), "select count(*) from t"); err != nil {
				t.Error(err)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.rule = nil; set {
				t.Error("a declared read says again that it reads")
			}
		})
	}
}

// What a borrower does to the session does not outlast it.
func TestReadOnlySessionsStayThat(t *testing.T) {
	p := balanced(t, providers.Config{ReadOnly: true})
	mustExec(t, p, "set default_transaction_read_only = off")
	wantReadOnly(t, "the next borrower", func() error { _, err := p.Exec(t.Context(), "create table t (n int)"); return err }())
}

// PgBouncer takes no parameter at start-up: each statement and transaction says it.
func TestReadOnlyBehindPgBouncer(t *testing.T) {
	bouncer := pgtest.Shared(t).Primary().NewPgBouncer(t, nil)
	direct := openPool(t, providers.Config{})
	mustExec(t, direct, "create table t (n int)")
	dsn := bouncer.DSN(value[string](t, direct, "select current_database()"))
	p := openPool(t, providers.Config{DSN: dsn, ReadOnly: true, Profile: providers.ProfilePgBouncer})
	for _, name := range []string{"exec", "query", "connection", "transaction", "first statement"} {
		wantReadOnly(t, name, writes[name](t.Context(), p))
	}
	if n := value[int](t, p, "select count(*) from t"); n != 0 {
		t.Errorf("%d rows", n)
	}
}
