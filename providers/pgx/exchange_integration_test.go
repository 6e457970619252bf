package pgx

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/providers"
)

// marked is a call with a setting, which leaves by an exchange.
func marked(kind providers.CallKind, sql string, args ...any) *providers.Call {
	return scoped(kind, sql, args, "app.x", "1")
}

// readMarked runs such a query, which must not fail before it is read.
func readMarked(t *testing.T, q runner, sql string, args ...any) pgx.Rows {
	t.Helper()
	call := marked(providers.CallQuery, sql, args...)
	if err := q.Run(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	return call.Rows
}

func TestExchangeReadsAsTheDriverDoes(t *testing.T) {
	p := balanced(t, providers.Config{})
	const sql = `select i, 'row ' || i, null::text, i / 2.0, array[i, i], $2::text from generate_series(1, $1) i`
	type row struct {
		I    int
		Name string
		None *string
		Half float64
		Two  []int
		Arg  string
	}
	rows, err := p.Query(t.Context(), sql, 3, "an argument")
	if err != nil {
		t.Fatal(err)
	}
	want, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time with the plans of the first
		got, err := pgx.CollectRows(readMarked(t, p, sql, 3, "an argument"), pgx.RowToStructByPos[row])
		if err != nil || len(got) != 3 || !slices.EqualFunc(got, want, func(a, b row) bool {
			return a.I == b.I && a.Name == b.Name && a.None == b.None && a.Half == b.Half && slices.Equal(a.Two, b.Two) && a.Arg == b.Arg
		}) {
			t.Errorf("%+v %v", got, err)
		}
	}
	inner := readMarked(t, p, sql, 3, "an argument")
	for inner.Next() {
		values, err := inner.Values()
		if err != nil || len(values) != 6 || values[2] != nil || len(inner.RawValues()) != 6 {
			t.Errorf("%v %v", values, err)
		}
	}
	if tag := inner.CommandTag().String(); inner.Err() != nil || tag != "SELECT 3" || len(inner.FieldDescriptions()) != 6 {
		t.Errorf("%s %v %v", tag, inner.FieldDescriptions(), inner.Err())
	}
	if _, err := inner.Values(); err == nil || inner.Next() || inner.RawValues() != nil {
		t.Errorf("read behind the end: %v", err)
	}
}

func TestExchangeOfARowThatDoesNotFit(t *testing.T) {
	p := balanced(t, providers.Config{})
	for name, dest := range map[string][]any{
		"the wrong type":        {new(int), new([]float64)},
		"too few destinations":  {new(int)},
		"too many destinations": {new(int), new(string), new(int)},
	} {
		rows := readMarked(t, p, `select i, 'a' from generate_series(1, 10000) i`)
		if !rows.Next() {
			t.Fatal(rows.Err())
		}
		err := rows.Scan(dest...)
		if err == nil || !errors.Is(rows.Err(), err) || rows.Next() {
			t.Errorf("%s: %v, then %v", name, err, rows.Err())
		}
		mustExec(t, p, "select 1")
	}
	if s := p.Stats(); s.Closed > 0 || s.InUse > 0 {
		t.Errorf("%d closed, %d in use", s.Closed, s.InUse)
	}
}

// A statement that is described only when it runs has columns all the same.
func TestExchangeOfAStatementDescribedLate(t *testing.T) {
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0].(*Conn)
	defer c.Release()
	mustExec(t, c, "prepare late as select 7 as seven, 'x' as x")
	rows := readMarked(t, c, "execute late")
	var seven int
	var x string
	if !rows.Next() || rows.Scan(&seven, &x) != nil || seven != 7 || x != "x" || rows.FieldDescriptions()[0].Name != "seven" {
		t.Errorf("%d %q %v", seven, x, rows.Err())
	}
	rows.Close()
	none := readMarked(t, c, "set app.y = 'z'")
	none.Close()
	if none.Err() != nil || none.CommandTag().String() != "SET" || none.Next() {
		t.Errorf("%v %v", none.CommandTag(), none.Err())
	}
}

