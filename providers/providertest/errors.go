package providertest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

var errorTests = []test{
	{name: "Fields", run: testErrorFields},
	{name: "Predicates", run: testPredicates},
	{name: "EveryWay", run: testErrorsEveryWay},
	{name: "Serialization", run: testSerialization},
	{name: "Deadlock", run: testDeadlock},
}

// wantCode checks that an error is the server's, with that code, whichever way
// one asks, and that its work was undone.
func wantCode(t testing.TB, what string, err error, code string) {
	t.Helper()
	_ = serverError(t, what, err, code)
}

// serverError is wantCode that returns the error.
func serverError(t testing.TB, what string, err error, code string) *providers.PGError {
	t.Helper()
	var pg *providers.PGError
	var driver *pgconn.PgError
	if !errors.As(err, &pg) || !errors.As(err, &driver) {
		t.Errorf("%s: want a *PGError with a *pgconn.PgError in it, got %v (%T)", what, err, err)
		return &providers.PGError{}
	}
	if pg.Code != code || driver.Code != code {
		t.Errorf("%s: code %s and %s, want %s: %v", what, pg.Code, driver.Code, code, err)
	}
	wantOutcome(t, what, err, providers.OutcomeRolledBack)
	return pg
}

const constraints = `create table parent (id int primary key, name text not null unique, age int check (age > 0));
	create table child (parent_id int references parent);
	insert into parent values (1, 'secret', 1)`

func testErrorFields(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, constraints)
	err := execError(t, p, "insert into parent values (2, 'secret', 1)")
	pg := serverError(t, "unique", err, "23505")
	if pg.Severity != "ERROR" || pg.Schema != "public" || pg.Table != "parent" || pg.Constraint != "parent_name_key" ||
		pg.Message == "" || pg.Detail == "" || pg.File == "" || pg.Line == 0 || pg.Routine == "" {
		t.Errorf("fields are missing: %+v", pg)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the row's values are in the text: %v", err)
	}
	if pg = serverError(t, "not null", execError(t, p, "insert into parent values (2, null, 1)"), "23502"); pg.Column != "name" {
		t.Errorf("%+v", pg)
	}
	if pg = serverError(t, "syntax", execError(t, p, "select 1 frm t"), "42601"); pg.Position != 14 {
		t.Errorf("position %d, want 14", pg.Position)
	}
	pg = serverError(t, "raised", execError(t, p, "do $$ begin raise 'm' using detail = 'd', hint = 'h', datatype = 'y', errcode = 'XX123'; end $$"), "XX123")
	if pg.Message != "m" || pg.Detail != "d" || pg.Hint != "h" || pg.DataType != "y" || !strings.Contains(pg.Where, "PL/pgSQL") {
		t.Errorf("%+v", pg)
	}
	pg = serverError(t, "inner", execError(t, p, "do $$ begin execute 'selec 1'; end $$"), "42601")
	if pg.InternalQuery != "selec 1" || pg.InternalPosition != 1 {
		t.Errorf("%+v", pg)
	}
}

func testPredicates(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, constraints)
	for _, tc := range []struct {
		sql, code string
		is        []func(*providers.PGError) bool
	}{
		{"insert into parent values (1, 'x', 1)", "23505", []func(*providers.PGError) bool{(*providers.PGError).IsUniqueViolation, (*providers.PGError).IsConstraintViolation}},
		{"insert into child values (5)", "23503", []func(*providers.PGError) bool{(*providers.PGError).IsForeignKeyViolation, (*providers.PGError).IsConstraintViolation}},
		{"insert into parent values (2, 'x', 0)", "23514", []func(*providers.PGError) bool{(*providers.PGError).IsCheckViolation, (*providers.PGError).IsConstraintViolation}},
		{"insert into parent values (2, null, 1)", "23502", []func(*providers.PGError) bool{(*providers.PGError).IsNotNullViolation, (*providers.PGError).IsConstraintViolation}},
	} {
		pg := serverError(t, tc.sql, execError(t, p, tc.sql), tc.code)
		for i, is := range tc.is {
			if !is(pg) {
				t.Errorf("%s: predicate %d does not hold", tc.sql, i)
			}
		}
		if pg.IsRetryable() || pg.IsConnectionError() {
			t.Errorf("%s: %+v", tc.sql, pg)
		}
	}
	tx := begin(t, p, providers.TxOptions{Access: providers.ReadOnly})
	if pg := serverError(t, "read-only", execError(t, tx, "delete from child"), "25006"); !pg.IsReadOnly() {
		t.Errorf("%+v", pg)
	}
	if pg := serverError(t, "failed transaction", execError(t, tx, "select 1"), "25P02"); pg.IsRetryable() {
		t.Errorf("%+v", pg)
	}
	rollback(t, tx)
}

