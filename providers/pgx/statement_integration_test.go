package pgx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

func TestTrap14SeveralStatements(t *testing.T) {
	onEach(t, providers.Config{}, "create table t (n int)", func(t *testing.T, _ *Pool, q runner) {
		mustExec(t, q, "insert into t values (1); insert into t values (2)")
		if n := value[int](t, q, "select count(*) from t"); n != 2 {
			t.Errorf("%d rows: without arguments both run", n)
		}
		_, err := q.Exec(t.Context(), "insert into t values ($1); insert into t values (4)", 3)
		var pg *providers.PGError
		if !errors.As(err, &pg) || pg.Code != "42601" {
			t.Errorf("with arguments it must be refused: %v", err)
		}
	})
}

func TestTrap14SeveralStatementsAfterAScopedCall(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "create table t (n int)")
	if err := tx.Run(t.Context(), scoped(providers.CallExec, "insert into t values (1)", nil, "app.x", "1")); err != nil {
		t.Fatal(err)
	}
	mustExec(t, tx, "insert into t values (2); insert into t values (3)")
	if n := value[int](t, tx, "select count(*) from t"); n != 3 {
		t.Errorf("%d rows", n)
	}
	mustCommit(t, tx)
}

// options are what pgx takes ahead of the arguments.
var options = map[string][]any{
	"exec mode":       {pgx.QueryExecModeExec, 7},
	"simple protocol": {pgx.QueryExecModeSimpleProtocol, 7},
	"formats":         {pgx.QueryResultFormats{pgx.TextFormatCode}, 7},
	"formats by oid":  {pgx.QueryResultFormatsByOID{23: pgx.TextFormatCode}, 7},
	"several":         {pgx.QueryResultFormats{pgx.BinaryFormatCode}, pgx.QueryExecModeDescribeExec, 7},
}

func TestTrap14Options(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, _ *Pool, q runner) {
		for name, args := range options {
			if n := value[int](t, q, "select $1::int", args...); n != 7 {
				t.Errorf("%s: %d", name, n)
			}
		}
		if n := value[int](t, q, "select @n::int", pgx.NamedArgs{"n": 7}); n != 7 {
			t.Errorf("named arguments: %d", n)
		}
		tag, err := q.Exec(t.Context(), "select @n::int", pgx.NamedArgs{"n": 7})
		if err != nil || tag.RowsAffected() != 1 {
			t.Errorf("%s, %v", tag, err)
		}
	})
}

func TestTrap14OptionsOfAScopedCall(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, _ *Pool, q runner) {
		ctx := t.Context()
		for name, args := range options {
			for _, kind := range []providers.CallKind{providers.CallQuery, providers.CallExec} {
				err := q.Run(ctx, scoped(kind, "select $1::int", args, "app.x", "1"))
				if err == nil || !strings.Contains(err.Error(), "nothing was sent") || !strings.Contains(err.Error(), fmt.Sprintf("%T", args[0])) {
					t.Errorf("%s must be refused by name: %v", name, err)
				}
				if providers.OutcomeOf(err) != providers.OutcomeNotSent {
					t.Errorf("outcome %s", providers.OutcomeOf(err))
				}
			}
		}
		// Behind another option they are no less refused.
		err := q.Run(ctx, scoped(providers.CallExec, "select @n::int", []any{pgx.NamedArgs{"n": 7}, pgx.QueryExecModeExec}, "app.x", "1"))
		if err == nil || !strings.Contains(err.Error(), "nothing was sent") {
			t.Errorf("an option behind a rewriter: %v", err)
		}
		call := scoped(providers.CallQuery, "select @n::int, current_setting('app.x')", []any{pgx.NamedArgs{"n": 7}}, "app.x", "1")
		if err := q.Run(ctx, call); err != nil {
			t.Fatal(err)
		}
		var n int
		var x string
		if err := providers.FirstRow(call.Rows).Scan(&n, &x); err != nil || n != 7 || x != "1" {
			t.Errorf("named arguments in a scope: %d %q %v", n, x, err)
		}
		call = scoped(providers.CallExec, "select @n::int", []any{pgx.NamedArgs{"n": 7}}, "app.x", "1")
		if err := q.Run(ctx, call); err != nil || call.Tag.RowsAffected() != 1 {
			t.Errorf("%s %v", call.Tag, err)
		}
		// After a scoped call of the transaction they work as ever.
		for name, args := range options {
			if n := value[int](t, q, "select $1::int", args...); n != 7 {
				t.Errorf("%s: %d", name, n)
			}
			if _, err := q.Exec(ctx, "select 1"); err != nil {
				t.Error(err)
			}
			if err := q.Run(ctx, scoped(providers.CallExec, "select 1", nil, "app.x", "1")); err != nil {
				t.Error(err)
			}
		}
	})
}

