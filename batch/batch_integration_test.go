package batch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/batch"
	"github.com/pgkeel/pgkeel/pgtest"
)

const patience = 20 * time.Second

// open opens a handle of one connection on a database of its own, with a table t
// of distinct numbers. When the test ends, the connection must be back.
func open(t testing.TB, options ...pgkeel.Option) *pgkeel.DB {
	t.Helper()
	return openAt(t, pgtest.NewDB(t), options...)
}

func openAt(t testing.TB, dsn string, options ...pgkeel.Option) *pgkeel.DB {
	t.Helper()
	options = append([]pgkeel.Option{pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 1})}, options...)
	db, err := pgkeel.Open(t.Context(), dsn, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := db.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	mustExec(t, db, `create table if not exists t (n int primary key)`)
	return db
}

func mustExec(t testing.TB, db pgkeel.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// numbers are those in the table.
func numbers(t testing.TB, db pgkeel.Querier) []int {
	t.Helper()
	all, err := pgkeel.All[int](t.Context(), db, `select n from t order by n`)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// inserts queues an insert for each number. A number twice is an error.
func inserts(numbers ...int) *pgx.Batch {
	b := &pgx.Batch{}
	for _, n := range numbers {
		b.Queue(`insert into t values ($1)`, n)
	}
	return b
}

// states is a report in a word: o f n r u.
func states(r batch.Report) string {
	var s strings.Builder
	for _, state := range r.States {
		s.WriteByte(state.String()[0])
	}
	return s.String()
}

// places are a handle, a connection and a transaction.
func places(t *testing.T, test func(t *testing.T, db *pgkeel.DB, on runner)) {
	t.Run("db", func(t *testing.T) {
		db := open(t)
		test(t, db, db)
	})
	t.Run("conn", func(t *testing.T) {
		db := open(t)
		conn, err := db.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		test(t, db, conn)
	})
	t.Run("tx", func(t *testing.T) {
		db := open(t)
		tx, err := db.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(t.Context()) }()
		test(t, db, tx)
	})
}

type runner interface {
	batch.Runner
	pgkeel.Querier
}

var modes = []batch.Options{
	{Mode: batch.Atomic}, {Mode: batch.Isolated}, {Mode: batch.Grouped, GroupSize: 3},
}

// callbacks gives every statement a callback that notes its index.
func callbacks(b *pgx.Batch) *[]int {
	var ran []int
	for i, q := range b.QueuedQueries {
		q.Exec(func(pgconn.CommandTag) error { ran = append(ran, i); return nil })
	}
	return &ran
}

func TestTheThreeModes(t *testing.T) {
	for _, tc := range []struct {
		options batch.Options
		numbers []int
		states  string
		left    []int
		rows    int64
	}{
		{batch.Options{}, []int{1, 2, 3, 4}, "oooo", []int{1, 2, 3, 4}, 4},
		{batch.Options{}, []int{1, 2, 1, 4}, "rrfn", nil, 0},
		{batch.Options{Mode: batch.Isolated}, []int{1, 2, 1, 4}, "oofo", []int{1, 2, 4}, 3},
		{batch.Options{Mode: batch.Isolated}, []int{1, 1, 1, 1, 2}, "offfo", []int{1, 2}, 2},
		{batch.Options{Mode: batch.Grouped, GroupSize: 2}, []int{1, 2, 3, 3, 4, 5, 6}, "oorfooo", []int{1, 2, 4, 5, 6}, 5},
		{batch.Options{Mode: batch.Grouped, GroupSize: 3}, []int{1, 1, 3, 3, 4, 5, 6}, "rfnoooo", []int{3, 4, 5, 6}, 4},
		{batch.Options{Mode: batch.Grouped}, []int{1, 1}, "rf", nil, 0},
	} {
		for _, called := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v/callbacks %v", tc.options.Mode, tc.numbers, called), func(t *testing.T) {
				places(t, func(t *testing.T, _ *pgkeel.DB, on runner) {
					b := inserts(tc.numbers...)
					if called {
						callbacks(b)
					}
					report, err := batch.Run(t.Context(), on, b, tc.options)
					if got := states(report); got != tc.states || report.RowsAffected != tc.rows {
						t.Errorf("%s, %d rows: %v", got, report.RowsAffected, err)
					}
					if failed := strings.Contains(tc.states, "f"); failed != (err != nil) {
						t.Error(err)
					}
					if got := numbers(t, on); !slices.Equal(got, tc.left) {
						t.Errorf("left are %v", got)
					}
				})
			})
		}
	}
}

