package providertest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/providers"
)

var queryTests = []test{
	{name: "Exec", run: testExec},
	{name: "SeveralStatements", run: testSeveralStatements},
	{name: "Rows", run: testRows},
	{name: "RowsOfNothing", run: testRowsOfNothing},
	{name: "RowsClosedEarly", run: testRowsClosedEarly},
	{name: "RowsThatFail", run: testRowsThatFail},
	{name: "RowsHoldTheirConnection", run: testRowsHoldTheirConnection},
	{name: "RowsForPgxHelpers", run: testRowsForPgxHelpers},
	{name: "Row", run: testRow},
	{name: "RowThatEndsBadly", run: testRowThatEndsBadly},
	{name: "Huge", run: testHuge},
	{name: "NUL", run: testNUL},
	{name: "WrongArguments", run: testWrongArguments},
	{name: "CopyWithoutData", run: testCopyWithoutData},
}

func testExec(t *testing.T, s suite) {
	s.onEach(t, table, func(t *testing.T, q querier) {
		for _, tc := range []struct {
			sql  string
			args []any
			rows int64
		}{
			{"insert into t values (1), (2), ($1)", []any{3}, 3},
			{"update t set n = n + 1 where n < $1", []any{3}, 2},
			{"select n from t", nil, 3},
			{"delete from t", nil, 3},
			{"create index on t (n)", nil, 0},
			{"", nil, 0},
		} {
			tag, err := q.Exec(t.Context(), tc.sql, tc.args...)
			if err != nil || tag.RowsAffected() != tc.rows {
				t.Errorf("%q: %d rows affected, want %d; %v", tc.sql, tag.RowsAffected(), tc.rows, err)
			}
			for word, is := range map[string]bool{"insert": tag.Insert(), "update": tag.Update(), "delete": tag.Delete(), "select": tag.Select()} {
				if want := strings.HasPrefix(tc.sql, word); is != want {
					t.Errorf("%q: the tag %q says %s: %v", tc.sql, tag, word, is)
				}
			}
		}
	})
}

func testSeveralStatements(t *testing.T, s suite) {
	s.onEach(t, table, func(t *testing.T, q querier) {
		mustExec(t, q, "insert into t values (1); insert into t values (2)")
		if n := traces(t, q); n != 2 {
			t.Errorf("%d of 2 statements ran", n)
		}
		if got := value[string](t, q, "select 'a;b';"); got != "a;b" {
			t.Errorf("a semicolon in a literal: %q", got)
		}
		wantCode(t, "rows of several", queryError(t.Context(), q, "select 1; select 2"), "42601")
	})
}

func testRows(t *testing.T, s suite) {
	s.onEach(t, "", func(t *testing.T, q querier) {
		rows, err := q.Query(t.Context(), "select n, n::text as name, n = 2 as even from generate_series($1::int, 3) n", 1)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		var names []string
		var types []uint32
		for _, f := range rows.FieldDescriptions() {
			names, types = append(names, f.Name), append(types, f.DataTypeOID)
		}
		if !slices.Equal(names, []string{"n", "name", "even"}) || !slices.Equal(types, []uint32{pgtype.Int4OID, pgtype.TextOID, pgtype.BoolOID}) {
			t.Errorf("columns %q of types %d", names, types)
		}
		if rows.TypeMap() == nil {
			t.Error("no type map, which scanning into structs needs")
		}
		for want := int32(1); rows.Next(); want++ {
			wantNumberedRow(t, rows, want)
		}
		if err := rows.Err(); err != nil || rows.CommandTag().RowsAffected() != 3 || rows.Next() {
			t.Errorf("%v, %q", err, rows.CommandTag())
		}
		rows.Close() // once more does nothing
	})
}

func wantNumberedRow(t testing.TB, rows pgx.Rows, want int32) {
	t.Helper()
	var n int32
	var name string
	var even bool
	if err := rows.Scan(&n, &name, &even); err != nil || n != want || name != string('0'+want) || even != (want == 2) {
		t.Errorf("row %d: %d, %q, %v; %v", want, n, name, even, err)
	}
	values, err := rows.Values()
	if err != nil || !slices.Equal(values, []any{n, name, even}) {
		t.Errorf("row %d: %#v, %v", want, values, err)
	}
	if raw := rows.RawValues(); len(raw) != 3 || raw[0] == nil {
		t.Errorf("row %d: raw values %q", want, raw)
	}
}

