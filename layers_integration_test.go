package pgkeel_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
)

// With layers statements take another way, and must come to the same.
func TestLayersAgree(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	plain, layered := openTable(t, one()), openTable(t, one(), pgkeel.WithDeadlinePropagation())
	said := func(err error) string {
		var pg *pgkeel.PGError
		if errors.As(err, &pg) {
			return pg.Code
		}
		return fmt.Sprint(err)
	}
	run := func(q statements, sql string, args ...any) string {
		tag, err := q.Exec(ctx, sql, args...)
		return fmt.Sprint("exec: ", tag, said(err))
	}
	rows := func(q statements, sql string, args ...any) string {
		rows, _ := q.Query(ctx, sql, args...)
		defer rows.Close()
		var all [][]any
		for rows.Next() {
			values, _ := rows.Values()
			all = append(all, values)
		}
		return fmt.Sprint("query: ", all, rows.CommandTag(), said(rows.Err()))
	}
	row := func(q statements, sql string, args ...any) string {
		var v any
		err := q.QueryRow(ctx, sql, args...).Scan(&v)
		return fmt.Sprint("row: ", v, said(err))
	}
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{"select n, 'x' from generate_series(1, 3) n", nil},
		{"select $1::int + $2::int", []any{1, 2}},
		{"select @a::int", []any{pgx.NamedArgs{"a": 7}}},
		{"select 1 where false", nil},
		{"insert into t values (1) returning n", nil},
		{"insert into t values (1), (2)", nil},
		{"select 1/0", nil},
		{"selec", nil},
		{"select $1::int", []any{"no number"}},
		{"", nil},
	} {
		for _, way := range []func(statements, string, ...any) string{run, rows, row} {
			for _, place := range []string{"db", "conn", "tx"} {
				var got [2]string
				for i, db := range []*pgkeel.DB{plain, layered} {
					q, done := in(t, db, place)
					got[i] = way(q, statement.sql, statement.args...)
					done()
				}
				if got[0] != got[1] {
					t.Errorf("%q on a %s\nplain:   %s\nlayered: %s", statement.sql, place, got[0], got[1])
				}
			}
		}
	}
	if got, want := numbers(t, layered), numbers(t, plain); len(got) != len(want) {
		t.Errorf("%v, not %v", got, want)
	}
}

// in is a place to run statements, and how to leave it.
func in(t *testing.T, db *pgkeel.DB, place string) (q statements, done func()) {
	t.Helper()
	switch place {
	case "conn":
		conn := acquire(t, db)
		return conn, conn.Release
	case "tx":
		tx := begin(t, db)
		return tx, func() { _ = tx.Rollback(t.Context()) }
	default:
		return db, func() {}
	}
}

// The server ends the statement by itself; the connection lives, and the limit
// went with the statement.
func TestDeadlinePropagation(t *testing.T) {
	db := openDB(t, one(), pgkeel.WithDeadlinePropagation())
	mustExec(t, db, "select 1")
	onEach(t, db, func(t *testing.T, q statements) {
		pid := value[int](t, q, "select pg_backend_pid()")
		if limit := value[string](t, q, "show statement_timeout"); limit != "0" {
			t.Errorf("%s without a deadline", limit)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if limit, err := pgkeel.One[string](ctx, q, "show statement_timeout"); limit == "0" || err != nil {
			t.Errorf("%s, %v", limit, err)
		}
		if limit := value[string](t, q, "show statement_timeout"); limit != "0" {
			t.Errorf("%s is left behind", limit)
		}
		if value[int](t, q, "select pg_backend_pid()") != pid {
			t.Error("another session")
		}
	})
	if s := db.Stats(); s.Connects != 1 {
		t.Errorf("%d connections were made", s.Connects)
	}
}

// late is a context whose end the client does not see: what is left is the
// server's limit.
type late struct {
	context.Context
	deadline time.Time
}

func (c late) Deadline() (time.Time, bool) { return c.deadline, true }

func TestTrap18TheServerEndsAtTheDeadline(t *testing.T) {
	db := openDB(t, one(), pgkeel.WithDeadlinePropagation())
	for name, sleep := range map[string]func(ctx context.Context) error{
		"exec": func(ctx context.Context) error {
			_, err := db.Exec(ctx, "select pg_sleep(60)")
			return err
		},
		"query": func(ctx context.Context) error {
			_, err := pgkeel.All[string](ctx, db, "select pg_sleep($1)::text", 60)
			return err
		},
		"row": func(ctx context.Context) error {
			return db.QueryRow(ctx, "select pg_sleep(60)::text").Scan(new(string))
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := sleep(late{t.Context(), time.Now().Add(30 * time.Millisecond)})
			mustSay(t, err, context.DeadlineExceeded, "statement_timeout")
			mustBe(t, err, pgkeel.OutcomeRolledBack)
			if limit := as[*pgkeel.TimeoutError](t, err); limit.Limit != "statement_timeout" || !limit.Timeout() {
				t.Errorf("%+v", limit)
			}
			if n := value[int](t, db, "select 7"); n != 7 {
				t.Error(n)
			}
		})
	}
	if s := db.Stats(); s.Connects != 1 {
		t.Errorf("%d connections were made", s.Connects)
	}
}

// Several statements in one Exec need the simple protocol, which the layer does
// not take away from those without a deadline.
func TestSeveralStatements(t *testing.T) {
	db := openTable(t, one(), pgkeel.WithDeadlinePropagation())
	const two = "insert into t values (1); insert into t values (2)"
	mustExec(t, db, two)
	mustHave(t, db, 1, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	_, err := db.Exec(ctx, two)
	mustSay(t, err, nil, "42601")
	mustHave(t, db, 1, 2)
}
