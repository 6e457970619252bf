package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/bulk"
)

// asFastAsPsql is the promise about CSV.
var asFastAsPsql = Bar{Throughput: 0.95}

const (
	csvRows     = 10_000
	manyCSVRows = 1_000_000
	// copyTurn is long beside an operation of the short scenarios.
	copyTurn = 50 * time.Millisecond
)

// onlyOnRequest are scenarios that take so long that they run only if -only
// names them.
var onlyOnRequest = map[string]bool{"copy.csv.1m": true}

// copies are scenarios of package bulk.
func copies() []Scenario {
	return []Scenario{
		bulkCopy("copy.rows", "10,000 structs by bulk.CopyFrom; the baseline is pgx.CopyFromSlice", Bar{Throughput: 0.98},
			onHandle(copyStructs), onPool(copySlice)),
		bulkCopy("copy.csv", "a CSV file of 10,000 rows; the baseline is psql's \\copy", asFastAsPsql,
			onHandleWithCSV(csvRows), onPsql(csvRows)),
		bulkCopy("copy.csv.1m", "the same of 1,000,000 rows, only if -only names it", asFastAsPsql,
			onHandleWithCSV(manyCSVRows), onPsql(manyCSVRows)),
		bulkCopy("copy.out", "100,000 rows to CSV; the baseline is the bare driver's", Bar{Throughput: 0.98},
			onHandle(copyOut), onPool(copyOutBare)),
	}
}

// bulkCopy is a scenario on the table that is emptied before each round.
func bulkCopy(name, about string, bar Bar, our, base Opener) Scenario {
	sc := copying()
	sc.Name, sc.About, sc.Bar, sc.Ours, sc.Baseline = name, about, bar, our, base
	sc.Slice = copyTurn
	return sc
}

// loaded is a row of the table.
type loaded struct {
	ID    int64
	Name  string
	Price float64
}

var loadedColumns = []string{"id", "name", "price"}

func loadedRows() []loaded {
	rows := make([]loaded, copyRows)
	for i := range rows {
		rows[i] = loaded{int64(i + 1), "an item of some length", float64(i) / 100}
	}
	return rows
}

func copyStructs(db *pgkeel.DB, site Site) Op {
	rows := loadedRows()
	into := bulk.Into{Table: pgx.Identifier{site.Schema, "loaded"}, Columns: loadedColumns}
	return func(ctx context.Context, _, _ int) error {
		res, err := bulk.CopyFrom(ctx, db, into, bulk.FromSlice(rows))
		return errors.Join(err, expect(copyRows, res.Rows))
	}
}

func copySlice(pool *pgxpool.Pool, site Site) Op {
	rows := loadedRows()
	table := pgx.Identifier{site.Schema, "loaded"}
	return func(ctx context.Context, _, _ int) error {
		n, err := pool.CopyFrom(ctx, table, loadedColumns, pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) {
			return []any{rows[i].ID, rows[i].Name, rows[i].Price}, nil
		}))
		return errors.Join(err, expect(copyRows, n))
	}
}

// onHandleWithCSV loads a file of that many rows.
func onHandleWithCSV(rows int64) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		file, err := writeCSV(rows)
		if err != nil {
			return Side{}, err
		}
		side, err := onHandle(func(db *pgkeel.DB, site Site) Op { return copyCSV(db, site, file, rows) })(ctx, site)
		return withFile(side, file), errors.Join(err, removeIf(err, file))
	}
}

// withFile removes the file at the end.
func withFile(side Side, file string) Side {
	closing := side.Close
	side.Close = func(ctx context.Context) error { return errors.Join(closing(ctx), os.Remove(file)) }
	return side
}

func removeIf(err error, file string) error {
	if err == nil {
		return nil
	}
	return os.Remove(file)
}

func copyCSV(db *pgkeel.DB, site Site, file string, rows int64) Op {
	into := bulk.Into{Table: pgx.Identifier{site.Schema, "loaded"}}
	return func(ctx context.Context, _, _ int) error {
		f, err := os.Open(file) //nolint:gosec // our own
		if err != nil {
			return err
		}
		defer f.Close()
		res, err := bulk.CopyFrom(ctx, db, into, bulk.FromReader(f, bulk.CSV{}))
		return errors.Join(err, expect(rows, res.Rows))
	}
}

// writeCSV writes a file that both sides can read.
func writeCSV(rows int64) (name string, err error) {
	f, err := os.CreateTemp("", "pgkeel-bench-*.csv")
	if err != nil {
		return "", err
	}
	w := bufio.NewWriter(f)
	for i := range rows {
		fmt.Fprintf(w, "%d,an item of some length,%d.%02d\n", i+1, i/100, i%100)
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return filepath.Abs(f.Name())
}

// outSQL makes rows out of nothing, so that what is measured is their way.
const (
	outRows = 100_000
	outSQL  = `select i, 'an item of some length', i / 100.0 from (select generate_series(1, 100000) as i) x`
)

func copyOut(db *pgkeel.DB, _ Site) Op {
	from := bulk.From{Query: outSQL, Format: bulk.CSV{}}
	return func(ctx context.Context, _, _ int) error {
		res, err := bulk.CopyTo(ctx, db, from, io.Discard)
		return errors.Join(err, expect(outRows, res.Rows))
	}
}

func copyOutBare(pool *pgxpool.Pool, _ Site) Op {
	return func(ctx context.Context, _, _ int) error {
		return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
			tag, err := conn.Conn().PgConn().CopyTo(ctx, io.Discard, "copy ("+outSQL+") to stdout (format csv)")
			return errors.Join(err, expect(outRows, tag.RowsAffected()))
		})
	}
}

// copyBare is what psql is replaced with where there is none.
func copyBare(ctx context.Context, conn *pgconn.PgConn, table, file string) (int64, error) {
	f, err := os.Open(file) //nolint:gosec // our own
	if err != nil {
		return 0, err
	}
	defer f.Close()
	tag, err := conn.CopyFrom(ctx, f, "copy "+table+" from stdin (format csv)")
	return tag.RowsAffected(), err
}
