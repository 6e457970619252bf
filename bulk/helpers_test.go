package bulk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

var (
	_ Target                = (*pgkeel.DB)(nil)
	_ Target                = (*pgkeel.Conn)(nil)
	_ Tx                    = pgkeel.Tx{}
	_ Beginner[pgkeel.Tx]   = (*pgkeel.DB)(nil)
	_ Beginner[pgkeel.Tx]   = (*pgkeel.Conn)(nil)
	_ pgx.CopyFromSource    = (*valueStream[int])(nil)
	_ providers.Interrupter = (*driverStream)(nil)
)

// patience is how long a condition may take on a slow machine.
const patience = 20 * time.Second

// errOfCaller is what sources, readers and writers of the tests fail with.
var errOfCaller = errors.New("the caller's own")

func openDB(t testing.TB, setup string, options ...pgkeel.Option) *pgkeel.DB {
	t.Helper()
	return openOn(t, pgtest.NewDB(t), setup, options...)
}

func openOn(t testing.TB, dsn, setup string, options ...pgkeel.Option) *pgkeel.DB {
	t.Helper()
	db, err := pgkeel.Open(t.Context(), dsn, append([]pgkeel.Option{pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 8})}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := db.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if setup != "" {
		mustExec(t, db, setup)
	}
	return db
}

func mustExec(t testing.TB, q providers.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func value[T any](t testing.TB, q providers.Querier, sql string, args ...any) T {
	t.Helper()
	v, err := pgkeel.One[T](t.Context(), q, sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// expect fails unless the query's only value is want.
func expect[T comparable](t testing.TB, q providers.Querier, want T, sql string, args ...any) {
	t.Helper()
	if got := value[T](t, q, sql, args...); got != want {
		t.Errorf("%s: %v instead of %v", sql, got, want)
	}
}

// onEach runs a test on a handle, a connection and a transaction.
func onEach(t *testing.T, setup string, test func(t *testing.T, on Target)) {
	t.Run("db", func(t *testing.T) { test(t, openDB(t, setup)) })
	t.Run("conn", func(t *testing.T) {
		conn, err := openDB(t, setup).Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		test(t, conn)
	})
	t.Run("tx", func(t *testing.T) {
		tx, err := openDB(t, setup).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(t.Context()) }()
		test(t, tx)
	})
}

func table(parts ...string) pgx.Identifier { return parts }

// text is a pointer to a marker.
func text(s string) *string { return &s }

// panics returns what do panics with.
func panics(do func()) (r any) {
	defer func() { r = recover() }()
	do()
	return nil
}

func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// out copies a query out.
func out(t testing.TB, on Target, query string, format Format) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := CopyTo(t.Context(), on, From{Query: query, Format: format}, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// faultsOf lists the fields of option errors.
func faultsOf(err error) string {
	var fields []string
	var walk func(error)
	walk = func(err error) {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				walk(e)
			}
			return
		}
		var fault *OptionError
		if errors.As(err, &fault) {
			fields = append(fields, fault.Field)
		} else if err != nil {
			fields = append(fields, fmt.Sprintf("%T", err))
		}
	}
	walk(err)
	return strings.Join(fields, " ")
}

// numbers are lines of CSV with a number, a value in which there may be quotes
// and line ends, and NULLs.
func numbers(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		switch i % 5 {
		case 0:
			fmt.Fprintf(&b, "%d,\"line one\nline \"\"two\"\" of %d\r\n\"\n", i, i)
		case 1:
			fmt.Fprintf(&b, "%d,\n", i)
		default:
			fmt.Fprintf(&b, "%d,a value, %d\n", i, i)
		}
	}
	return strings.ReplaceAll(b.String(), "value, ", "value ")
}

var _ io.Reader = readerFunc(nil)
