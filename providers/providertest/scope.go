package providertest

import (
	"strings"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

var scopeTests = []test{
	{name: "HoldsForTheCall", run: testScopeHolds},
	{name: "OddValues", run: testScopeOddValues},
	{name: "FailedSettingTakesTheStatementWithIt", run: testScopeFails},
	{name: "FailedSettingInATransaction", run: testScopeFailsInTransaction},
	{name: "FailedStatement", run: testScopeStatementFails},
	{name: "RowsClosedEarly", run: testScopeRowsClosedEarly},
	{name: "OneStatementOnly", run: testScopeSingle},
	{name: "SearchPath", run: testScopeSearchPath},
	{name: "Role", run: testScopeRole},
	{name: "ReadOnly", run: testScopeReadOnly},
	{name: "DeclaredReadOnly", run: testDeclaredReadOnly},
	{name: "InATransaction", run: testScopeInTransaction},
	{name: "InASavepoint", run: testScopeInSavepoint},
	{name: "LimitDoesNotHitCommit", run: testScopeLimitAndCommit},
	{name: "OfManyAtOnce", run: testScopeOfMany},
}

const readX = "select coalesce(current_setting('app.x', true), '')"

func wantX(t testing.TB, on querier, want string, pairs ...string) {
	t.Helper()
	if got, err := runValue[string](t, on, readX, pairs...); err != nil || got != want {
		t.Errorf("app.x is %q, want %q; %v", got, want, err)
	}
}

func testScopeHolds(t *testing.T, s suite) {
	s.onEach(t, table, func(t *testing.T, q querier) {
		wantX(t, q, "one", "app.x", "one", "app.y", "2")
		if got := value[string](t, q, readX); got != "" {
			t.Errorf("a plain statement behind it sees %q", got)
		}
		wantX(t, q, "two", "app.x", "two")
		wantX(t, q, "")
		call := scoped(providers.CallExec, "insert into t values (1), (length(current_setting('app.x')))", nil, "app.x", "12345")
		if err := q.Run(t.Context(), call); err != nil || call.Tag.RowsAffected() != 2 {
			t.Errorf("%q, %v", call.Tag, err)
		}
		if n := value[int](t, q, "select max(n) from t"); n != 5 {
			t.Errorf("%d", n)
		}
		wantX(t, q, "")
	})
}

func testDeclaredReadOnly(t *testing.T, s suite) {
	p := s.open(t, 2)
	mustExec(t, p, table)
	ctx := providers.WithReadOnly(t.Context())
	c, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	for what, q := range map[string]querier{"pool": p, "connection": c} {
		_, execErr := q.Exec(ctx, "insert into t values ($1)", 1)
		rowErr := q.QueryRow(ctx, "insert into t values ($1) returning n", 1).Scan(new(int))
		for _, err := range []error{execErr, rowErr} {
			if pg := providers.NewPGError(err); pg == nil || !pg.IsReadOnly() {
				t.Errorf("%s: a write that was declared a read ended with %v", what, err)
			}
		}
		var n int
		if err := q.QueryRow(ctx, "select count(*) from t").Scan(&n); err != nil || n != 0 {
			t.Errorf("%s: %d rows were written, %v", what, n, err)
		}
		mustExec(t, q, "insert into t values (1)")
		mustExec(t, q, "delete from t")
	}
}

func testScopeOddValues(t *testing.T, s suite) {
	p := s.open(t, 1)
	for _, odd := range []string{"", " ", "'", `"`, `\`, "$1", "; drop table t; --", "ü世🐘", "a\nb", "null", "DEFAULT", strings.Repeat("x", 100_000)} {
		wantX(t, p, odd, "app.x", odd)
		wantX(t, p, "")
	}
}

// A setting that fails takes the statement with it: no tenant, no query.
func testScopeFails(t *testing.T, s suite) {
	for what, pairs := range map[string][]string{
		"no such setting":  {"no_such_setting", "1"},
		"not a name":       {"'; drop table t; --", "1"},
		"empty name":       {"", "1"},
		"bad value":        {"statement_timeout", "soon"},
		"behind a good":    {"app.x", "1", "work_mem", "-5"},
		"not to be set":    {"server_version", "1"},
		"no such role":     {"role", "nobody of that name"},
		"before a good":    {"work_mem", "x", "app.x", "1"},
		"bad search path":  {"search_path", `"`},
		"bad isolation":    {"transaction_isolation", "total"},
		"only at start-up": {"shared_buffers", "1MB"},
	} {
		t.Run(what, func(t *testing.T) {
			p := s.open(t, 1)
			mustExec(t, p, table)
			c := acquire(t, p)
			wantOutcomeOfRefusal(t, runExec(t, c, "insert into t values (1)", pairs...))
			_, err := runValue[int](t, c, "insert into t values (1) returning n", pairs...)
			wantOutcomeOfRefusal(t, err)
			wantX(t, c, "")
			c.Release()
			wantOutcomeOfRefusal(t, runExec(t, p, "insert into t values (1)", pairs...))
			if n := traces(t, p); n != 0 {
				t.Errorf("%d statements ran without their setting", n)
			}
		})
	}
}

// wantOutcomeOfRefusal checks that an error does not claim that anything could
// have been done.
func wantOutcomeOfRefusal(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	if o := providers.OutcomeOf(err); o != providers.OutcomeRolledBack && o != providers.OutcomeNotSent {
		t.Errorf("the outcome is told as %q: %v", o, err)
	}
}

func testScopeFailsInTransaction(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	sp := savepoint(t, tx, "")
	wantOutcomeOfRefusal(t, runExec(t, sp, "insert into t values (1)", "no_such_setting", "1"))
	wantCode(t, "the next statement", execError(t, sp, "insert into t values (2)"), "25P02")
	rollback(t, sp)
	wantX(t, tx, "")
	mustExec(t, tx, "insert into t values (3)")
	commit(t, tx)
	if n := value[int](t, p, "select sum(n) from t"); n != 3 {
		t.Errorf("%d", n)
	}
}

func testScopeStatementFails(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	c := acquire(t, p)
	for _, on := range []querier{c, p} {
		wantCode(t, "exec", runExec(t, on, "insert into t select 1 / (2 - n) from generate_series(1, 3) n", "app.x", "1"), "22012")
		_, err := runValue[int](t, on, "insert into t select 1 / (2 - n) from generate_series(1, 3) n returning n", "app.x", "1")
		wantCode(t, "query", err, "22012")
		wantX(t, on, "")
		if n := traces(t, on); n != 0 {
			t.Errorf("%d rows of failed statements", n)
		}
		c.Release() // before the pool's turn
	}
}

func testScopeRowsClosedEarly(t *testing.T, s suite) {
	s.onEach(t, table, func(t *testing.T, q querier) {
		call := scoped(providers.CallQuery, "insert into t select generate_series(1, 1000) returning n", nil, "app.x", "1")
		if err := q.Run(t.Context(), call); err != nil || !call.Rows.Next() {
			t.Fatal("no row", err)
		}
		call.Rows.Close()
		if err := call.Rows.Err(); err != nil {
			t.Error(err)
		}
		if n := traces(t, q); n != 1000 {
			t.Errorf("%d of 1000 rows", n)
		}
		wantX(t, q, "")
	})
}

// A scope is that of one statement: several could end it among them.
func testScopeSingle(t *testing.T, s suite) {
	s.onEach(t, "create table t (s text)", func(t *testing.T, q querier) {
		if err := runExec(t, q, "insert into t values ('a;b') ;", "app.x", "1"); err != nil {
			t.Errorf("a semicolon in a literal: %v", err)
		}
		if got, err := runValue[string](t, q, "insert into t values ('c;d') returning s;", "app.x", "1"); err != nil || got != "c;d" {
			t.Errorf("a semicolon in a literal: %q, %v", got, err)
		}
		if n := traces(t, q); n != 2 {
			t.Errorf("%d rows", n)
		}
		wantOutcomeOfRefusal(t, runExec(t, q, "insert into t values ('e'); insert into t values ('f')", "app.x", "1"))
		if _, inTx := q.(providers.Tx); !inTx && traces(t, q) != 2 {
			t.Error("several statements shared one scope")
		}
	})
}

// A statement's names mean what the scope says.
func testScopeSearchPath(t *testing.T, s suite) {
	s.onEach(t, "create schema a; create schema b; create table a.t (n int); create table b.t (n text)", func(t *testing.T, q querier) {
		for range 2 { // also when the statement is known by then
			for _, schema := range []string{"a", "b"} {
				if err := runExec(t, q, "insert into t values ('7')", "search_path", schema); err != nil {
					t.Errorf("%s: %v", schema, err)
				}
				if got, err := runValue[string](t, q, "select pg_typeof(n)::text from t limit 1", "search_path", schema); err != nil || got != map[string]string{"a": "integer", "b": "text"}[schema] {
					t.Errorf("%s: %s, %v", schema, got, err)
				}
			}
		}
		if n := value[int](t, q, "select (select count(*) from a.t) * 10 + (select count(*) from b.t)"); n != 22 {
			t.Errorf("%d", n)
		}
	})
}

func testScopeRole(t *testing.T, s suite) {
	s.onEach(t, "", func(t *testing.T, q querier) {
		before := value[string](t, q, "select current_user")
		if got, err := runValue[string](t, q, "select current_user", "role", "pg_read_all_data"); err != nil || got != "pg_read_all_data" {
			t.Errorf("%q, %v", got, err)
		}
		if got := value[string](t, q, "select current_user"); got != before {
			t.Errorf("%q", got)
		}
	})
}

func testScopeReadOnly(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	wantCode(t, "a write", runExec(t, p, "insert into t values (1)", "transaction_read_only", "on"), "25006")
	mustExec(t, p, "insert into t values (2)")
}

func testScopeInTransaction(t *testing.T, s suite) {
	p := s.open(t, 1)
	tx := begin(t, p, providers.TxOptions{})
	wantX(t, tx, "a", "app.x", "a", "app.y", "a")
	if got, err := runValue[string](t, tx, "select current_setting('app.y')", "app.x", "b"); err != nil || got != "" {
		t.Errorf("a setting of an earlier call is still there: %q, %v", got, err)
	}
	wantX(t, tx, "", "app.y", "c")
	wantX(t, tx, "d", "app.x", "d")
	commit(t, tx)
	wantX(t, p, "")
}

func testScopeInSavepoint(t *testing.T, s suite) {
	p := s.open(t, 1)
	tx := begin(t, p, providers.TxOptions{})
	wantX(t, tx, "outer", "app.x", "outer")
	for _, end := range []func(testing.TB, providers.Tx){commit, rollback} {
		sp := savepoint(t, tx, "")
		wantX(t, sp, "inner", "app.x", "inner")
		wantX(t, sp, "")
		wantX(t, sp, "inner", "app.x", "inner")
		end(t, sp)
		wantX(t, tx, "") // whatever the end of the savepoint brought back
	}
	commit(t, tx)
	wantX(t, p, "")
}

// A limit that was one call's must not end the commit.
func testScopeLimitAndCommit(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table+`; create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.5); return null; end $$;
		create constraint trigger slow after insert on t deferrable initially deferred for each row execute function slow()`)
	tx := begin(t, p, providers.TxOptions{})
	if err := runExec(t, tx, "insert into t values (1)", "statement_timeout", "200"); err != nil {
		t.Fatal(err)
	}
	commit(t, tx)
	if n := traces(t, p); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// Whoever comes at the same time, each has the settings of its own call.
func testScopeOfMany(t *testing.T, s suite) {
	p := s.open(t, 4)
	var all sync.WaitGroup
	for _, x := range strings.Split("abcdefgh", "") {
		all.Go(func() {
			for range 25 {
				wantX(t, p, x, "app.x", x)
				wantX(t, p, "")
			}
		})
	}
	all.Wait()
}
