package pgx

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// turncoat is a rewriter that makes another statement of the one that was looked
// at.
type turncoat string

// RewriteQuery is the other statement.
func (r turncoat) RewriteQuery(_ context.Context, _ *pgx.Conn, _ string, args []any) (string, []any, error) {
	return string(r), args, nil
}

// What a rewriter makes of a statement may not end the scope either.
func TestRewritersDoNotEndTheScope(t *testing.T) {
	p := openConfined(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
	one := asTenant(t.Context(), "one")
	ask := func(q interface {
		QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	}, args ...any,
	) (string, error) {
		return scanString(q.QueryRow(one, "select 'not rewritten'", args...))
	}
	batched := func(on interface {
		SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	}, args ...any,
	) (got string, err error) {
		b := &pgx.Batch{}
		b.Queue("select 1")
		b.Queue("select 'not rewritten'", args...).QueryRow(func(row pgx.Row) error { return row.Scan(&got) })
		err = on.SendBatch(one, b).Close()
		return got, err
	}
	onConn := func(do func(c *Conn) (string, error)) (string, error) {
		c, err := p.Acquire(one)
		if err != nil {
			return "", err
		}
		defer c.Release()
		return do(c.(*Conn))
	}
	inTx := func(do func(tx *Tx) (string, error)) (string, error) {
		tx, err := p.Begin(one, providers.TxOptions{})
		if err != nil {
			return "", err
		}
		defer func() { _ = tx.Rollback(one) }()
		return do(tx.(*Tx))
	}
	for name, run := range map[string]func(args ...any) (string, error){
		"pool": func(args ...any) (string, error) { return ask(p, args...) },
		"exec": func(args ...any) (string, error) { _, err := p.Exec(one, "select 1", args...); return "one", err },
		"run": func(args ...any) (string, error) {
			return "one", p.Run(one, &providers.Call{Kind: providers.CallExec, SQL: "select 1", Args: args})
		},
		"batch": func(args ...any) (string, error) { return batched(p, args...) },
		"connection": func(args ...any) (string, error) {
			return onConn(func(c *Conn) (string, error) { return ask(c, args...) })
		},
		"batch of a connection": func(args ...any) (string, error) {
			return onConn(func(c *Conn) (string, error) { return batched(c, args...) })
		},
		"transaction": func(args ...any) (string, error) {
			return inTx(func(tx *Tx) (string, error) { return ask(tx, args...) })
		},
		"batch of a transaction": func(args ...any) (string, error) {
			return inTx(func(tx *Tx) (string, error) { return batched(tx, args...) })
		},
		"stream": func(args ...any) (got string, err error) {
			b := &pgx.Batch{}
			q := b.Queue("select 'not rewritten'", args...)
			q.QueryRow(func(row pgx.Row) error { return row.Scan(&got) })
			err = p.RunBatch(one, &providers.BatchCall{Group: 1, MaxStatements: 1, MaxBytes: 1, Next: func() (*pgx.QueuedQuery, error) {
				next := q
				q = nil
				return next, nil
			}})
			return got, err
		},
	} {
		for _, sql := range []string{"commit", "rollback; select 1", "begin"} {
			_, err := run(turncoat(sql))
			ends := errors.Is(err, providers.ErrEndsScope) || name == "stream" && errors.Is(err, providers.ErrBatchControl)
			if !ends || providers.OutcomeOf(err) != providers.OutcomeNotSent && name != "transaction" && name != "batch of a transaction" {
				t.Errorf("%s: %s: %v, %s", name, sql, err, providers.OutcomeOf(err))
			}
		}
		if got, err := run(turncoat(tenantSQL)); err != nil || got != "one" {
			t.Errorf("%s: a rewriter that does no harm: %q, %v", name, got, err)
		}
		if got, err := run(pgx.NamedArgs{"unused": 1}); err != nil || got != "one" && got != "not rewritten" {
			t.Errorf("%s: named arguments: %q, %v", name, got, err)
		}
	}
	for name, run := range map[string]func(args ...any) (string, error){
		"pool":  func(args ...any) (string, error) { return ask(p, args...) },
		"batch": func(args ...any) (string, error) { return batched(p, args...) },
	} {
		if _, err := run(turncoat("do $$ begin commit; end $$")); !errors.Is(err, providers.ErrEndsScope) {
			t.Errorf("%s from inside: %v", name, err)
		}
	}
	given := []any{turncoat("commit")}
	if _, err := p.Exec(one, "select 1", given...); err == nil || given[0] != any(turncoat("commit")) {
		t.Errorf("the caller's arguments are %v: %v", given, err)
	}
	if _, err := p.Exec(asTenant(t.Context(), ""), "select 1", turncoat("begin; commit")); err != nil {
		t.Errorf("around the scopes: %v", err)
	}
}
