package notify_test

import (
	"context"
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

// exampleDB is a handle on a fresh database.
func exampleDB() (db *pgkeel.DB, done func()) {
	tb := &exampleTB{}
	ctx := context.Background()
	db, err := pgkeel.Open(ctx, pgtest.NewDB(tb))
	if err != nil {
		panic(err)
	}
	return db, func() {
		if err := db.Close(ctx); err != nil {
			panic(err)
		}
		for _, fn := range tb.cleanups {
			fn()
		}
	}
}
