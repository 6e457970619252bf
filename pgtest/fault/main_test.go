package fault_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
)

func TestMain(m *testing.M) { pgtest.Main(m, func() error { return goleak.Find() }) }

// patience is how long a test waits for what is bound to happen.
const patience = 30 * time.Second

// soon is a deadline for what is bound not to happen.
const soon = 100 * time.Millisecond

// start returns a proxy before a database with an empty table t (n int).
func start(t testing.TB, options ...fault.Option) *fault.Proxy {
	t.Helper()
	return fault.New(t, withTable(t), options...)
}

func withTable(t testing.TB) string {
	t.Helper()
	dsn := pgtest.NewDB(t)
	must(t, exec(t.Context(), connect(t, dsn), "create table t (n int)"))
	return dsn
}

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(within(t, patience), dsn)
	must(t, err)
	t.Cleanup(func() { closeConn(t, conn) })
	return conn
}

// closeConn waits for the goroutine that pgx leaves a broken connection to.
func closeConn(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	_ = conn.Close(ctx)
	select {
	case <-conn.PgConn().CleanupDone():
	case <-time.After(patience):
		t.Error("the client's connection does not end")
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func exec(ctx context.Context, conn *pgx.Conn, sql string, args ...any) error {
	_, err := conn.Exec(ctx, sql, args...)
	return err
}

// rows counts what is in the table, past the proxy.
func rows(t testing.TB, p *fault.Proxy) (n int) {
	t.Helper()
	must(t, connect(t, p.Upstream()).QueryRow(t.Context(), "select count(*) from t").Scan(&n))
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lost asks that the connection was closed under the client.
func lost(t testing.TB, conn *pgx.Conn, err error) {
	t.Helper()
	if err == nil || pgconn.Timeout(err) || !conn.IsClosed() {
		t.Errorf("the connection should be lost: %v", err)
	}
}

// waits asks that the client heard nothing in its time.
func waits(t testing.TB, err error) {
	t.Helper()
	if !pgconn.Timeout(err) {
		t.Errorf("the client should have waited: %v", err)
	}
}

func fires(t testing.TB, r *fault.Rule) {
	t.Helper()
	select {
	case <-r.Fired():
	case <-time.After(patience):
		t.Fatalf("%v has not fired", r)
	}
}