// testErrorsEveryWay fails a statement by each method there is.
func testErrorsEveryWay(t *testing.T, s suite) {
	for name, run := range map[string]func(t *testing.T, q querier) error{
		"exec": func(t *testing.T, q querier) error { return execError(t, q, "select 1 / 0") },
		"exec with arguments": func(t *testing.T, q querier) error {
			return execError(t, q, "select 1 / $1::int", 0)
		},
		"row":         func(t *testing.T, q querier) error { return q.QueryRow(t.Context(), "select 1 / 0").Scan(new(int)) },
		"call":        func(t *testing.T, q querier) error { return runExec(t, q, "select 1 / 0") },
		"scoped call": func(t *testing.T, q querier) error { return runExec(t, q, "select 1 / 0", "app.x", "1") },
		"called row":  func(t *testing.T, q querier) error { _, err := runValue[int](t, q, "select 1 / 0"); return err },
		"scoped row": func(t *testing.T, q querier) error {
			_, err := runValue[int](t, q, "select 1 / 0", "app.x", "1")
			return err
		},
		"several": func(t *testing.T, q querier) error { return execError(t, q, "select 1; select 1 / 0") },
		"query":   func(t *testing.T, q querier) error { return queryError(t.Context(), q, "select 1 / 0") },
		"query of many": func(t *testing.T, q querier) error {
			return queryError(t.Context(), q, "select 1 / (2 - n) from generate_series(1, 9) n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.onEach(t, "", func(t *testing.T, q querier) { wantCode(t, name, run(t, q), "22012") })
		})
	}
}

// queryError runs a query to its end and returns its error.
func queryError(ctx context.Context, q providers.Querier, sql string, args ...any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		if rows == nil || rows.Err() == nil {
			return errors.New("the rows do not have the error of Query")
		}
		return err
	}
	defer rows.Close()
	for rows.Next() {
		continue
	}
	return rows.Err()
}

func testSerialization(t *testing.T, s suite) {
	p := s.open(t, 2)
	mustExec(t, p, "create table t (n int); insert into t values (1)")
	a := begin(t, p, providers.TxOptions{Isolation: providers.RepeatableRead})
	b := begin(t, p, providers.TxOptions{Isolation: providers.RepeatableRead})
	_, _ = traces(t, a), traces(t, b) // both have their snapshot now
	mustExec(t, a, "update t set n = 2")
	commit(t, a)
	pg := serverError(t, "update", execError(t, b, "update t set n = 3"), "40001")
	if !pg.IsSerializationFailure() || !pg.IsRetryable() || pg.IsConnectionError() {
		t.Errorf("%+v", pg)
	}
	rollback(t, b)
}

func testDeadlock(t *testing.T, s suite) {
	p := s.open(t, 2)
	mustExec(t, p, "create table t (n int primary key); insert into t values (1), (2)")
	a, b := begin(t, p, providers.TxOptions{}), begin(t, p, providers.TxOptions{})
	for _, tx := range []providers.Tx{a, b} {
		mustExec(t, tx, "set local deadlock_timeout = '10ms'")
	}
	mustExec(t, a, "select * from t where n = 1 for update")
	mustExec(t, b, "select * from t where n = 2 for update")
	var other sync.WaitGroup
	var aErr error
	other.Go(func() {
		if _, aErr = a.Exec(t.Context(), "select * from t where n = 2 for update"); aErr != nil {
			_ = a.Rollback(t.Context())
		}
	})
	_, bErr := b.Exec(t.Context(), "select * from t where n = 1 for update")
	if bErr != nil {
		rollback(t, b)
	}
	other.Wait()
	if (aErr == nil) == (bErr == nil) {
		t.Fatalf("one must be the victim: %v, %v", aErr, bErr)
	}
	if pg := serverError(t, "deadlock", errors.Join(aErr, bErr), "40P01"); !pg.IsDeadlock() || !pg.IsRetryable() {
		t.Errorf("%+v", pg)
	}
	if aErr == nil {
		commit(t, a)
	} else {
		commit(t, b)
	}
}
