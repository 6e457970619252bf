package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/bulk"
)

// importTables are what the exported data are brought back into.
const importTables = `create table cities_again (like cities including all); create table cities_loaded (like cities including all)`

// copies writes the data set to CSV and reads it back in two ways, once while
// the connections that load it are killed.
func copies(ctx context.Context, e *environment) error {
	if _, err := e.db.Exec(ctx, importTables); err != nil {
		return fmt.Errorf("create the tables: %w", err)
	}
	bar := &progress{out: e.out, total: len(e.places)}
	begin := time.Now()
	data, err := exported(ctx, e, "cities", func(p bulk.Progress) { bar.to(int(p.Rows)) })
	bar.finish()
	if err != nil {
		return err
	}
	e.out.line("exported as %s bytes of CSV in %s", count(len(data)), short(time.Since(begin)))
	if err := importAgain(ctx, e, data); err != nil {
		return err
	}
	if err := importSpoilt(ctx, e, data); err != nil {
		return err
	}
	return loadUnderFire(ctx, e, data)
}

// exported is a table as CSV with a header.
func exported(ctx context.Context, e *environment, table string, told func(bulk.Progress)) ([]byte, error) {
	from := bulk.From{Query: `select * from ` + table + ` order by id`, Format: bulk.CSV{Header: bulk.HeaderLine}}
	if told != nil {
		from.Progress = bulk.Watch{Func: told, Interval: redrawEvery}
	}
	var data bytes.Buffer
	_, err := bulk.CopyTo(ctx, e.db, from, &data)
	if err != nil {
		return nil, fmt.Errorf("export %s: %w", table, err)
	}
	return data.Bytes(), nil
}

// into is where exported data fit.
func into(table string) bulk.Into {
	return bulk.Into{Table: pgx.Identifier{"public", table}, Columns: placeColumns}
}

func importAgain(ctx context.Context, e *environment, data []byte) error {
	bar := &progress{out: e.out, total: len(data)}
	where := into("cities_again")
	where.Progress = bulk.Watch{Func: func(p bulk.Progress) { bar.to(int(p.Bytes)) }, Interval: redrawEvery}
	begin := time.Now()
	res, err := bulk.CopyFrom(ctx, e.db, where, bulk.FromReader(bytes.NewReader(data), bulk.CSV{Header: bulk.HeaderMatch}))
	took := time.Since(begin)
	bar.finish()
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	e.out.line("imported %s rows in %s, %s rows a second", count(res.Rows), short(took), count(int(float64(res.Rows)/took.Seconds())))
	return compare(ctx, e, "cities_again", data, "exported again, they are the same byte for byte")
}

func compare(ctx context.Context, e *environment, table string, want []byte, text string) error {
	got, err := exported(ctx, e, table, nil)
	if err != nil {
		return err
	}
	e.check(ctx, bytes.Equal(got, want), "%s: %s of %s", text, count(len(got)), count(len(want)))
	return nil
}

// importSpoilt spoils a line and looks at what the error says of it.
func importSpoilt(ctx context.Context, e *environment, data []byte) error {
	lines := bytes.SplitAfter(data, []byte("\n"))
	const at = 1000
	if len(lines) < at {
		return fmt.Errorf("only %d lines", len(lines))
	}
	_, rest, _ := bytes.Cut(lines[at-1], []byte(","))
	lines[at-1] = append([]byte("Nowhere-42,"), rest...)
	_, err := bulk.CopyFrom(ctx, e.db, into("cities_loaded"), bulk.FromReader(bytes.NewReader(bytes.Join(lines, nil)), bulk.CSV{Header: bulk.HeaderMatch}))
	var where *bulk.CopyError
	found := errors.As(err, &where) && where.Line == at && where.Column == "id"
	e.out.line("with line %s spoilt:", count(at))
	e.out.quote("%v", err)
	e.check(ctx, found && !bytes.Contains([]byte(err.Error()), []byte("Nowhere")) && pgkeel.OutcomeOf(err) == pgkeel.OutcomeRolledBack,
		"the error tells line and column, and not the value; nothing was loaded")
	return nil
}

// loadUnderFire loads over several connections while these are killed.
func loadUnderFire(ctx context.Context, e *environment, data []byte) error {
	killing, stop := context.WithCancel(ctx)
	done := make(chan int)
	go func() { done <- killLoaders(killing, e) }()
	begin := time.Now()
	load := bulk.Load{ID: "cities", Into: into("cities_loaded"), Format: bulk.CSV{Header: bulk.HeaderMatch}, ChunkBytes: 256 << 10}
	res, err := bulk.ParallelLoad(ctx, e.db, load, bytes.NewReader(data))
	took := time.Since(begin)
	stop()
	dead := <-done
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	e.out.line("loaded over %d connections in %s: %s committed, while %s were killed", bulk.DefaultWorkers, short(took),
		plural(res.Chunks, "chunk", "chunks"), plural(dead, "of the connections", "of the connections"))
	return compare(ctx, e, "cities_loaded", data, "no row came twice, none is missing")
}

// enoughKills leaves the load time to end.
const enoughKills = 5

// killLoaders ends connections that load, one after the other.
func killLoaders(ctx context.Context, e *environment) (dead int) {
	for dead < enoughKills && ctx.Err() == nil {
		n, err := e.observer.QueryCount(ctx, `select count(pg_terminate_backend(pid)) from (
			select pid from pg_stat_activity where query like 'COPY "public"."cities_loaded"%' and state = 'active' limit 1) x`)
		if err != nil {
			return dead
		}
		dead += int(n)
	}
	return dead
}
