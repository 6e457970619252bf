package bulk_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/bulk"
)

// city has its columns by name: a tag where they differ.
type city struct {
	ID      int64
	Name    string
	Country string `db:"country_code"`
}

// Structs by column name; an iterator or a channel of them does as well.
func ExampleCopyFrom() {
	load := func(ctx context.Context, db *pgkeel.DB, cities []city) (int64, error) {
		res, err := bulk.CopyFrom(ctx, db, bulk.Into{
			Table:   pgx.Identifier{"public", "cities"},
			Columns: []string{"id", "name", "country_code"},
		}, bulk.FromSlice(cities))
		return res.Rows, err
	}
	_ = load
}

// A compressed CSV file as it is. The error says where the data are wrong.
func ExampleCopyFrom_file() {
	load := func(ctx context.Context, db *pgkeel.DB, name string) error {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = bulk.CopyFrom(ctx, db, bulk.Into{
			Table: pgx.Identifier{"cities"}, Columns: []string{"id", "name", "country_code"},
			Where:       "country_code <> " + bulk.QuoteLiteral("XX"),
			Compression: bulk.Gzip{},
			Progress:    bulk.Watch{Func: func(p bulk.Progress) { fmt.Println(p.Bytes, "bytes") }},
		}, bulk.FromReader(file, bulk.CSV{Header: bulk.HeaderMatch}))
		var at *bulk.CopyError
		if errors.As(err, &at) {
			fmt.Println("line", at.Line, "column", at.Column)
		}
		return err
	}
	_ = load
}

// The rows of one database on their way into another: nothing is in memory as a
// whole.
func ExampleFromSeq2() {
	move := func(ctx context.Context, from, to *pgkeel.DB) error {
		rows := pgkeel.Each[city](ctx, from, `select id, name, country_code from cities`)
		_, err := bulk.CopyFrom(ctx, to, bulk.Into{
			Table: pgx.Identifier{"cities"}, Columns: []string{"id", "name", "country_code"},
		}, bulk.FromSeq2(rows))
		return err
	}
	_ = move
}

// The result of a query as CSV.
func ExampleCopyTo() {
	export := func(ctx context.Context, db *pgkeel.DB, w io.Writer) error {
		_, err := bulk.CopyTo(ctx, db, bulk.From{
			Query:  `select id, name from cities order by id`,
			Format: bulk.CSV{Header: bulk.HeaderLine},
		}, w)
		return err
	}
	_ = export
}

// Rows that are there are updated, the others inserted.
func ExampleCopyUpsert() {
	merge := func(ctx context.Context, db *pgkeel.DB, cities []city) error {
		res, err := bulk.CopyUpsert(ctx, db, bulk.Upsert{
			Into:     bulk.Into{Table: pgx.Identifier{"cities"}, Columns: []string{"id", "name", "country_code"}},
			Conflict: []string{"id"},
			LastWins: true,
		}, bulk.FromSlice(cities))
		fmt.Println(res.Inserted, "new,", res.Updated, "changed")
		return err
	}
	_ = merge
}

// Run it again after a crash, and it goes on where it was.
func ExampleParallelLoad() {
	load := func(ctx context.Context, db *pgkeel.DB, file *os.File) error {
		res, err := bulk.ParallelLoad(ctx, db, bulk.Load{
			ID:     "cities 2025-06",
			Into:   bulk.Into{Table: pgx.Identifier{"cities"}},
			Format: bulk.CSV{Header: bulk.HeaderLine},
		}, file)
		fmt.Println(res.Rows, "rows,", res.Resumed, "chunks were there")
		return err
	}
	_ = load
}
