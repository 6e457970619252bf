package batch_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/batch"
)

// All or nothing: what a callback returns counts as well.
func ExampleRun() {
	transfer := func(ctx context.Context, db *pgkeel.DB, from, to, amount int) error {
		b := &pgx.Batch{}
		b.Queue(`update accounts set balance = balance - $2 where id = $1 returning balance`, from, amount).
			QueryRow(func(row pgx.Row) error {
				var balance int
				if err := row.Scan(&balance); err != nil {
					return err
				}
				if balance < 0 {
					return errors.New("too little in the account")
				}
				return nil
			})
		b.Queue(`update accounts set balance = balance + $2 where id = $1`, to, amount)
		_, err := batch.Run(ctx, db, b, batch.Options{})
		return err
	}
	_ = transfer
}

// Each by itself: the report tells them apart.
func ExampleRun_isolated() {
	refresh := func(ctx context.Context, db *pgkeel.DB, views []string) error {
		b := &pgx.Batch{}
		for _, view := range views {
			b.Queue(`refresh materialized view ` + pgx.Identifier{view}.Sanitize())
		}
		report, err := batch.Run(ctx, db, b, batch.Options{Mode: batch.Isolated})
		for i, state := range report.States {
			fmt.Println(views[i], state)
		}
		return err
	}
	_ = refresh
}

// A line of a file at a time, in transactions of a thousand.
func ExampleStream() {
	load := func(ctx context.Context, db *pgkeel.DB, file io.Reader) (int64, error) {
		var lines iter.Seq2[*pgx.QueuedQuery, error] = func(yield func(*pgx.QueuedQuery, error) bool) {
			scanner := bufio.NewScanner(file)
			for scanner.Scan() {
				q := batch.Queue(`insert into lines (text) values ($1) on conflict do nothing`, scanner.Text())
				if !yield(q, nil) {
					return
				}
			}
			if err := scanner.Err(); err != nil {
				yield(nil, err)
			}
		}
		report, err := batch.Stream(ctx, db, lines, batch.Options{Mode: batch.Grouped, GroupSize: 1000})
		return report.RowsAffected, err
	}
	_ = load
}