const staleSetup = "create table t (n int, v int); insert into t values (1, 2)"

// stale runs a statement, changes the type of what it returns, and runs it
// again.
func stale(t *testing.T, p *Pool, use func(second bool)) {
	t.Helper()
	mustExec(t, p, staleSetup)
	use(false)
	mustExec(t, p, "alter table t alter column v type text")
	use(true)
}

func TestTrap15StalePlanIsTransparent(t *testing.T) {
	const query, update = "select * from t as executed where n = $1", "update t set n = n where n = $1 returning *"
	run := func(name string, use func(t *testing.T, p *Pool)) {
		t.Run(name, func(t *testing.T) {
			p := balanced(t, providers.Config{})
			stale(t, p, func(bool) { use(t, p) })
		})
	}
	run("query", func(t *testing.T, p *Pool) {
		rows, err := p.Query(t.Context(), query, 1)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for rows.Next() {
			n++
		}
		if rows.Err() != nil || n != 1 || rows.CommandTag().RowsAffected() != 1 {
			t.Errorf("%d rows, %v", n, rows.Err())
		}
	})
	run("query closed at once", func(t *testing.T, p *Pool) {
		rows, err := p.Query(t.Context(), query, 1)
		if err != nil {
			t.Fatal(err)
		}
		rows.Close()
		if rows.Err() != nil || rows.CommandTag().RowsAffected() != 1 {
			t.Errorf("%s %v", rows.CommandTag(), rows.Err())
		}
	})
	run("query row", func(t *testing.T, p *Pool) {
		var n, v any
		if err := p.QueryRow(t.Context(), query, 1).Scan(&n, &v); err != nil {
			t.Error(err)
		}
	})
	run("exec", func(t *testing.T, p *Pool) { mustExec(t, p, update, 1) })
	run("conn", func(t *testing.T, p *Pool) {
		c := acquireN(t, p, 1)[0]
		defer c.Release()
		mustExec(t, c, update, 1)
		var n, v any
		if err := c.QueryRow(t.Context(), query, 1).Scan(&n, &v); err != nil {
			t.Error(err)
		}
	})
	run("scoped query", func(t *testing.T, p *Pool) {
		call := scoped(providers.CallQuery, query, []any{1}, "app.x", "1")
		if err := p.Run(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		var n, v any
		if err := providers.FirstRow(call.Rows).Scan(&n, &v); err != nil {
			t.Error(err)
		}
	})
	run("scoped exec", func(t *testing.T, p *Pool) {
		call := scoped(providers.CallExec, update, []any{1}, "app.x", "1")
		if err := p.Run(t.Context(), call); err != nil || call.Tag.RowsAffected() != 1 {
			t.Errorf("%s %v", call.Tag, err)
		}
	})
}

func TestTrap15StalePlanInsideATransaction(t *testing.T) {
	const query = "select * from t where n = $1"
	uses := map[string]func(ctx context.Context, tx *Tx) error{
		"query": func(ctx context.Context, tx *Tx) error {
			rows, err := tx.Query(ctx, query, 1)
			if err == nil {
				rows.Close()
				err = rows.Err()
			}
			return err
		},
		"query row": func(ctx context.Context, tx *Tx) error {
			var n, v any
			return tx.QueryRow(ctx, query, 1).Scan(&n, &v)
		},
		"exec": func(ctx context.Context, tx *Tx) error { _, err := tx.Exec(ctx, query, 1); return err },
		"scoped": func(ctx context.Context, tx *Tx) error {
			return tx.Run(ctx, scoped(providers.CallExec, query, []any{1}, "app.x", "1"))
		},
	}
	for name, use := range uses {
		t.Run(name, func(t *testing.T) {
			p := balanced(t, providers.Config{})
			stale(t, p, func(second bool) {
				tx := begin(t, p, providers.TxOptions{})
				defer func() { mustRollback(t, tx) }()
				err := use(t.Context(), tx)
				var pg *providers.PGError
				switch {
				case !second && err != nil:
					t.Error(err)
				case second && (!errors.As(err, &pg) || !pg.IsStalePlan() || providers.OutcomeOf(err) != providers.OutcomeRolledBack):
					t.Errorf("not a stale plan: %v", err)
				}
			})
			// The failure threw the plan away.
			tx := begin(t, p, providers.TxOptions{})
			if err := use(t.Context(), tx); err != nil {
				t.Error(err)
			}
			mustCommit(t, tx)
		})
	}
}

// A stale plan of the application's own, met in the middle of what was partly
// committed already, is no licence to run it all again.
func TestTrap15NothingIsRepeatedThatCommittedItself(t *testing.T) {
	for name, call := range map[string]func(providers.Conn, context.Context) (pgconn.CommandTag, error){
		"several statements": func(c providers.Conn, ctx context.Context) (pgconn.CommandTag, error) {
			return c.Exec(ctx, "insert into log values (1); commit; EXECUTE mine")
		},
		"a procedure": func(c providers.Conn, ctx context.Context) (pgconn.CommandTag, error) {
			return c.Exec(ctx, "call work($1)", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := balanced(t, providers.Config{})
			mustExec(t, p, staleSetup+`; create table log (n int);
				create procedure work(n int) language plpgsql as $$
				begin insert into log values (n); commit; execute 'execute mine'; end $$`)
			c := acquireN(t, p, 1)[0]
			defer c.Release()
			mustExec(t, c, "prepare mine as select * from t")
			mustExec(t, c, "alter table t alter column v type text")
			_, err := call(c, t.Context())
			var pg *providers.PGError
			if !errors.As(err, &pg) || !pg.IsStalePlan() {
				t.Fatalf("not the situation: %v", err)
			}
			if n := value[int](t, c, "select count(*) from log"); n != 1 {
				t.Errorf("it ran %d times", n)
			}
		})
	}
}

func TestTrap16QueryHookEndsWhenTheRowsClose(t *testing.T) {
	const secret = "s3cr3t-argument"
	hooks, seen := watched(t)
	p := balanced(t, providers.Config{Hooks: hooks, Pool: providers.PoolStrategy{InitialSize: 1, MaxSize: 1}})
	rows, err := p.Query(t.Context(), "select g, $1::text from generate_series(1, 3) g", secret)
	if err != nil {
		t.Fatal(err)
	}
	rows.Next()
	if n := len(seen.of(providers.EventQuery)); n != 0 {
		t.Errorf("%d ends while the rows are open", n)
	}
	between := time.Now()
	rows.Close()
	got := seen.of(providers.EventQuery)
	if len(got) != 1 || got[0].Rows != 3 || got[0].Err != nil || got[0].PID == 0 || got[0].Duration < between.Sub(got[0].Start) {
		t.Errorf("%+v", got)
	}
	rows.Close()
	if n := len(seen.of(providers.EventQuery)); n != 1 {
		t.Errorf("%d ends of one query", n)
	}
	mustExec(t, p, "select $1::text", secret)
	_ = value[string](t, p, "select $1::text", secret)
	if err := p.Run(t.Context(), scoped(providers.CallExec, "select $1::text", []any{secret}, "app.x", secret)); err != nil {
		t.Error(err)
	}
	if n := len(seen.of(providers.EventExec)); n != 2 {
		t.Errorf("%d exec hooks", n)
	}
	if text := fmt.Sprintf("%+v", seen.all); strings.Contains(text, secret) {
		t.Errorf("an argument reached a hook: %s", text)
	}
}

func TestTrap16ErrorHooks(t *testing.T) {
	hooks, seen := watched(t)
	p := balanced(t, providers.Config{Hooks: hooks})
	ctx := t.Context()
	var n int
	if err := p.QueryRow(ctx, "select 1 where false").Scan(&n); !errors.Is(err, pgx.ErrNoRows) {
		t.Error(err)
	}
	if errs := seen.of(providers.EventError); len(errs) != 0 {
		t.Errorf("no row is an answer, not a failure: %+v", errs)
	}
	for _, fail := range []func() error{
		func() error { _, err := p.Exec(ctx, "select 1/$1::int", 0); return err },
		func() error { return p.QueryRow(ctx, "select 1/$1::int", 0).Scan(&n) },
		func() error { rows, _ := p.Query(ctx, "select 1/$1::int", 0); rows.Close(); return rows.Err() },
		func() error {
			return p.Run(ctx, scoped(providers.CallExec, "select 1/$1::int", []any{0}, "app.x", "1"))
		},
	} {
		seen.forget()
		err := fail()
		errs := seen.of(providers.EventError)
		var pg *providers.PGError
		if len(errs) != 1 || !errors.As(errs[0].Err, &pg) || pg.Code != "22012" || !errors.As(err, &pg) {
			t.Errorf("%v: %+v", err, errs)
		}
	}
}

func TestErrorsHoldNoArguments(t *testing.T) {
	secret := map[string]string{"token": "s3cr3t-argument"} // which no integer can be
	onEach(t, providers.Config{}, "create table t (n int)", func(t *testing.T, p *Pool, q runner) {
		ctx := t.Context()
		var n int
		errs := map[string]error{
			"query row": q.QueryRow(ctx, "select $1::int", secret).Scan(&n),
			"array":     q.QueryRow(ctx, "select $1::int[]", []any{secret}).Scan(&n),
			"several":   q.QueryRow(ctx, "select $1::int, $2::int", 1, secret).Scan(&n, &n),
		}
		_, errs["exec"] = q.Exec(ctx, "select $1::int", secret)
		_, errs["query"] = q.Query(ctx, "select $1::int", secret)
		for name, err := range errs {
			if err == nil || strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(err.Error(), "int4") {
				t.Errorf("%s: %v", name, err)
			}
			if !strings.Contains(err.Error(), "nothing was sent") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if !strings.Contains(errs["several"].Error(), "args[1]") {
			t.Errorf("which one? %v", errs["several"])
		}
		src := pgx.CopyFromRows([][]any{{1}, {secret}})
		if _, err := q.(providers.Copier).CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, src); err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("copy: %v", err)
		}
		if q != runner(p) {
			return // pgx closes the connection for these
		}
		b := &pgx.Batch{}
		b.Queue("insert into t values (1)")
		b.Queue("select $1::int", secret)
		for name, err := range map[string]error{
			"batch":  p.SendBatch(ctx, b).Close(),
			"scoped": p.Run(ctx, scoped(providers.CallExec, "select $1::int", []any{secret}, "app.x", "1")),
		} {
			if err == nil || strings.Contains(err.Error(), "s3cr3t") || providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := value[int](t, p, "select count(*) from t"); n != 0 {
			t.Errorf("%d rows of a batch that was not sent", n)
		}
	})
}

// explosive is an argument that panics when pgx asks it something.
type explosive struct{}

func (explosive) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	panic("boom")
}

