package pgkeel_test

import (
	"context"
	"errors"
	"iter"
	"runtime"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
)

// What sqlc generates asks for one of these, scany for the last.
type (
	sqlcDBTX interface {
		Exec(context.Context, string, ...interface{}) (pgconn.CommandTag, error)
		Query(context.Context, string, ...interface{}) (pgx.Rows, error)
		QueryRow(context.Context, string, ...interface{}) pgx.Row
	}
	sqlcBatchDBTX interface {
		sqlcDBTX
		CopyFrom(ctx context.Context, tableName pgx.Identifier, columnNames []string, rowSrc pgx.CopyFromSource) (int64, error)
		SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
	}
	scanyQuerier interface {
		Query(ctx context.Context, query string, args ...interface{}) (pgx.Rows, error)
	}
)

var (
	_ sqlcBatchDBTX = (*pgkeel.DB)(nil)
	_ sqlcBatchDBTX = (*pgkeel.Conn)(nil)
	_ sqlcBatchDBTX = pgkeel.Tx{}
	_ scanyQuerier  = (*pgkeel.DB)(nil)
	_ scanyQuerier  = (*pgkeel.Conn)(nil)
	_ scanyQuerier  = pgkeel.Tx{}
)

// sqlcQueries is what sqlc generates, by its own template.
type sqlcQueries struct{ db sqlcDBTX }

func (q *sqlcQueries) GetCity(ctx context.Context, id int32) (city string, err error) {
	err = q.db.QueryRow(ctx, "select 'city ' || $1::int", id).Scan(&city)
	return city, err
}

func TestGeneratedCode(t *testing.T) {
	onEach(t, openDB(t), func(t *testing.T, q statements) {
		queries := &sqlcQueries{db: q}
		if city, err := queries.GetCity(t.Context(), 7); err != nil || city != "city 7" {
			t.Errorf("%q, %v", city, err)
		}
	})
}

func TestOneRow(t *testing.T) {
	onEach(t, openDB(t), func(t *testing.T, q statements) {
		for name, tc := range map[string]struct {
			rows int
			want error
		}{
			"none": {0, pgx.ErrNoRows},
			"two":  {2, pgkeel.ErrTooManyRows},
			"many": {100_000, pgkeel.ErrTooManyRows},
		} {
			const numbers = "select n from generate_series(1, $1::int) n"
			v, err := pgkeel.One[int](t.Context(), q, numbers, tc.rows)
			if v != 0 || !errors.Is(err, tc.want) {
				t.Errorf("%s: %d, %v", name, v, err)
			}
			before := 42
			if err := q.QueryOne(t.Context(), &before, numbers, tc.rows); !errors.Is(err, tc.want) || before != 42 {
				t.Errorf("%s: %v, and the destination is %d", name, err, before)
			}
			if _, err := q.QueryCount(t.Context(), numbers, tc.rows); !errors.Is(err, tc.want) {
				t.Errorf("%s: QueryCount: %v", name, err)
			}
		}
		if err := q.QueryOne(t.Context(), new(int), "select n from generate_series(1, 1) n"); err != nil {
			t.Error(err)
		}
	})
}

// An error behind the first row must not be taken for its end.
func TestErrorBehindTheOneRow(t *testing.T) {
	db := openDB(t)
	before := 42
	err := db.QueryOne(t.Context(), &before, "select 1/(2-n) from generate_series(1, 2) n")
	if pg := as[*pgkeel.PGError](t, err); pg.Code != "22012" || before != 42 {
		t.Errorf("%v, and the destination is %d", err, before)
	}
}

func TestAllRows(t *testing.T) {
	onEach(t, openDB(t), func(t *testing.T, q statements) {
		none, err := pgkeel.All[int](t.Context(), q, "select 1 where false")
		if err != nil || none == nil || len(none) != 0 {
			t.Errorf("%#v, %v", none, err)
		}
		list := []int{1, 2, 3}
		if err := q.QueryAll(t.Context(), &list, "select n from generate_series(1, 1000) n"); err != nil || len(list) != 1000 || list[999] != 1000 {
			t.Errorf("%d rows, %v", len(list), err)
		}
		if err := q.QueryAll(t.Context(), &list, "select 1 where false"); err != nil || list == nil || len(list) != 0 {
			t.Errorf("%#v, %v", list, err)
		}
	})
}

func TestQueryCount(t *testing.T) {
	onEach(t, openDB(t), func(t *testing.T, q statements) {
		for sql, want := range map[string]int64{
			"select count(*) from generate_series(1, 7)":       7,
			"select sum(n::int8) from generate_series(1, 3) n": 6, // a numeric
			"select 5::int2": 5,
		} {
			if n, err := q.QueryCount(t.Context(), sql); n != want || err != nil {
				t.Errorf("%s: %d, %v", sql, n, err)
			}
		}
		for sql, text := range map[string]string{
			"select null::int": "returned NULL",
			"select 'many'":    "cannot scan text",
			"select 1, 2":      "the query returns 2",
		} {
			_, err := q.QueryCount(t.Context(), sql)
			mustSay(t, err, nil, text)
		}
	})
}