func TestExchangePassesOnWhatTheServerSaysBesides(t *testing.T) {
	var notices, told []string
	hooks, err := providers.NewHookManager(providers.Hook{
		Name: "told", Events: []providers.HookEvent{providers.EventNotification},
		After: func(_ context.Context, i *providers.HookInfo) { told = append(told, i.Name) },
	})
	if err != nil {
		t.Fatal(err)
	}
	p := balanced(t, providers.Config{Hooks: hooks})
	c := acquireN(t, p, 1)[0].(*Conn)
	defer c.Release()
	c.lease.s.config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	mustExec(t, c, `create or replace function pg_temp.talk() returns int language plpgsql as
		$$ begin raise notice 'one'; raise notice 'two'; return 5; end $$`)
	if err := c.Run(t.Context(), marked(providers.CallExec, "select pg_temp.talk()")); err != nil {
		t.Fatal(err)
	}
	rows := readMarked(t, c, "select pg_temp.talk()")
	rows.Close()
	if want := []string{"one", "two", "one", "two"}; !slices.Equal(notices, want) || rows.Err() != nil {
		t.Errorf("%q %v", notices, rows.Err())
	}
	mustExec(t, c, "listen talk")
	if err := c.Run(t.Context(), marked(providers.CallExec, "select pg_notify('talk', 'x')")); err != nil {
		t.Fatal(err)
	}
	mustExec(t, c, "select 1")
	if !slices.Equal(told, []string{"talk"}) {
		t.Errorf("notified of %q", told)
	}
}

// The commit comes behind the result, and can fail by itself.
func TestExchangeWhoseCommitFails(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create table late (id int primary key deferrable initially deferred)")
	mustExec(t, p, "insert into late values (1)")
	const sql = "insert into late values (1) returning id"
	rows := readMarked(t, p, sql)
	var id int
	if !rows.Next() || rows.Scan(&id) != nil {
		t.Fatalf("no row ahead of the commit: %v", rows.Err())
	}
	rows.Close()
	var pg *providers.PGError
	if err := rows.Err(); !errors.As(err, &pg) || !pg.IsUniqueViolation() || providers.OutcomeOf(err) != providers.OutcomeRolledBack {
		t.Errorf("rows: %v", err)
	}
	if err := p.Run(t.Context(), marked(providers.CallExec, sql)); !errors.As(err, &pg) || !pg.IsUniqueViolation() {
		t.Errorf("exec: %v", err)
	}
	if n := value[int](t, p, "select count(*) from late"); n != 1 {
		t.Errorf("%d rows", n)
	}
}

func TestExchangeWhoseServerEnds(t *testing.T) {
	p := balanced(t, providers.Config{})
	for _, sql := range []string{
		"select pg_terminate_backend(pg_backend_pid())",
		"select 1 / (case when pg_terminate_backend(pg_backend_pid()) then 1 else 1 end) from generate_series(1, 3)",
	} {
		if err := p.Run(t.Context(), marked(providers.CallExec, sql)); err == nil || !strings.Contains(err.Error(), "57P01") {
			t.Errorf("exec: %v", err)
		}
		call := marked(providers.CallQuery, sql)
		err := p.Run(t.Context(), call)
		if err == nil {
			call.Rows.Close()
			err = call.Rows.Err()
		}
		if err == nil || !strings.Contains(err.Error(), "57P01") {
			t.Errorf("query: %v", err)
		}
	}
	mustExec(t, p, "select 1")
	if s := p.Stats(); s.InUse != 0 || s.Closed != 4 {
		t.Errorf("%d in use, %d closed", s.InUse, s.Closed)
	}
}