func testRowsOfNothing(t *testing.T, s suite) {
	s.onEach(t, table, func(t *testing.T, q querier) {
		for _, sql := range []string{"select n from t", "insert into t values (1)"} {
			rows, err := q.Query(t.Context(), sql)
			if err != nil {
				t.Fatal(err)
			}
			if rows.Next() || rows.Err() != nil {
				t.Errorf("%s: a row, or %v", sql, rows.Err())
			}
			rows.Close()
		}
		if n := traces(t, q); n != 1 {
			t.Errorf("a statement without rows ran %d times", n)
		}
	})
}

func testRowsClosedEarly(t *testing.T, s suite) {
	s.onEach(t, table, func(t *testing.T, q querier) {
		rows, err := q.Query(t.Context(), "insert into t select generate_series(1, 1000) returning n")
		if err != nil || !rows.Next() {
			t.Fatalf("no row: %v", err)
		}
		rows.Close()
		rows.Close()
		if rows.Next() || rows.Err() != nil {
			t.Errorf("rows behind the end, or %v", rows.Err())
		}
		if err := rows.Scan(new(int)); err == nil {
			t.Error("scanned behind the end")
		}
		if n := traces(t, q); n != 1000 {
			t.Errorf("%d of 1000 rows were inserted", n)
		}
	})
}

func testRowsThatFail(t *testing.T, s suite) {
	p := s.open(t, 1)
	rows, err := p.Query(t.Context(), "select 1 / (500 - n) from generate_series(1, 1000) n")
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for rows.Next() {
		read++
	}
	wantCode(t, "rows", rows.Err(), "22012")
	if read >= 500 {
		t.Errorf("%d rows of 499", read)
	}
	rows, err = p.Query(t.Context(), "select 'x', 2")
	if err != nil || !rows.Next() {
		t.Fatal("no row", err)
	}
	if err := rows.Scan(new(int), new(int)); err == nil || rows.Err() == nil {
		t.Errorf("x went into an int: %v, %v", err, rows.Err())
	}
	if rows.Next() {
		t.Error("an error must close the rows")
	}
	for _, dest := range [][]any{{}, {new(string)}, {new(string), new(int), new(int)}} {
		rows, err = p.Query(t.Context(), "select 'x', 2")
		if err != nil || !rows.Next() {
			t.Fatal("no row", err)
		}
		if err := rows.Scan(dest...); err == nil {
			t.Errorf("2 columns went into %d", len(dest))
		}
		rows.Close()
	}
	mustExec(t, p, "select 1")
}

func testRowsHoldTheirConnection(t *testing.T, s suite) {
	p := s.open(t, 1)
	rows, err := p.Query(t.Context(), "select generate_series(1, 3)")
	if err != nil {
		t.Fatal(err)
	}
	if n := p.Stats().InUse; n != 1 {
		t.Errorf("%d connections in use", n)
	}
	for rows.Next() {
		continue
	}
	eventually(t, "the connection came back at the last row", func() bool { return p.Stats().InUse == 0 })
}

func testRowsForPgxHelpers(t *testing.T, s suite) {
	type item struct {
		ID   int64
		Name *string
	}
	p := s.open(t, 1)
	rows, _ := p.Query(t.Context(), "select 1::bigint as id, null::text as name union all select 2, 'b' order by id")
	items, err := pgx.CollectRows(rows, pgx.RowToStructByName[item])
	if err != nil || len(items) != 2 || items[0].Name != nil || items[1].ID != 2 || *items[1].Name != "b" {
		t.Errorf("%+v, %v", items, err)
	}
	rows, _ = p.Query(t.Context(), "selec 1") // the error is the rows' as well
	_, err = pgx.CollectRows(rows, pgx.RowTo[int])
	wantCode(t, "collected", err, "42601")
}

