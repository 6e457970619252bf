package providertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

var confinedTests = []test{
	{name: "NoScopeNothingSent", run: testConfinedNoScope},
	{name: "OnEveryPath", run: testConfinedPaths},
	{name: "GoneBehind", run: testConfinedGone},
	{name: "CallsAddTheirOwn", run: testConfinedCalls},
	{name: "ShorterLimit", run: testConfinedLimit},
	{name: "DeclaredReadOnly", run: testConfinedReadOnly},
	{name: "StaysWhereItBegan", run: testConfinedStays},
	{name: "EndsWithAnyContext", run: testConfinedEnds},
	{name: "FailedSetting", run: testConfinedFailedSetting},
	{name: "Savepoint", run: testConfinedSavepoint},
	{name: "NoWayOutInSQL", run: testConfinedNoWayOut},
	{name: "SeveralStatements", run: testConfinedSeveral},
	{name: "OfManyAtOnce", run: testConfinedMany},
}

// errNoScope is what the suite's ScopeFunc refuses with.
var errNoScope = errors.New("the context is in no scope")

type scopeKey struct{}

// in is a context whose app.x is x. Of "free" it is confined to nothing.
func in(ctx context.Context, x string) context.Context { return context.WithValue(ctx, scopeKey{}, x) }

const free = "free"

// confineX is the suite's ScopeFunc.
func confineX(ctx context.Context) (providers.Scope, error) {
	x, ok := ctx.Value(scopeKey{}).(string)
	switch {
	case !ok:
		return providers.Scope{}, errNoScope
	case x == free:
		return providers.Scope{}, nil
	default:
		return providers.Scope{Settings: []providers.Setting{{Name: "app.x", Value: x}}}, nil
	}
}

// openConfined opens a pool of n connections that is confined by scope, on a
// database with scopeTable.
func (s suite) openConfined(t testing.TB, n int32, scope providers.ScopeFunc) providers.Pool {
	t.Helper()
	cfg := s.config(t, 1)
	mustExec(t, s.openWith(t, cfg), scopeTable)
	cfg.Pool.MaxSize, cfg.Scope = n, scope
	return s.openWith(t, cfg)
}

