package bench

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel"
)

// copyRows is how many rows one COPY loads.
const copyRows = 10_000

// copying loads into a table that is emptied before each round, or it would
// grow by a gigabyte an hour. The table is not logged: a benchmark should not
// fill anybody's archive and replicas.
func copying() Scenario {
	return Scenario{
		Name: "copy", About: "10,000 rows by COPY", Bar: nothingEnabled,
		Setup: func(ctx context.Context, conn *pgx.Conn, schema string) error {
			_, err := conn.Exec(ctx, `create unlogged table if not exists `+tableIn(schema, "loaded")+
				` (id bigint not null, name text not null, price float8 not null)`)
			return err
		},
		Reset: func(ctx context.Context, conn *pgx.Conn, schema string) error {
			_, err := conn.Exec(ctx, `truncate `+tableIn(schema, "loaded"))
			return err
		},
		Ours:     onHandle(copyOn[*pgkeel.DB]),
		Baseline: onPool(copyOn[*pgxpool.Pool]),
	}
}

type copier interface {
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error)
}

func copyOn[C copier](c C, site Site) Op {
	table, columns := pgx.Identifier{site.Schema, "loaded"}, []string{"id", "name", "price"}
	return func(ctx context.Context, _, _ int) error {
		n, err := c.CopyFrom(ctx, table, columns, &copySource{row: make([]any, len(columns))})
		if err != nil {
			return err
		}
		return expect(copyRows, n)
	}
}

// copySource yields its rows in one slice, so that the source weighs little
// beside what is measured.
type copySource struct {
	next int64
	row  []any
}

// Next moves to the next row.
func (s *copySource) Next() bool {
	s.next++
	return s.next <= copyRows
}

// Values returns the row, which is overwritten by the next.
func (s *copySource) Values() ([]any, error) {
	s.row[0], s.row[1], s.row[2] = s.next, "an item of some length", float64(s.next)/100
	return s.row, nil
}

// Err is always nil.
func (s *copySource) Err() error { return nil }
