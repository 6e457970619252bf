package stdsql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

const pid = "select pg_backend_pid()"

func TestOptionsThatHaveAnEffect(t *testing.T) {
	p := openPool(t, providers.Config{
		StatementTimeout: 1234 * time.Millisecond,
		Pool:             providers.PoolStrategy{WarmupQueries: []string{"set app.x = 'warm'"}, MaxIdleTime: providers.Off, MaxLifetime: providers.Off},
	})
	if got := value[string](t, p, "show statement_timeout"); got != "1234ms" {
		t.Error(got)
	}
	if got := value[string](t, p, "select current_setting('app.x')"); got != "warm" {
		t.Error(got)
	}
	first := value[int](t, p, pid)
	mustExec(t, p, "set app.x = 'cold'")
	if got := value[string](t, p, "select current_setting('app.x')"); got != "warm" || value[int](t, p, pid) == first || p.Stats().Resets != 1 {
		t.Errorf("a dirty session is made anew: %q, %+v", got, p.Stats())
	}
	if _, err := openDriver(t.Context(), "pgx", providers.Config{
		DSN: pgtest.NewDB(t), Pool: providers.PoolStrategy{InitialSize: 1, WarmupQueries: []string{"selec"}},
	}); !errors.Is(err, providers.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

func TestSessionReset(t *testing.T) {
	p := openPool(t, providers.Config{SessionReset: providers.ResetNever})
	first := value[int](t, p, pid)
	mustExec(t, p, "set app.x = 'stays'")
	if got := value[string](t, p, "select current_setting('app.x')"); got != "stays" {
		t.Error(got)
	}
	mustExec(t, p, "begin")
	if value[int](t, p, pid) == first {
		t.Error("a transaction that was begun in SQL reached the next borrower")
	}
	p = openPool(t, providers.Config{SessionReset: providers.ResetAlways})
	first = value[int](t, p, pid)
	if value[int](t, p, pid) == first {
		t.Error("the session was reused")
	}
}

// A connection that died while nobody looked must not fail a statement.
func TestDeadIdleConnectionIsNoticed(t *testing.T) {
	dsn := pgtest.NewDB(t)
	p, other := openPool(t, providers.Config{DSN: dsn, Pool: providers.PoolStrategy{MaxSize: 3, InitialSize: 3}}), openPool(t, providers.Config{DSN: dsn})
	mustExec(t, other, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
	p.recentMu.Lock()
	clear(p.recent) // as after a second
	p.recentMu.Unlock()
	mustExec(t, p, "select 1")
	if n := p.Stats().ConnectErrors; n != 0 {
		t.Errorf("%d errors", n)
	}
}

func TestRecentStaysSmall(t *testing.T) {
	p := newPool(providers.Config{})
	for i := range 200 {
		p.recent[i] = time.Now().Add(-time.Minute)
	}
	p.trust("one")
	if len(p.recent) != 1 || !p.isTrusted("one") || p.isTrusted("one") {
		t.Errorf("%d are remembered", len(p.recent))
	}
	p.trust([]int{1}) // a driver's connection that cannot be compared
	if p.isTrusted([]int{1}) || len(p.recent) != 0 {
		t.Error("trusted without being known")
	}
}

// An open *sql.DB stays the caller's.
func TestOverAnOpenDB(t *testing.T) {
	db, err := sql.Open("pgx", pgtest.NewDB(t))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p, err := New(t.Context(), db, providers.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if st := p.Stats(); st.MaxSize != 0 || db.Stats().MaxOpenConnections != 0 {
		t.Errorf("a limit that nobody asked for: %+v", st)
	}
	mustExec(t, p, "create table t (n int)")
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.PingContext(t.Context()); err != nil {
		t.Errorf("the pool closed what is not its own: %v", err)
	}
	p, err = New(t.Context(), db, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}, AcquireTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, p)
	held, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var exhausted *providers.ExhaustedError
	if _, err := p.Exec(t.Context(), "select 1"); !errors.As(err, &exhausted) || len(exhausted.Holders) != 0 {
		t.Errorf("code that goes past the provider holds it: %v", err)
	}
	_ = held.Close()
	eventually(t, "the connection is there again", func() bool { return p.Ping(t.Context()) == nil })
	p.Reset()
	_ = db.Close()
	if _, err := p.Exec(t.Context(), "select 1"); err == nil {
		t.Error("the database is closed")
	}
}

func TestOptionsOfPgxAreRefused(t *testing.T) {
	p := openPool(t, providers.Config{})
	for _, option := range []any{pgx.QueryExecModeExec, pgx.QueryResultFormats{1}, pgx.QueryResultFormatsByOID{25: 1}} {
		_, err := p.Exec(t.Context(), "select $1", option, 1)
		wantNotSent(t, "option", err)
	}
	_, err := p.Query(t.Context(), "select @a", badRewriter{})
	wantNotSent(t, "rewriter", err)
}

type badRewriter struct{}

func (badRewriter) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	return "", nil, errors.New("no")
}

// A transaction that was begun in SQL on a connection is nobody's to end.
func TestTransactionBegunInSQL(t *testing.T) {
	p := openPool(t, providers.Config{})
	c := acquire(t, p)
	mustExec(t, c, "begin")
	_, err := c.Begin(t.Context(), providers.TxOptions{})
	wantNotSent(t, "begin", err)
	call := &providers.Call{Kind: providers.CallExec, SQL: "select 1", Scope: []providers.Setting{{Name: "app.x", Value: "1"}}}
	wantNotSent(t, "scope", c.Run(t.Context(), call))
	call.Kind = providers.CallQuery
	wantNotSent(t, "scope", c.Run(t.Context(), call))
	mustExec(t, c, "commit")
	c.Release()
}

// What runs on a connection while its transaction is open is part of that.
func TestConnInsideItsTransaction(t *testing.T) {
	p := openPool(t, providers.Config{})
	c := acquire(t, p)
	defer c.Release()
	tx, err := c.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scope := []providers.Setting{{Name: "app.x", Value: "1"}}
	if err := c.Run(t.Context(), &providers.Call{Kind: providers.CallExec, SQL: "select 1", Scope: scope}); err != nil {
		t.Fatal(err)
	}
	if got := value[string](t, c, "select current_setting('app.x')"); got != "" {
		t.Errorf("the scope of an earlier call holds: %q", got)
	}
	if err := c.Run(t.Context(), &providers.Call{Kind: providers.CallExec, SQL: "select 1", Scope: []providers.Setting{{Name: "none"}}}); err == nil {
		t.Error("a bad setting was taken")
	}
	if err := tx.Commit(t.Context()); !errors.Is(err, pgx.ErrTxCommitRollback) {
		t.Errorf("%v", err)
	}
	mustExec(t, c, "select 1")
}

// A ROLLBACK TO of the application's own heals a transaction, and brings back the
// settings that were in force then.
func TestSettingsAfterARollbackInSQL(t *testing.T) {
	p := openPool(t, providers.Config{})
	tx, err := p.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scope := []providers.Setting{{Name: "app.x", Value: "1"}}
	if err := tx.Run(t.Context(), &providers.Call{Kind: providers.CallExec, SQL: "savepoint mine", Scope: scope}); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "select 1 / 0"); err == nil {
		t.Fatal("no error")
	}
	mustExec(t, tx, "rollback to mine")
	if got := value[string](t, tx, "select current_setting('app.x')"); got != "" {
		t.Errorf("a setting came back: %q", got)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Errorf("the transaction is well: %v", err)
	}
}

func TestRowsWithoutARow(t *testing.T) {
	p := openPool(t, providers.Config{})
	rows, err := p.Query(t.Context(), "select 1")
	if err != nil {
		t.Fatal(err)
	}
	if rows.Conn() != nil || rows.CommandTag().String() != "" || rows.RawValues() != nil {
		t.Error("nothing is known before the first row")
	}
	if err := rows.Scan(new(int)); !errors.Is(err, errNoRow) {
		t.Errorf("%v", err)
	}
	if _, err := rows.Values(); !errors.Is(err, errNoRow) {
		t.Errorf("%v", err)
	}
	rows, err = p.Query(t.Context(), "select 1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rows.Values(); !errors.Is(err, errNoRow) || !errors.Is(rows.Err(), errNoRow) {
		t.Errorf("%v", err)
	}
}

// brokenDriver hands out connections that can do nothing.
type brokenDriver struct{ err error }

func (d brokenDriver) Open(string) (driver.Conn, error)  { return d, d.err }
func (brokenDriver) Prepare(string) (driver.Stmt, error) { return nil, errors.New("broken") }
func (brokenDriver) Close() error                        { return nil }
func (brokenDriver) Begin() (driver.Tx, error)           { return nil, errors.New("broken") }

// A driver with nothing but the least: no connector, no context, no statement
// that is not prepared, and nothing to ask about a connection.
func TestLeastOfDrivers(t *testing.T) {
	sql.Register("broken", brokenDriver{})
	p, err := openDriver(t.Context(), "broken", providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, p)
	if p.connector.Driver() != (brokenDriver{}) {
		t.Error("another driver")
	}
	if _, err := p.Exec(t.Context(), "select 1"); err == nil || providers.OutcomeOf(err) == providers.OutcomeCommitted {
		t.Errorf("%v", err)
	}
	if _, err := p.Begin(t.Context(), providers.TxOptions{}); providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("%v", err)
	}
	p, err = openDriver(t.Context(), "broken", providers.Config{Pool: providers.PoolStrategy{MaxSize: 1, WarmupQueries: []string{"select 1"}}})
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, p)
	if err := p.Ping(t.Context()); !errors.Is(err, providers.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

// A panic of an argument is the caller's, and costs the pool nothing.
func TestPanicOfAnArgument(t *testing.T) {
	hooks := &providers.HookManager{}
	p := openPool(t, providers.Config{Hooks: hooks})
	for name, run := range map[string]func(){
		"exec":  func() { _, _ = p.Exec(t.Context(), "select @a", panics{}) },
		"query": func() { _, _ = p.Query(t.Context(), "select @a", panics{}) },
		"value": func() { _, _ = p.Query(t.Context(), "select $1::text", panickingValue{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: the panic was swallowed", name)
				}
			}()
			run()
		}()
	}
	mustExec(t, p, "select 1")
}

type panickingValue struct{}

func (panickingValue) Value() (driver.Value, error) { panic("a value's own fault") }

type panics struct{}

func (panics) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	panic("an argument's own fault")
}
