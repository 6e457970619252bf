package pgkeel_test

import (
	"context"
	"os"
	"testing"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
)

// exampleTB stands for a test where there is none.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (*exampleTB) Helper()                  {}
func (*exampleTB) Name() string             { return "Example" }
func (*exampleTB) Context() context.Context { return context.Background() }
func (*exampleTB) Fatal(args ...any)        { panic(args) }
func (*exampleTB) Error(args ...any)        { panic(args) }
func (tb *exampleTB) Cleanup(fn func())     { tb.cleanups = append(tb.cleanups, fn) }

// exampleServer has DATABASE_URL name a fresh database until the function it
// returns is called.
func exampleServer() func() {
	tb := &exampleTB{}
	must(os.Setenv("DATABASE_URL", pgtest.NewDB(tb)))
	return func() {
		must(os.Unsetenv("DATABASE_URL"))
		for _, fn := range tb.cleanups {
			fn()
		}
	}
}

// exampleDB is a handle on a database with a few cities.
func exampleDB() (db *pgkeel.DB, done func()) {
	drop := exampleServer()
	ctx := context.Background()
	db, err := pgkeel.Open(ctx, os.Getenv("DATABASE_URL"))
	must(err)
	_, err = db.Exec(ctx, `
		create table cities (name text primary key, country text, people int, mayor text);
		insert into cities values ('Porto', 'PT', 250000), ('Lisboa', 'PT', 550000), ('Bergen', 'NO', 300000)`)
	must(err)
	return db, func() {
		must(db.Close(ctx))
		drop()
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