func TestEach(t *testing.T) {
	onEach(t, openDB(t), func(t *testing.T, q statements) {
		numbers := pgkeel.Each[int](t.Context(), q, "select n from generate_series(1, $1::int) n", 100_000)
		for range 2 { // it can be ranged over again
			sum := 0
			for n, err := range numbers {
				if err != nil {
					t.Fatal(err)
				}
				sum += n
			}
			if sum != 5_000_050_000 {
				t.Error(sum)
			}
		}
		for n, err := range pgkeel.Each[int](t.Context(), q, "select 1 where false") {
			t.Errorf("%d, %v of no rows", n, err)
		}
	})
}

// However its loop is left, Each gives back what it held, and what it read from
// can be used at once.
func TestEachIsLeft(t *testing.T) {
	ways := map[string]func(rows iter.Seq2[int, error]){
		"break": func(rows iter.Seq2[int, error]) {
			for range rows {
				break
			}
		},
		"panic": func(rows iter.Seq2[int, error]) {
			defer func() {
				if recover() != "mine" {
					panic("another one")
				}
			}()
			for range rows {
				panic("mine")
			}
		},
		"goexit": func(rows iter.Seq2[int, error]) {
			var gone sync.WaitGroup
			gone.Go(func() {
				for range rows {
					runtime.Goexit()
				}
			})
			gone.Wait()
		},
		"pull": func(rows iter.Seq2[int, error]) {
			next, stop := iter.Pull2(rows)
			defer stop()
			_, _, _ = next()
		},
	}
	db := openDB(t, one())
	for name, leave := range ways {
		t.Run(name, func(t *testing.T) {
			onEach(t, db, func(t *testing.T, q statements) {
				leave(pgkeel.Each[int](t.Context(), q, "select n from generate_series(1, 300000) n"))
				if n := value[int](t, q, "select 7"); n != 7 {
					t.Error(n)
				}
			})
		})
	}
}

func TestEachFails(t *testing.T) {
	db := openDB(t)
	for name, tc := range map[string]struct {
		sql  string
		rows int
		text string
	}{
		"at once":       {"selec", 0, "42601"},
		"in the middle": {"select 1/(3-n) from generate_series(1, 5) n", 2, "22012"},
		"at a row":      {"select nullif(n, 3) from generate_series(1, 5) n", 2, "NULL"},
	} {
		t.Run(name, func(t *testing.T) {
			rows := 0
			var last error
			for _, err := range pgkeel.Each[int](t.Context(), db, tc.sql) {
				if last != nil {
					t.Error("it went on after an error")
				}
				if last = err; err == nil {
					rows++
				}
			}
			mustSay(t, last, nil, tc.text)
			if rows != tc.rows {
				t.Errorf("%d rows", rows)
			}
			for range pgkeel.Each[int](t.Context(), db, tc.sql) {
				break // leaving at whatever comes first is no reason to panic
			}
		})
	}
}

// The typed functions take what pgx has as well, whose rows cannot be abandoned.
func TestTypedOverPgx(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), pgtest.NewDB(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if got := value[address](t, conn, "select 'Faro' as city"); got.City != "Faro" {
		t.Error(got)
	}
	if _, err := pgkeel.One[int](t.Context(), conn, "select n from generate_series(1, 3) n"); !errors.Is(err, pgkeel.ErrTooManyRows) {
		t.Error(err)
	}
	if _, err := pgkeel.All[int](t.Context(), conn, "select 'x'"); err == nil {
		t.Error("no error")
	}
	for range pgkeel.Each[int](t.Context(), conn, "select n from generate_series(1, 3) n") {
		break
	}
	if n := value[int](t, conn, "select 7"); n != 7 {
		t.Error(n)
	}
}

// An application's own Scan can panic; the connection comes back nevertheless.
func TestScanPanics(t *testing.T) {
	onEach(t, openDB(t, one()), func(t *testing.T, q statements) {
		for _, read := range []func(){
			func() { _, _ = pgkeel.One[panicking](t.Context(), q, "select 1") },
			func() { _, _ = pgkeel.All[panicking](t.Context(), q, "select n from generate_series(1, 9) n") },
			func() {
				for range pgkeel.Each[panicking](t.Context(), q, "select n from generate_series(1, 9) n") {
				}
			},
		} {
			func() {
				defer func() {
					if r := recover(); r != "scan" {
						t.Errorf("recovered %v", r)
					}
				}()
				read()
			}()
			if n := value[int](t, q, "select 7"); n != 7 {
				t.Error(n)
			}
		}
	})
}

type panicking struct{ N int }

func (*panicking) Scan(any) error { panic("scan") }