func testRow(t *testing.T, s suite) {
	s.onEach(t, table, func(t *testing.T, q querier) {
		var n int
		if err := q.QueryRow(t.Context(), "select n from t").Scan(&n); !errors.Is(err, pgx.ErrNoRows) {
			t.Errorf("no row: %v", err)
		}
		row := q.QueryRow(t.Context(), "select generate_series(7, 9)")
		if err := row.Scan(&n); err != nil || n != 7 {
			t.Errorf("the first of several: %d, %v", n, err)
		}
		if err := row.Scan(&n); err == nil {
			t.Error("scanned twice")
		}
		if err := q.QueryRow(t.Context(), "select 'x'").Scan(new(pgtype.DriverBytes)); err == nil {
			t.Error("scanned into bytes that belong to the connection")
		}
		call := scoped(providers.CallQuery, "select 5", nil)
		if err := q.Run(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		if err := providers.FirstRow(call.Rows).Scan(&n); err != nil || n != 5 {
			t.Errorf("a call: %d, %v", n, err)
		}
	})
}

// A statement has only succeeded once its end was read.
func testRowThatEndsBadly(t *testing.T, s suite) {
	p := s.open(t, 1)
	err := p.QueryRow(t.Context(), "select 1 / (2 - n) from generate_series(1, 3) n").Scan(new(int))
	wantCode(t, "QueryRow", err, "22012")
	_, err = runValue[int](t, p, "select 1 / (2 - n) from generate_series(1, 3) n", "app.x", "1")
	wantCode(t, "a call", err, "22012")
}

func testHuge(t *testing.T, s suite) {
	s.onEach(t, "", func(t *testing.T, q querier) {
		huge := strings.Repeat("0123456789abcdef", 1<<20)
		if got := value[string](t, q, "select $1::text", huge); got != huge {
			t.Errorf("16 MB went out, %d bytes came back", len(got))
		}
		rows, err := q.Query(t.Context(), "select repeat('x', 100) from generate_series(1, 50000)")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for rows.Next() {
			n++
		}
		if n != 50000 || rows.Err() != nil {
			t.Errorf("%d rows, %v", n, rows.Err())
		}
	})
}

func testNUL(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	for what, err := range map[string]error{
		"the statement":         execError(t, p, "insert into t values (1) \x00"),
		"a call":                runExec(t, p, "insert into t values (1) \x00"),
		"a call with a scope":   runExec(t, p, "insert into t values (1) \x00", "app.x", "1"),
		"a row":                 p.QueryRow(t.Context(), "select 1 \x00").Scan(new(int)),
		"an argument":           execError(t, p, "insert into t select length($1::text)", "a\x00b"),
		"a setting's value":     runExec(t, p, "insert into t values (1)", "app.x", "a\x00b"),
		"a setting's name":      runExec(t, p, "insert into t values (1)", "app\x00.x", "1"),
		"a warm connection, or": execError(t, p, "\x00"),
	} {
		if err == nil {
			t.Errorf("a NUL in %s was taken", what)
		}
		if providers.OutcomeOf(err) == providers.OutcomeCommitted {
			t.Errorf("a NUL in %s: nothing was committed: %v", what, err)
		}
	}
	if n := traces(t, p); n != 0 {
		t.Errorf("%d statements ran up to the NUL", n)
	}
}

func testWrongArguments(t *testing.T, s suite) {
	s.onEach(t, table, func(t *testing.T, q querier) {
		if _, inTx := q.(providers.Tx); inTx {
			return // one failure would be the end of it
		}
		for what, err := range map[string]error{
			"too few":      execError(t, q, "insert into t values ($1), ($2)", 1),
			"too many":     execError(t, q, "insert into t values ($1)", 1, 2),
			"of no use":    execError(t, q, "insert into t values (1)", 1),
			"unencodable":  execError(t, q, "insert into t values ($1)", make(chan int)),
			"no number":    execError(t, q, "insert into t values ($1::int)", "secret-x"),
			"out of range": execError(t, q, "insert into t values ($1::int)", int64(1)<<40),
		} {
			if err == nil {
				t.Errorf("%s: taken", what)
			} else if o := providers.OutcomeOf(err); o == providers.OutcomeCommitted {
				t.Errorf("%s: %s: %v", what, o, err)
			}
			if o := providers.OutcomeOf(err); o == providers.OutcomeUnknown { // the driver finds it, or the server
				t.Errorf("%s: nothing ran, and the outcome is unknown: %v", what, err)
			}
		}
		if n := traces(t, q); n != 0 {
			t.Errorf("%d statements ran", n)
		}
	})
}

// testCopyWithoutData runs what would wait for data that nobody sends.
func testCopyWithoutData(t *testing.T, s suite) {
	s.onEach(t, table, func(t *testing.T, q querier) {
		if _, inTx := q.(providers.Tx); inTx {
			return // one failure would be the end of it
		}
		const copyIn = "copy t from stdin"
		wantOutcome(t, "exec", execError(t, q, copyIn), providers.OutcomeNotSent)
		wantOutcome(t, "query", queryError(t.Context(), q, copyIn), providers.OutcomeNotSent)
		wantOutcome(t, "run", runExec(t, q, copyIn, "app.x", "1"), providers.OutcomeNotSent)
		if n := traces(t, q); n != 0 {
			t.Errorf("%d rows", n)
		}
	})
}

// execError is the error of a statement.
func execError(t testing.TB, q providers.Querier, sql string, args ...any) error {
	t.Helper()
	_, err := q.Exec(t.Context(), sql, args...)
	return err
}
