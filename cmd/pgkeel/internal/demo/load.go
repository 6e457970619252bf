package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
)

const citiesTable = `
create table cities (
	id      integer primary key,
	name    text not null,
	country text not null,
	admin1  text not null,
	admin2  text not null,
	lat     double precision not null,
	lng     double precision not null
)`

// load copies the data set into a table and reads all of it back.
func load(ctx context.Context, e *environment) error {
	var err error
	if e.places, err = readPlaces(citiesCSV); err != nil {
		return err
	}
	if _, err := e.db.Exec(ctx, citiesTable); err != nil {
		return fmt.Errorf("create the table: %w", err)
	}
	bar := &progress{out: e.out, total: len(e.places)}
	begin := time.Now()
	n, err := e.db.CopyFrom(ctx, pgx.Identifier{"cities"}, placeColumns, &copySource{places: e.places, bar: bar})
	took := time.Since(begin)
	bar.finish()
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	for _, sql := range []string{`create index on cities (country, admin1)`, `vacuum analyze cities`} {
		if _, err := e.db.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	e.out.line("%s places by COPY in %s, %s rows a second", count(n), short(took), count(int(float64(n)/took.Seconds())))
	e.check(ctx, int(n) == len(e.places), "COPY took every row: %s of %s", count(n), count(len(e.places)))
	return readBack(ctx, e)
}

// readBack streams the table and compares it with the source, row by row.
func readBack(ctx context.Context, e *environment) error {
	begin := time.Now()
	same := 0
	for p, err := range pgkeel.Each[place](ctx, e.db, `select * from cities order by id`) {
		if err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		if i := int(p.ID) - 1; i >= 0 && i < len(e.places) && p == e.places[i] {
			same++
		}
	}
	e.check(ctx, same == len(e.places), "streamed back into a struct, row by row, %s of %s are as in the source, in %s",
		count(same), count(len(e.places)), short(time.Since(begin)))
	return nil
}