// onEachConfined runs a test on a pool, a connection and a transaction that are in
// the scope of a.
func (s suite) onEachConfined(t *testing.T, test func(t *testing.T, q querier)) {
	t.Helper()
	t.Run("pool", func(t *testing.T) { test(t, s.openConfined(t, 1, confineX)) })
	t.Run("conn", func(t *testing.T) {
		c, err := s.openConfined(t, 1, confineX).Acquire(in(t.Context(), "a"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
		test(t, c)
	})
	t.Run("transaction", func(t *testing.T) {
		tx, err := s.openConfined(t, 1, confineX).Begin(in(t.Context(), "a"), providers.TxOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(t.Context()) }()
		test(t, tx)
	})
}

// wantRowsOfA checks that there are n rows, all written in the scope of a.
func wantRowsOfA(ctx context.Context, t testing.TB, q providers.Querier, n int) {
	t.Helper()
	var all, of int
	err := q.QueryRow(ctx, "select count(*), count(*) filter (where x = 'a') from t").Scan(&all, &of)
	if err != nil || all != n || of != n {
		t.Errorf("%d rows, %d of them of a, want %d; %v", all, of, n, err)
	}
}

// wantSeen checks what app.x is to a statement.
func wantSeen(ctx context.Context, t testing.TB, q providers.Querier, want string) {
	t.Helper()
	var got string
	if err := q.QueryRow(ctx, readX).Scan(&got); err != nil || got != want {
		t.Errorf("app.x is %q, want %q; %v", got, want, err)
	}
}

// wantRefused checks that nothing in the list can be done with the context.
func wantRefused(ctx context.Context, t testing.TB, ops map[string]operation) {
	t.Helper()
	for name, op := range ops {
		wantOutcome(t, name, op(ctx), providers.OutcomeNotSent)
	}
}

// No tenant, no query, whichever way it is asked.
func testConfinedNoScope(t *testing.T, s suite) {
	s.onEachConfined(t, func(t *testing.T, q querier) {
		for name, op := range operations(q) {
			err := op(t.Context())
			wantOutcome(t, name, err, providers.OutcomeNotSent)
			if !errors.Is(err, errNoScope) {
				t.Errorf("%s: the reason is not in the chain of: %v", name, err)
			}
		}
		if p, ok := q.(providers.Pool); ok && p.Stats().Acquires != 0 {
			t.Errorf("%d connections were taken for nothing", p.Stats().Acquires)
		}
		wantRowsOfA(in(t.Context(), "a"), t, q, 0)
	})
}

func testConfinedPaths(t *testing.T, s suite) {
	s.onEachConfined(t, func(t *testing.T, q querier) {
		ctx, all := in(t.Context(), "a"), operations(q)
		for name, op := range all {
			if err := op(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		wantSeen(ctx, t, q, "a")
		wantRowsOfA(ctx, t, q, len(all))
	})
}

// The next one on the same connection finds nothing, however the last one ended.
func testConfinedGone(t *testing.T, s suite) {
	p := s.openConfined(t, 1, confineX)
	a, nobody := in(t.Context(), "a"), in(t.Context(), free)
	pid := func() (pid int) {
		if err := p.QueryRow(nobody, "select pg_backend_pid()").Scan(&pid); err != nil {
			t.Error(err)
		}
		return pid
	}
	before := pid()
	all := operations(p)
	all["fails"] = func(ctx context.Context) error {
		wantCode(t, "a statement that fails", second(p.Exec(ctx, "select 1 / 0")), "22012")
		return nil
	}
	all["rollback"] = func(ctx context.Context) error {
		tx, err := p.Begin(ctx, providers.TxOptions{})
		if err != nil {
			return err
		}
		wantSeen(ctx, t, tx, "a")
		return tx.Rollback(ctx)
	}
	all["rows closed early"] = func(ctx context.Context) error {
		rows, err := p.Query(ctx, "select current_setting('app.x') from generate_series(1, 100)")
		rows.Next()
		rows.Close()
		return errors.Join(err, rows.Err())
	}
	for name, op := range all {
		if err := op(a); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantSeen(nobody, t, p, "")
	}
	if s.keepsSessions() && pid() != before {
		t.Error("the connection was given up for its scope")
	}
}

// The call's own settings come behind those of the scope, and end first.
func testConfinedCalls(t *testing.T, s suite) {
	s.onEachConfined(t, func(t *testing.T, q querier) {
		ctx := in(t.Context(), "a")
		const both = "select concat(current_setting('app.x', true), current_setting('app.y', true))"
		for _, pair := range [][]string{{"app.y", "1"}, {"app.x", "own"}, {"APP.X", "own"}} {
			call := scoped(providers.CallQuery, both, nil, pair...)
			var got string
			if err := q.Run(ctx, call); err != nil {
				t.Fatal(err)
			}
			err := providers.FirstRow(call.Rows).Scan(&got)
			if want := map[string]string{"1": "a1", "own": "own"}[pair[1]]; err != nil || got != want {
				t.Errorf("%s: %q, want %q; %v", pair, got, want, err)
			}
			if len(call.Scope) != 1 {
				t.Errorf("the call's scope is now %v: if it is repeated, it grows", call.Scope)
			}
			if err := q.QueryRow(ctx, both).Scan(&got); err != nil || got != "a" {
				t.Errorf("behind %s: %q; %v", pair, got, err)
			}
		}
	})
}

// A call's limit of time can shorten that of the scope, and not lengthen it.
func testConfinedLimit(t *testing.T, s suite) {
	limited := func(context.Context) (providers.Scope, error) {
		return providers.Scope{Settings: []providers.Setting{{Name: "statement_timeout", Value: "5000"}}}, nil
	}
	p := s.openConfined(t, 1, limited)
	const limit = "select current_setting('statement_timeout')"
	check := func(on querier) {
		for given, want := range map[string]string{"60000": "5s", "0": "5s", "1000": "1s"} {
			call := scoped(providers.CallQuery, limit, nil, "statement_timeout", given)
			var got string
			err := on.Run(t.Context(), call)
			if err == nil {
				err = providers.FirstRow(call.Rows).Scan(&got)
			}
			if err != nil || got != want {
				t.Errorf("%T: %s within 5000: %q, want %q; %v", on, given, got, want, err)
			}
			if err := on.QueryRow(t.Context(), limit).Scan(&got); err != nil || got != "5s" {
				t.Errorf("%T: behind %s: %q; %v", on, given, got, err)
			}
		}
	}
	check(p)
	tx, err := p.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	check(tx)
	commit(t, tx)
}

func testConfinedReadOnly(t *testing.T, s suite) {
	p := s.openConfined(t, 1, confineX)
	ctx := providers.WithReadOnly(in(t.Context(), "a"))
	wantSeen(ctx, t, p, "a")
	wantCode(t, "a write that was declared a read", second(p.Exec(ctx, insertOne)), "25006")
	wantOutcome(t, "a read in no scope", second(p.Exec(providers.WithReadOnly(t.Context()), "select 1")), providers.OutcomeNotSent)
}

// A transaction, and a connection, stay in the scope that they began in.
func testConfinedStays(t *testing.T, s suite) {
	others := map[string]func(context.Context) context.Context{
		"another": func(ctx context.Context) context.Context { return in(ctx, "b") },
		"none":    func(ctx context.Context) context.Context { return in(ctx, free) },
	}
	s.onEachConfined(t, func(t *testing.T, q querier) {
		if _, isPool := q.(providers.Pool); isPool {
			return // it belongs to none
		}
		ctx := in(t.Context(), "a")
		insertAs(ctx, t, q)
		for what, other := range others {
			wantRefused(other(t.Context()), t, operations(q))
			err := second(q.Exec(other(t.Context()), "select 1"))
			if err == nil || !strings.Contains(err.Error(), "scope") {
				t.Errorf("%s: the error does not say why: %v", what, err)
			}
		}
		insertAs(ctx, t, q)
		wantSeen(ctx, t, q, "a")
		wantRowsOfA(ctx, t, q, 2)
	})
}

func insertAs(ctx context.Context, t testing.TB, q providers.Querier) {
	t.Helper()
	if _, err := q.Exec(ctx, insertOne); err != nil {
		t.Errorf("insert: %v", err)
	}
}

// Whoever holds a transaction can end it.
func testConfinedEnds(t *testing.T, s suite) {
	p := s.openConfined(t, 1, confineX)
	a := in(t.Context(), "a")
	for _, ctx := range []context.Context{t.Context(), in(t.Context(), "b"), in(t.Context(), free)} {
		for _, end := range []func(providers.Tx) error{
			func(tx providers.Tx) error { return tx.Commit(ctx) },
			func(tx providers.Tx) error { return tx.Rollback(ctx) },
		} {
			tx, err := p.Begin(a, providers.TxOptions{})
			if err != nil {
				t.Fatal(err)
			}
			insertAs(a, t, tx)
			sp, err := tx.Savepoint(a, "")
			if err != nil {
				t.Fatal(err)
			}
			insertAs(a, t, sp)
			if err := end(sp); err != nil {
				t.Errorf("savepoint: %v", err)
			}
			if err := end(tx); err != nil {
				t.Errorf("transaction: %v", err)
			}
		}
	}
	wantRowsOfA(in(t.Context(), free), t, p, 6)
}

// A setting that fails takes everything behind it with it.
func testConfinedFailedSetting(t *testing.T, s suite) {
	for what, bad := range map[string][]providers.Setting{
		"no such role":    {{Name: "role", Value: "nobody of that name"}},
		"bad value":       {{Name: "statement_timeout", Value: "soon"}},
		"behind a good":   {{Name: "app.x", Value: "a"}, {Name: "no_such_setting", Value: "1"}},
		"in front of one": {{Name: "no_such_setting", Value: "1"}, {Name: "app.x", Value: "a"}},
	} {
		t.Run(what, func(t *testing.T) {
			p := s.openConfined(t, 1, func(ctx context.Context) (providers.Scope, error) {
				if scope, err := confineX(ctx); err != nil || scope.Settings == nil {
					return scope, err
				}
				return providers.Scope{Settings: bad}, nil
			})
			for name, op := range operations(p) {
				err := op(in(t.Context(), "a"))
				if err == nil {
					t.Errorf("%s: no error", name)
				} else {
					wantOutcomeOfRefusal(t, err)
				}
			}
			wantRowsOfA(in(t.Context(), free), t, p, 0)
			wantSeen(in(t.Context(), free), t, p, "")
		})
	}
}

// What goes back to a savepoint does not go back behind the scope.
func testConfinedSavepoint(t *testing.T, s suite) {
	p := s.openConfined(t, 1, confineX)
	ctx := in(t.Context(), "a")
	tx, err := p.Begin(ctx, providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fails := func(q providers.Querier) {
		wantCode(t, "a statement that fails", second(q.Exec(ctx, "select 1 / 0")), "22012")
	}
	for _, end := range []func(providers.Tx, context.Context) error{providers.Tx.Rollback, providers.Tx.Commit} {
		sp, err := tx.Savepoint(ctx, "s")
		if err != nil {
			t.Fatal(err)
		}
		if err := sp.Run(ctx, scoped(providers.CallExec, "select 1", nil, "app.x", "own", "app.y", "1")); err != nil {
			t.Error(err)
		}
		wantSeen(ctx, t, sp, "a")
		fails(sp)
		_ = end(sp, ctx) // a commit cannot succeed, and undoes as well
		wantSeen(ctx, t, tx, "a")
	}
	for _, sql := range []string{"savepoint own", "", "rollback to own", "", "rollback work to savepoint own"} {
		if sql == "" {
			fails(tx)
		} else if _, err := tx.Exec(ctx, sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	insertAs(ctx, t, tx)
	wantSeen(ctx, t, tx, "a")
	commit(t, tx)
	wantRowsOfA(in(t.Context(), free), t, p, 1)
}

// A transaction that begins or ends in SQL would leave its scope behind.
func testConfinedNoWayOut(t *testing.T, s suite) {
	s.onEachConfined(t, func(t *testing.T, q querier) {
		ctx := in(t.Context(), "a")
		for _, sql := range []string{
			"commit", "COMMIT;", "end", "end work", "abort", "rollback", "rollback and chain", "commit and no chain", "begin",
			"start transaction", "prepare transaction 'x'", ";commit", " ; ; commit", "/* rollback to */ rollback",
			"-- to\nrollback", "/* /* nested */ still */ commit", "rollback /* to */", "rollback -- to\n work", "\fcommit",
		} {
			wantOutcome(t, sql, second(q.Exec(ctx, sql)), providers.OutcomeNotSent)
			wantOutcome(t, sql, queryError(ctx, q, sql), providers.OutcomeNotSent)
			wantOutcome(t, sql, q.Run(ctx, scoped(providers.CallExec, sql, nil, "app.y", "1")), providers.OutcomeNotSent)
		}
		wantSeen(ctx, t, q, "a")
		for _, sql := range []string{
			"do $$ begin perform 1; end $$", "select 'x; commit'", "select 1 as \"begin\"", "/* commit */ select 1", "-- commit;\nselect 1",
		} {
			if _, err := q.Exec(ctx, sql); err != nil {
				t.Errorf("%s: %v", sql, err)
			}
		}
		wantSeen(ctx, t, q, "a")
	})
}

// Several statements in one text must not end the scope among them.
func testConfinedSeveral(t *testing.T, s suite) {
	for _, control := range []string{"commit", "/* /* */ */ commit", "rollback", "end", "commit and chain"} {
		s.onEachConfined(t, func(t *testing.T, q querier) {
			ctx := in(t.Context(), "a")
			sql := insertOne + "; " + control + "; " + insertOne
			err := second(q.Exec(ctx, sql))
			if err == nil {
				t.Errorf("%s: it ran", sql)
				return
			}
			wantOutcomeOfRefusal(t, err)
			if tx, ok := q.(providers.Tx); ok {
				rollback(t, tx)
				return
			}
			wantRowsOfA(ctx, t, q, 0)
		})
	}
}

// Whoever comes at the same time, each sees its own scope alone.
func testConfinedMany(t *testing.T, s suite) {
	const callers, rounds = 16, 25 // of five statements each
	p := s.openConfined(t, 2, confineX)
	var all sync.WaitGroup
	for i := range callers {
		x := fmt.Sprintf("caller %d", i)
		ctx := in(t.Context(), x)
		all.Go(func() {
			for range rounds {
				wantSeen(ctx, t, p, x)
				seenByConn(ctx, t, p, x)
				seenByTx(ctx, t, p, x)
				call := scoped(providers.CallQuery, readX, nil, "app.y", "1")
				var got string
				if err := p.Run(ctx, call); err != nil {
					t.Error(err)
				} else if err := providers.FirstRow(call.Rows).Scan(&got); err != nil || got != x {
					t.Errorf("%q sees %q; %v", x, got, err)
				}
			}
		})
	}
	all.Wait()
}

func seenByConn(ctx context.Context, t testing.TB, p providers.Pool, x string) {
	c, err := p.Acquire(ctx)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Release()
	wantSeen(ctx, t, c, x)
}

func seenByTx(ctx context.Context, t testing.TB, p beginner, x string) {
	tx, err := p.Begin(ctx, providers.TxOptions{})
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = tx.Rollback(ctx) }()
	wantSeen(ctx, t, tx, x)
	wantSeen(ctx, t, tx, x)
}
