package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/batch"
)

// faulty are the numbers that the batch of this scene inserts: the fourth is
// there already.
var faulty = []int{1, 2, 3, 1, 4, 5}

// manyOrders is how many statements the stream of this scene has.
const manyOrders = 20_000

// batches runs one and the same batch, with one statement at fault, in the three
// modes, and looks at what each left in the table.
func batches(ctx context.Context, e *environment) error {
	if _, err := e.db.Exec(ctx, `create table orders (number integer primary key)`); err != nil {
		return err
	}
	for _, c := range []struct {
		options batch.Options
		states  string
		left    string
	}{
		{batch.Options{Mode: batch.Atomic}, "rolled back ×3, failed, not attempted ×2", "nothing"},
		{batch.Options{Mode: batch.Isolated}, "ok ×3, failed, ok ×2", "1 2 3 4 5"},
		{batch.Options{Mode: batch.Grouped, GroupSize: 2}, "ok ×2, rolled back, failed, ok ×2", "1 2 4 5"},
	} {
		if err := faultyBatch(ctx, e, c.options, c.states, c.left); err != nil {
			return fmt.Errorf("%s: %w", c.options.Mode, err)
		}
	}
	return orders(ctx, e)
}

func faultyBatch(ctx context.Context, e *environment, o batch.Options, states, left string) error {
	if _, err := e.db.Exec(ctx, `truncate orders`); err != nil {
		return err
	}
	b := &pgx.Batch{}
	for _, n := range faulty {
		b.Queue(`insert into orders values ($1)`, n)
	}
	report, err := batch.Run(ctx, e.db, b, o)
	var at *batch.ItemError
	var pg *pgkeel.PGError
	if !errors.As(err, &at) || !errors.As(err, &pg) {
		return fmt.Errorf("the batch ended with %w", err)
	}
	there, err := pgkeel.All[int](ctx, e.observer, `select number from orders order by number`)
	if err != nil {
		return err
	}
	gotStates, gotLeft := runs(report.States), listed(there)
	e.check(ctx, gotStates == states && gotLeft == left && at.Index == 3 && pg.IsUniqueViolation(),
		"%s: the fault at statement %d left %s in the table; the statements are %s", o.Mode, at.Index, gotLeft, gotStates)
	if o.Mode == batch.Atomic {
		e.out.quote("%v", at)
	}
	return nil
}

// runs tells states in words, those that follow each other together.
func runs(states []batch.State) string {
	var parts []string
	for i := 0; i < len(states); {
		n := 1
		for i+n < len(states) && states[i+n] == states[i] {
			n++
		}
		part := states[i].String()
		if n > 1 {
			part += fmt.Sprintf(" ×%d", n)
		}
		parts = append(parts, part)
		i += n
	}
	return strings.Join(parts, ", ")
}

func listed(numbers []int) string {
	if len(numbers) == 0 {
		return "nothing"
	}
	return strings.Trim(fmt.Sprint(numbers), "[]")
}

// orders streams many statements from a generator.
func orders(ctx context.Context, e *environment) error {
	report, err := batch.Stream(ctx, e.db, func(yield func(*pgx.QueuedQuery, error) bool) {
		for n := range manyOrders {
			if !yield(batch.Queue(`insert into orders values ($1)`, 10+n), nil) {
				return
			}
		}
	}, batch.Options{Mode: batch.Grouped, GroupSize: 500})
	if err != nil {
		return err
	}
	there, err := e.observer.QueryCount(ctx, `select count(*) from orders where number >= 10`)
	if err != nil {
		return err
	}
	e.check(ctx, there == manyOrders && report.Count(batch.OK) == manyOrders,
		"a stream of %s statements, 500 a transaction, at most 1,000 under way: %s rows are there", count(manyOrders), count(there))
	return nil
}
