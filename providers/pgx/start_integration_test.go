package pgx

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

func beginWith(t testing.TB, p *Pool, sql string, args ...any) *Tx {
	t.Helper()
	tx, err := p.BeginWith(t.Context(), providers.TxOptions{}, providers.Statement{SQL: sql, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	return tx.(*Tx)
}

// BEGIN, the scope and the first statement take one round trip together.
func TestBeginWithIsOneFlush(t *testing.T) {
	scope := func(context.Context) (providers.Scope, error) {
		return providers.Scope{Settings: []providers.Setting{{Name: "app.tenant", Value: "a"}}}, nil
	}
	for name, cfg := range map[string]providers.Config{
		"direct": {}, "scope": {Scope: scope}, "pgbouncer": {Profile: providers.ProfilePgBouncer},
		"simple protocol": {DSN: "&default_query_exec_mode=simple_protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			w, dsn := newWire(t, pgtest.NewDB(t))
			cfg.DSN = dsn + cfg.DSN
			p := balanced(t, cfg)
			mustExec(t, p, "create table t (n int)")
			mustCommit(t, beginWith(t, p, "insert into t values ($1)", 1)) // prepares
			var tx *Tx
			if n := w.count(func() { tx = beginWith(t, p, "insert into t values ($1)", 2) }); n != 1 {
				t.Errorf("%d flushes", n)
			}
			if n := value[int](t, tx, "select sum(n) from t"); n != 3 {
				t.Errorf("it sees %d", n)
			}
			mustCommit(t, tx)
			if n := value[int](t, p, "select sum(n) from t"); n != 3 {
				t.Errorf("%d", n)
			}
		})
	}
}

// A scope that decides what names mean is in force before the statement is
// prepared.
func TestBeginWithInASchema(t *testing.T) {
	p := balanced(t, providers.Config{Scope: func(context.Context) (providers.Scope, error) {
		return providers.Scope{Settings: []providers.Setting{{Name: "search_path", Value: "mine"}}}, nil
	}})
	if _, err := p.Unwrap().Exec(t.Context(), "create schema mine; create table mine.t (n int unique)"); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, beginWith(t, p, "insert into t values (1)"))
	_, err := p.BeginWith(t.Context(), providers.TxOptions{}, providers.Statement{SQL: "insert into t values (1)"})
	if result := txResult(t, err); result.Result != providers.OutcomeRolledBack || result.Operation != "begin" {
		t.Errorf("%+v", result)
	}
}

// A plan that no longer fits the schema is made again, since nothing was begun.
func TestBeginWithAStalePlan(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create table t (n int)")
	mustCommit(t, beginWith(t, p, "select * from t"))
	mustExec(t, p, "alter table t add s text")
	mustCommit(t, beginWith(t, p, "select * from t"))
}

func TestBeginWithAnArgumentThatPanics(t *testing.T) {
	p := balanced(t, providers.Config{})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is lost")
			}
		}()
		_, _ = p.BeginWith(t.Context(), providers.TxOptions{}, providers.Statement{SQL: "select $1::text", Args: []any{panickingValue{}}})
	}()
	mustExec(t, p, "select 1")
}

func TestBeginWithFiresHooks(t *testing.T) {
	hooks, seen := watched(t)
	p := balanced(t, providers.Config{Hooks: hooks})
	mustCommit(t, beginWith(t, p, "select 1"))
	_, err := p.BeginWith(t.Context(), providers.TxOptions{}, providers.Statement{SQL: "select 1/0"})
	begins := seen.of(providers.EventBegin)
	if len(begins) != 2 || begins[0].SQL != "select 1" || begins[0].Err != nil || !errors.Is(err, begins[1].Err) {
		t.Errorf("%+v", begins)
	}
}

func TestBeginWithRefuses(t *testing.T) {
	p := balanced(t, providers.Config{})
	for sql, args := range map[string][]any{
		"copy t from stdin": nil, "select 1; commit": nil, "select 1": {pgx.QueryExecModeSimpleProtocol},
	} {
		_, err := p.BeginWith(t.Context(), providers.TxOptions{}, providers.Statement{SQL: sql, Args: args})
		if providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("%s: %v", sql, err)
		}
	}
	mustExec(t, p, "select 1")
}

// What a statement that comes first leaves in the session is reset.
func TestBeginWithLeavesNoState(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustCommit(t, beginWith(t, p, "select set_config('app.x', 'left', false)"))
	if left := value[string](t, p, "select coalesce(current_setting('app.x', true), '')"); left != "" {
		t.Errorf("the next borrower sees %q", left)
	}
}

func BenchmarkBeginWith(b *testing.B) {
	p := openPool(b, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
	first := providers.Statement{SQL: "select $1::int", Args: []any{1}}
	b.Run("one flush", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			tx, err := p.BeginWith(b.Context(), providers.TxOptions{}, first)
			if err != nil {
				b.Fatal(err)
			}
			_ = tx.Rollback(b.Context())
		}
	})
	b.Run("two", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			tx, err := p.Begin(b.Context(), providers.TxOptions{})
			if err != nil {
				b.Fatal(err)
			}
			_, _ = tx.Exec(b.Context(), first.SQL, first.Args...)
			_ = tx.Rollback(b.Context())
		}
	})
}
