package pgx

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

func TestBatchRunCallbacks(t *testing.T) {
	onEach(t, providers.Config{}, batchTable, func(t *testing.T, _ *Pool, q runner) {
		for _, group := range groupings {
			var got []string
			note := func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) }
			all := insertsOf(group*10+1, group*10+2)
			all[0].Exec(func(tag pgconn.CommandTag) error { note("%s", tag); return nil })
			row := queued("select $1::int", 7)
			row.QueryRow(func(row pgx.Row) error {
				var n int
				err := row.Scan(&n)
				note("row %d", n)
				return err
			})
			rows := queued("select generate_series(1, 3)")
			rows.Query(func(rows pgx.Rows) error {
				all, err := pgx.CollectRows(rows, pgx.RowTo[int])
				note("rows %v %v", all, rows.CommandTag())
				return err
			})
			early := queued("select generate_series(1, 1000)") // left before its end
			early.Query(func(rows pgx.Rows) error { note("next %v", rows.Next()); return nil })
			raw := queued("select 1")
			raw.Fn = func(r pgx.BatchResults) error {
				_, err := r.Exec()
				_, again := r.Exec()
				none, _ := r.Query()
				note("raw %v, %v, %v, %v, %v, %v", err, again != nil, none.Err() != nil, r.QueryRow().Scan() != nil, r.Close(), r.Tx())
				return nil
			}
			unread := queued("select 1")
			unread.Fn = func(pgx.BatchResults) error { note("unread"); return nil }
			empty := queued("-- nothing")
			empty.Exec(func(tag pgconn.CommandTag) error { note("empty %q", tag); return nil })
			call := callOf(group, append(all, row, rows, early, raw, unread, empty)...)
			if err := q.(batchRunner).RunBatch(t.Context(), call); err != nil {
				t.Fatalf("groups of %d: %v", group, err)
			}
			want := []string{"INSERT 0 1", "row 7", "rows [1 2 3] SELECT 3", "next true", "raw <nil>, true, true, true, <nil>, <nil>", "unread", `empty ""`}
			if !slices.Equal(got, want) {
				t.Errorf("groups of %d: %q", group, got)
			}
		}
	})
}

// A callback hears of its statement's error, as in pgx, and can add to it.
func TestBatchCallbackHearsOfTheError(t *testing.T) {
	for _, group := range groupings {
		onEach(t, providers.Config{}, batchTable, func(t *testing.T, _ *Pool, q runner) {
			bad := queued("select 1/$1::int", 0)
			var heard error
			bad.QueryRow(func(row pgx.Row) error {
				heard = row.Scan(new(int))
				return fmt.Errorf("the ratio: %w", heard)
			})
			late := queued("select x::int from (values ('1'), ('x')) v(x)") // in the middle of its rows
			late.Query(func(rows pgx.Rows) error {
				for rows.Next() { // to its end
				}
				return nil // the error is not lost for that
			})
			for _, one := range []*pgx.QueuedQuery{bad, late} {
				call := callOf(group, one)
				err := q.(batchRunner).RunBatch(t.Context(), call)
				var pg *providers.PGError
				if !errors.As(err, &pg) || !strings.HasPrefix(pg.Code, "22") || statesOf(call) != "f" {
					t.Errorf("groups of %d: %s %v", group, statesOf(call), err)
				}
				if one == bad && !strings.Contains(err.Error(), "the ratio: ") {
					t.Error(err)
				}
			}
			var pg *providers.PGError
			if !errors.As(heard, &pg) {
				t.Errorf("%v", heard)
			}
		})
	}
}

func TestBatchRunPanics(t *testing.T) {
	hooks, seen := watched(t)
	for name, code := range map[string]string{
		"a good statement": "select 1", "rows": "select generate_series(1, 1000)",
		"a bad statement": "select 1/0", "a bad row": "select x::int from (values ('1'), ('x')) v(x)",
	} {
		for _, group := range groupings {
			onEach(t, providers.Config{Hooks: hooks}, batchTable, func(t *testing.T, p *Pool, q runner) {
				seen.forget()
				boom := queued(code)
				boom.Query(func(rows pgx.Rows) error { rows.Next(); panic("boom") })
				last := queued("select 1")
				last.Exec(func(pgconn.CommandTag) error { t.Error("ran behind a panic"); return nil })
				call := callOf(group, append(insertsOf(1), boom, last)...)
				if r := panics(func() { _ = q.(batchRunner).RunBatch(t.Context(), call) }); r != "boom" {
					t.Errorf("%s, groups of %d: the panic is the caller's to see: %v", name, group, r)
				}
				if got := seen.of(providers.EventBatch); len(got) != 1 || !errors.Is(got[0].Err, errPanicked) {
					t.Errorf("%+v", got)
				}
				if left := numbersIn(t, q); (len(left) == 1) != (group == 1) {
					t.Errorf("%s, groups of %d: left are %v", name, group, left)
				}
				if p.Stats().Connects != 1 {
					t.Errorf("%s, groups of %d: the connection can go on", name, group)
				}
			})
		}
	}
}

func TestBatchOtherCodePanics(t *testing.T) {
	for _, group := range groupings {
		onEach(t, providers.Config{}, batchTable, func(t *testing.T, p *Pool, q runner) {
			for name, last := range map[string]*pgx.QueuedQuery{
				"an argument": queued("insert into t values ($1)", panickingValue{}),
				"a rewriter":  queued("insert into t values ($1)", panickingValue{}, 1),
			} {
				call := callOf(group, append(insertsOf(1), last)...)
				if r := panics(func() { _ = q.(batchRunner).RunBatch(t.Context(), call) }); r != "boom" {
					t.Errorf("%s: %v", name, r)
				}
			}
			call := callOf(group)
			n := 0
			call.MaxStatements = 2
			call.Next = func() (*pgx.QueuedQuery, error) {
				if n++; n > 4 {
					panic("boom")
				}
				return insertsOf(100 + n)[0], nil
			}
			if r := panics(func() { _ = q.(batchRunner).RunBatch(t.Context(), call) }); r != "boom" {
				t.Errorf("the source: %v", r)
			}
			if left := numbersIn(t, q); (len(left) > 0) != (group > 0) {
				t.Errorf("groups of %d: left are %v", group, left)
			}
			if p.Stats().Connects != 1 {
				t.Error("the connection can go on")
			}
		})
	}
}

// panickingValue panics as an argument and as a rewriter of arguments.
type panickingValue struct{}

func (panickingValue) Value() (any, error) { panic("boom") }
func (panickingValue) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	panic("boom")
}

func TestBatchCallbackEndsItsGoroutine(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, batchTable)
	for _, group := range groupings {
		done := make(chan struct{})
		go func() {
			defer close(done)
			q := insertsOf(group)[0]
			q.Exec(func(pgconn.CommandTag) error { runtime.Goexit(); return nil })
			_ = p.RunBatch(context.Background(), callOf(group, q))
		}()
		<-done
	}
	if got := numbersIn(t, p); !slices.Equal(got, []int{1}) {
		t.Errorf("%v", got)
	}
}