// As long as its rows are open, the connection is busy for everybody else.
func TestExchangeKeepsTheConnectionBusy(t *testing.T) {
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0].(*Conn)
	rows := readMarked(t, c, "select i from generate_series(1, 100000) i")
	if !rows.Next() {
		t.Fatal(rows.Err())
	}
	raw := c.lease.conn()
	if _, err := raw.Exec(t.Context(), "select 1"); err == nil || !raw.PgConn().IsBusy() {
		t.Errorf("a statement between the rows: %v", err)
	}
	c.Release() // under the rows
	eventually(t, "the connection is closed, not reused", func() bool { return p.Stats().Closed == 1 })
	rows.Close()
	mustExec(t, p, "select 1")
}

// What the connection learns of types later counts.
func TestExchangeWithTypesThatCameLater(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create type pair as (a int, b int)")
	c := acquireN(t, p, 1)[0].(*Conn)
	defer c.Release()
	const sql = "select (1, 2)::pair"
	var got struct{ A, B int }
	rows := readMarked(t, c, sql)
	if !rows.Next() || rows.Scan(&got) == nil {
		t.Fatal("an unknown type was read")
	}
	raw := c.Unwrap()
	pair, err := raw.LoadType(t.Context(), "pair")
	if err != nil {
		t.Fatal(err)
	}
	raw.TypeMap().RegisterType(pair)
	rows = readMarked(t, c, sql)
	if !rows.Next() || rows.Scan(&got) != nil || got.A != 1 || got.B != 2 {
		t.Errorf("%v %v", got, rows.Err())
	}
	rows.Close()
}

// fixedScanner reads a row by itself.
type fixedScanner struct{ columns int }

func (f *fixedScanner) ScanRow(rows pgx.Rows) error {
	f.columns = len(rows.FieldDescriptions())
	return rows.Scan(new(int), new(pgtype.Text))
}

func TestExchangeReadByARowScanner(t *testing.T) {
	p := balanced(t, providers.Config{})
	rows := readMarked(t, p, "select 1, 'a'")
	var f fixedScanner
	if !rows.Next() || rows.Scan(&f) != nil || f.columns != 2 {
		t.Errorf("%d columns, %v", f.columns, rows.Err())
	}
	rows.Close()
}

// A statement that AfterConnect has prepared is run by its name, whatever it is
// confined to.
func TestExchangeOfAStatementByItsName(t *testing.T) {
	p := balanced(t, providers.Config{AfterConnect: func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Prepare(ctx, "by_name", "select current_setting('app.x') || $1::text")
		return err
	}})
	rows := readMarked(t, p, "by_name", "!")
	var got string
	if !rows.Next() || rows.Scan(&got) != nil || got != "1!" {
		t.Errorf("%q %v", got, rows.Err())
	}
	rows.Close()
	if err := p.Run(t.Context(), marked(providers.CallExec, "by_name", "!")); err != nil {
		t.Error(err)
	}
}

// What was prepared and does not fit any more fails a transaction, as with the
// driver, and not every one after it.
func TestExchangeOfAStatementThatDoesNotFitAnyMore(t *testing.T) {
	for name, tc := range map[string]struct {
		sql  string
		args []any
		// change is what happens in between, on the same connection.
		change string
	}{
		"its result is another":                 {"select * from stale where id = $1", []any{1}, "alter table stale add column more int"},
		"its result is another, names for args": {"select * from stale where id = @id", []any{pgx.NamedArgs{"id": 1}}, "alter table stale add column more int"},
		"its arguments are others": {
			"select id from stale where x = $1", []any{"1"}, "alter table stale alter column x type int using x::int",
		},
		"the server has forgotten it":               {"select id from stale where id = $1", []any{1}, "deallocate all"},
		"the server has forgotten it, without args": {"select id from stale", nil, "deallocate all"},
	} {
		t.Run(name, func(t *testing.T) {
			p := balanced(t, providers.Config{})
			mustExec(t, p, "create table stale (id int, x text)")
			mustExec(t, p, "insert into stale values (1, '1')")
			c := acquireN(t, p, 1)[0].(*Conn)
			defer c.Release()
			read := func() error {
				tx, err := c.Begin(t.Context(), providers.TxOptions{})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = tx.Rollback(t.Context()) }()
				call := marked(providers.CallQuery, tc.sql, tc.args...)
				if err := tx.(*Tx).Run(t.Context(), call); err != nil {
					return err
				}
				_, err = pgx.CollectExactlyOneRow(call.Rows, pgx.RowToMap)
				return err
			}
			if err := read(); err != nil {
				t.Fatal(err)
			}
			mustExec(t, c, tc.change)
			first := read()
			for range 2 {
				if err := read(); err != nil {
					t.Errorf("%v, after %v", err, first)
				}
			}
			if err := c.Run(t.Context(), marked(providers.CallExec, tc.sql, tc.args...)); err != nil {
				t.Error(err)
			}
		})
	}
}