func TestPanicOfAnArgument(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, _ *Pool, q runner) {
		ctx := t.Context()
		for name, use := range map[string]func(){
			"exec":         func() { _, _ = q.Exec(ctx, "select 1", explosive{}) },
			"query":        func() { _, _ = q.Query(ctx, "select 1", explosive{}) },
			"query row":    func() { _ = q.QueryRow(ctx, "select 1", explosive{}) },
			"scoped query": func() { _ = q.Run(ctx, scoped(providers.CallQuery, "select 1", []any{explosive{}}, "app.x", "1")) },
			"scoped exec":  func() { _ = q.Run(ctx, scoped(providers.CallExec, "select 1", []any{explosive{}}, "app.x", "1")) },
			"batch": func() {
				b := &pgx.Batch{}
				b.Queue("select 1", explosive{})
				_ = q.(providers.Batcher).SendBatch(ctx, b)
			},
			"nil batch": func() { _ = q.(providers.Batcher).SendBatch(ctx, nil) },
		} {
			if r := panics(use); r == nil {
				t.Errorf("%s: the panic is the caller's to see", name)
			}
			if n := value[int](t, q, "select 1"); n != 1 {
				t.Errorf("%s: %d", name, n)
			}
		}
	})
}

func panics(do func()) (r any) {
	defer func() { r = recover() }()
	do()
	return nil
}
