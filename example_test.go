package pgkeel_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
)

func ExampleOpen() {
	defer exampleServer()() // sets DATABASE_URL
	ctx := context.Background()

	db, err := pgkeel.Open(ctx, os.Getenv("DATABASE_URL"),
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 20, InitialSize: 2, WarmupQueries: []string{"select 1"}}),
		pgkeel.WithAcquireTimeout(3*time.Second),
		pgkeel.WithStatementTimeout(time.Minute),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close(ctx)

	stats := db.Stats()
	fmt.Println(stats.Open, "of", stats.MaxSize, "connections are open")
	// Output: 2 of 20 connections are open
}

// Every fault of a configuration is reported at once, with what to do about it.
func ExampleOpen_faults() {
	_, err := pgkeel.Open(context.Background(), "host=localhost",
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 2, MinSize: 5}),
		pgkeel.WithMaxDials(-1),
	)
	fmt.Println(err)
	// Output:
	// pgkeel: config: Pool.MinSize: 5 is more than the 2 of MaxSize
	// pgkeel: config: MaxDials: -1 is negative; leave it 0 for 8
}

func ExampleOne() {
	db, done := exampleDB()
	defer done()
	ctx := context.Background()

	type City struct {
		Name    string
		Country struct{ Code string }
		Mayor   *string // NULL stays nil
	}
	city, err := pgkeel.One[City](ctx, db,
		`select name, country as "country.code", mayor from cities where name = $1`, "Porto")
	fmt.Println(city.Name, city.Country.Code, city.Mayor == nil, err)

	people, err := pgkeel.One[int64](ctx, db, `select sum(people) from cities`)
	fmt.Println(people, err)

	_, err = pgkeel.One[City](ctx, db, `select name from cities where name = 'Atlantis'`)
	fmt.Println(errors.Is(err, pgx.ErrNoRows))
	// Output:
	// Porto PT true <nil>
	// 1100000 <nil>
	// true
}

func ExampleAll() {
	db, done := exampleDB()
	defer done()
	ctx := context.Background()

	names, err := pgkeel.All[string](ctx, db, `select name from cities order by name`)
	fmt.Println(names, err)

	rows, err := pgkeel.All[map[string]any](ctx, db, `select name, mayor from cities where country = $1`, "NO")
	fmt.Println(rows, err)
	// Output:
	// [Bergen Lisboa Porto] <nil>
	// [map[mayor:<nil> name:Bergen]] <nil>
}

// The whole result is never in memory, and leaving the loop has the server stop.
func ExampleEach() {
	db, done := exampleDB()
	defer done()

	for n, err := range pgkeel.Each[int](context.Background(), db, `select generate_series(1, 1000000)`) {
		if err != nil {
			fmt.Println(err)
			return
		}
		if n > 3 {
			break
		}
		fmt.Println(n)
	}
	// Output:
	// 1
	// 2
	// 3
}

func ExampleDB_RunTx() {
	db, done := exampleDB()
	defer done()
	ctx := context.Background()

	err := db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
		if _, err := tx.Exec(ctx, `update cities set people = people - $1 where name = 'Lisboa'`, 1000); err != nil {
			return err
		}
		// A savepoint: what fails inside is undone, and only that.
		err := tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			_, err := tx.Exec(ctx, `insert into cities values ('Porto', 'PT', 1)`)
			return err
		})
		var pg *pgkeel.PGError
		if errors.As(err, &pg) && pg.IsUniqueViolation() {
			_, err = tx.Exec(ctx, `update cities set people = people + $1 where name = 'Porto'`, 1000)
		}
		return err
	}, pgkeel.TxOptions{Isolation: pgkeel.Serializable, Timeout: 10 * time.Second})
	fmt.Println(pgkeel.OutcomeOf(err))

	err = db.RunTx(ctx, func(context.Context, pgkeel.Tx) error { return errors.New("changed my mind") })
	fmt.Println(err)

	people, err := pgkeel.All[int](ctx, db, `select people from cities order by name`)
	fmt.Println(people, err)
	// Output:
	// committed
	// pgkeel: transaction rolled back (closure failed): changed my mind
	// [300000 549000 251000] <nil>
}

func ExampleDB_Hooks() {
	db, done := exampleDB()
	defer done()

	err := db.Hooks().Register(pgkeel.Hook{
		Name:   "audit",
		Events: []pgkeel.HookEvent{pgkeel.EventExec, pgkeel.EventError},
		After: func(_ context.Context, info *pgkeel.HookInfo) {
			fmt.Println(info.Event, info.SQL, info.Rows, info.CorrelationID, info.Err != nil)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := pgkeel.WithCorrelationID(context.Background(), "request-7")
	_, _ = db.Exec(ctx, `delete from cities where country = $1`, "PT") // the argument is never seen
	_, _ = db.Exec(ctx, `delete from towns`)
	// Output:
	// exec delete from cities where country = $1 2 request-7 false
	// exec delete from towns 0 request-7 true
	// error delete from towns 0 request-7 true
}