// What the driver read ahead for something else is not left for an exchange.
func TestExchangeBehindEverythingElse(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create table copied (n int)")
	for range 20 {
		if n, err := p.CopyFrom(t.Context(), pgx.Identifier{"copied"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {2}})); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		if err := p.Run(t.Context(), marked(providers.CallExec, "update copied set n = n + $1", 1)); err != nil {
			t.Fatal(err)
		}
		b := &pgx.Batch{}
		b.Queue("select 1")
		b.Queue("select n / 0 from copied")
		if err := p.SendBatch(t.Context(), b).Close(); err == nil {
			t.Fatal("divided")
		}
		rows := readMarked(t, p, "select count(*) from copied where n > $1", 0)
		var n int
		if !rows.Next() || rows.Scan(&n) != nil || n%2 != 0 || rows.Next() {
			t.Fatal(n, rows.Err())
		}
		if _, err := p.CopyFrom(t.Context(), pgx.Identifier{"copied"}, []string{"n"}, pgx.CopyFromRows([][]any{{"x"}})); err == nil {
			t.Fatal("a text was loaded as a number")
		}
	}
	if s := p.Stats(); s.Closed > 0 {
		t.Errorf("%d connections were closed", s.Closed)
	}
}

// Arguments that do not fit are refused, and cost no connection; those that fit
// since the columns have other types are taken.
func TestExchangeOfArgumentsThatDoNotFit(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create table fit (id int)")
	const sql = "insert into fit values ($1)"
	refused := func(args ...any) {
		t.Helper()
		for _, kind := range []providers.CallKind{providers.CallExec, providers.CallQuery} {
			if err := p.Run(t.Context(), scoped(kind, sql, args, "app.x", "1")); providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Errorf("%v: %v", args, err)
			}
		}
	}
	refused(5_000_000_000)
	refused()
	refused(1, 2)
	if err := p.Run(t.Context(), marked(providers.CallExec, sql, 1)); err != nil {
		t.Error(err)
	}
	mustExec(t, p, "alter table fit alter id type bigint")
	for range 2 {
		if err := p.Run(t.Context(), marked(providers.CallExec, sql, 5_000_000_000)); err != nil {
			t.Error(err)
		}
	}
	if s := p.Stats(); s.Closed != 0 || s.InUse != 0 {
		t.Errorf("%d connections closed, %d in use", s.Closed, s.InUse)
	}
}

// Whoever closes the connection between a result and its commit does not hear that
// it was committed.
func TestExchangeClosedAheadOfItsCommit(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create table closed (id int)")
	c := acquireN(t, p, 1)[0].(*Conn)
	rows := readMarked(t, c, "insert into closed values (1)")
	_ = c.Unwrap().Close(t.Context())
	rows.Close()
	if err := rows.Err(); providers.OutcomeOf(err) != providers.OutcomeUnknown {
		t.Errorf("%v: %v", providers.OutcomeOf(err), err)
	}
	c.Release()
	mustExec(t, p, "select 1")
}