func TestAnErrorNamesTheStatement(t *testing.T) {
	for _, o := range modes {
		places(t, func(t *testing.T, _ *pgkeel.DB, on runner) {
			b := inserts(1, 2)
			b.Queue("insert into t\n  values ($1)", 1)
			_, err := batch.Run(t.Context(), on, b, o)
			var failed *batch.Error
			var item *batch.ItemError
			var pg *pgkeel.PGError
			if !errors.As(err, &failed) || !errors.As(err, &item) || !errors.As(err, &pg) || !pg.IsUniqueViolation() {
				t.Fatal(err)
			}
			if item.Index != 2 || item.SQL != "insert into t\n  values ($1)" || item.Operation != batch.OpStatement {
				t.Errorf("%+v", item)
			}
			want := "pgkeel: batch: statement 2 (insert into t values ($1)) failed (rolled back): duplicate key"
			if !strings.HasPrefix(err.Error(), want) {
				t.Error(err)
			}
			outcome := pgkeel.OutcomeRolledBack
			if o.Mode == batch.Isolated {
				outcome = pgkeel.OutcomeUnknown // no single one is right
			}
			if got := pgkeel.OutcomeOf(err); got != outcome {
				t.Errorf("%s: %s", o.Mode, got)
			}
		})
	}
}

// Trap 25: what a callback returns from pgx's own Close comes too late.
func TestTrap25CallbackErrorUndoesTheBatch(t *testing.T) {
	stop := errors.New("the caller's own")
	for _, tc := range []struct {
		options batch.Options
		states  string
		left    []int
		result  pgkeel.Outcome
	}{
		{batch.Options{}, "rfr", nil, pgkeel.OutcomeRolledBack},
		{batch.Options{Mode: batch.Grouped, GroupSize: 2}, "rfo", []int{3}, pgkeel.OutcomeUnknown},
		{batch.Options{Mode: batch.Isolated}, "ofo", []int{1, 2, 3}, pgkeel.OutcomeUnknown},
	} {
		t.Run(tc.options.Mode.String(), func(t *testing.T) {
			places(t, func(t *testing.T, _ *pgkeel.DB, on runner) {
				b := inserts(1, 2, 3)
				ran := 0
				for i, q := range b.QueuedQueries {
					q.Exec(func(pgconn.CommandTag) error {
						ran++
						if i == 1 {
							return stop
						}
						return nil
					})
				}
				report, err := batch.Run(t.Context(), on, b, tc.options)
				var item *batch.ItemError
				if !errors.Is(err, stop) || !errors.As(err, &item) || item.Index != 1 || item.Operation != batch.OpCallback {
					t.Errorf("%+v", err)
				}
				if got := states(report); got != tc.states || pgkeel.OutcomeOf(err) != tc.result {
					t.Errorf("%s, %s: %v", got, pgkeel.OutcomeOf(err), err)
				}
				if want := strings.Count(tc.states, "o") + 1 + strings.Count(tc.states[:1], "r"); ran != want {
					t.Errorf("%d callbacks ran instead of %d", ran, want)
				}
				if got := numbers(t, on); !slices.Equal(got, tc.left) {
					t.Errorf("left are %v", got)
				}
			})
		})
	}
}

// Trap 26: a Sync for all is one transaction, whose now() is shared and whose
// error skips the rest; a Sync each isolates.
func TestTrap26ASyncEachIsolates(t *testing.T) {
	db := open(t)
	for _, tc := range []struct {
		options batch.Options
		shared  bool
	}{{batch.Options{}, true}, {batch.Options{Mode: batch.Isolated}, false}, {batch.Options{Mode: batch.Grouped}, true}} {
		var ids, at []string
		b := &pgx.Batch{}
		for range 2 {
			b.Queue(`select pg_current_xact_id()::text, now()::text from pg_sleep(0.002)`).QueryRow(func(row pgx.Row) error {
				var id, now string
				err := row.Scan(&id, &now)
				ids, at = append(ids, id), append(at, now)
				return err
			})
		}
		if _, err := batch.Run(t.Context(), db, b, tc.options); err != nil {
			t.Fatal(err)
		}
		if (ids[0] == ids[1]) != tc.shared || (at[0] == at[1]) != tc.shared {
			t.Errorf("%s: transactions %v at %v", tc.options.Mode, ids, at)
		}
	}
}
