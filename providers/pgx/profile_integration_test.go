package pgx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	provider "github.com/pgkeel/pgkeel/providers/pgx"
)

// pooledCluster is what the poolers of these tests stand in front of: not the
// shared cluster, which may be an outside server. pgtest.Main closes it.
var pooledCluster = sync.OnceValues(func() (*pgtest.Cluster, error) {
	return pgtest.Start(context.Background(), pgtest.Options{})
})

// A pooler is a PgBouncer in transaction mode with few sessions on its server,
// and a database of the test's own behind it.
type pooler struct {
	*pgtest.PgBouncer

	direct  string // the database without the pooler
	through string // and by it
}

func newPooler(t *testing.T, sessions int) *pooler {
	t.Helper()
	c, err := pooledCluster()
	if err != nil {
		t.Fatal(err)
	}
	p := &pooler{direct: c.NewDB(t)}
	cfg, err := pgx.ParseConfig(p.direct)
	if err != nil {
		t.Fatal(err)
	}
	p.PgBouncer = c.Primary().NewPgBouncer(t, map[string]string{"default_pool_size": fmt.Sprint(sessions)})
	p.through = p.DSN(cfg.Database)
	return p
}

// open opens a pool by the pooler.
func (p *pooler) open(t *testing.T, cfg providers.Config) *provider.Pool {
	t.Helper()
	cfg.DSN = p.through
	return openProfile(t, cfg)
}

func openProfile(t *testing.T, cfg providers.Config) *provider.Pool {
	t.Helper()
	pool, err := provider.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := pool.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return pool
}

// behind is a configuration for PgBouncer.
func behind(size int32) providers.Config {
	return providers.Config{Profile: providers.ProfilePgBouncer, Pool: providers.PoolStrategy{MaxSize: size}}
}

func (p *pooler) admin(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.direct)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func scalar[T any](t *testing.T, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, sql string, args ...any,
) (v T) {
	t.Helper()
	if err := q.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func run(t *testing.T, q providers.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// until waits for a condition of the server, without a clock of its own.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// whole reports a pool from which something was not given back.
func whole(t *testing.T, pool *provider.Pool) {
	t.Helper()
	until(t, "every connection to be given back", func() bool { return pool.Stats().InUse == 0 })
	for range 2 * pool.Stats().MaxSize {
		if got := scalar[int](t, pool, `select $1::int`, 7); got != 7 {
			t.Fatalf("got %d", got)
		}
	}
}

func TestTrap17TypesBehindPgBouncer(t *testing.T) {
	pool := newPooler(t, 1).open(t, behind(3))
	at := time.Date(2024, 2, 29, 12, 30, 0, 123456000, time.UTC)
	number := 5
	for name, tc := range map[string]struct {
		sql       string
		arg, want any
	}{
		"smallint":        {`select $1::int2`, int16(-7), int16(-7)},
		"int":             {`select $1::int4 + 1`, int32(7), int32(8)},
		"bigint":          {`select $1::int8`, int64(1) << 60, int64(1) << 60},
		"double":          {`select $1::float8`, 1.5, 1.5},
		"boolean":         {`select not $1::bool`, true, false},
		"text":            {`select $1::text`, `it's "ü" \ $1`, `it's "ü" \ $1`},
		"empty text":      {`select $1::text`, "", ""},
		"bytea":           {`select $1::bytea`, []byte{0, 1, 255}, []byte{0, 1, 255}},
		"timestamptz":     {`select $1::timestamptz`, at, at},
		"int array":       {`select $1::int4[]`, []int32{1, -2, 3}, []int32{1, -2, 3}},
		"bigint array":    {`select array_append($1::int8[], 9)`, []int64{1}, []int64{1, 9}},
		"text array":      {`select $1::text[]`, []string{"a,b", `"c"`, "", "{}"}, []string{"a,b", `"c"`, "", "{}"}},
		"empty array":     {`select $1::text[]`, []string{}, []string{}},
		"any":             {`select count(*)::int from generate_series(1, 9) n where n = any($1::int[])`, []int32{2, 3, 99}, int(2)},
		"jsonb of text":   {`select $1::jsonb ->> 'a'`, `{"a": "b"}`, "b"},
		"jsonb of raw":    {`select $1::jsonb ->> 'a'`, json.RawMessage(`{"a": "b"}`), "b"},
		"jsonb as struct": {`select jsonb_build_object('A', $1::int)`, 3, struct{ A int }{3}},
		"pointer":         {`select $1::int4`, &number, &number},
		"null":            {`select $1::int4`, nil, (*int)(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			got := reflect.New(reflect.TypeOf(tc.want))
			if err := pool.QueryRow(t.Context(), tc.sql, tc.arg).Scan(got.Interface()); err != nil {
				t.Fatal(err)
			}
			if moment, ok := got.Elem().Interface().(time.Time); ok {
				got.Elem().Set(reflect.ValueOf(moment.UTC()))
			}
			if !reflect.DeepEqual(got.Elem().Interface(), tc.want) {
				t.Errorf("got %#v, want %#v", got.Elem().Interface(), tc.want)
			}
		})
	}
	whole(t, pool)
}

// TestTrap17TypesThatNeedTheirName: without a description from the server the
// driver knows an argument by its Go type alone.
func TestTrap17TypesThatNeedTheirName(t *testing.T) {
	p := newPooler(t, 1)
	const sql = `select $1::jsonb ->> 'a'`
	doc := map[string]any{"a": "b"}
	pool := p.open(t, behind(2))
	var got string
	if err := pool.QueryRow(t.Context(), sql, doc).Scan(&got); err == nil || !strings.Contains(err.Error(), "unknown type") {
		t.Errorf("a map without a name: %q, %v", got, err)
	}
	whole(t, pool)

	cfg := behind(2)
	cfg.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		conn.TypeMap().RegisterDefaultPgType(doc, "jsonb")
		return nil
	}
	if got := scalar[string](t, p.open(t, cfg), sql, doc); got != "b" {
		t.Errorf("got %q", got)
	}
}

// TestTrap17NoStatementHasAName: the same statements on many clients, each of
// which meets sessions on which others have run them.
func TestTrap17NoStatementHasAName(t *testing.T) {
	p := newPooler(t, 2)
	pool := p.open(t, behind(16))
	run(t, pool, `create table counted (n int)`)
	const callers, each = 24, 20
	errs := make(chan error, callers)
	for i := range callers {
		go func() {
			errs <- func() error {
				for n := range each {
					if err := mixed(t.Context(), pool, i, n); err != nil {
						return fmt.Errorf("caller %d, round %d: %w", i, n, err)
					}
				}
				return nil
			}()
		}()
	}
	for range callers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := scalar[int](t, pool, `select count(*) from counted`); got != callers*each*2 {
		t.Errorf("%d rows, want %d", got, callers*each*2)
	}
	admin := p.admin(t)
	if got := scalar[int](t, admin, `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`); got > 2 {
		t.Errorf("%d sessions on the server: the pool was not smaller than its clients", got)
	}
	if got := scalar[int](t, pool, `select count(*) from pg_prepared_statements`); got != 0 {
		t.Errorf("%d statements have a name", got)
	}
	whole(t, pool)
}

// mixed is one round of a caller: a query, a batch and a transaction.
func mixed(ctx context.Context, pool *provider.Pool, i, n int) error {
	var got int
	if err := pool.QueryRow(ctx, `select $1::int * $2::int`, i, n).Scan(&got); err != nil || got != i*n {
		return fmt.Errorf("query: %d, %w", got, err)
	}
	b := &pgx.Batch{}
	b.Queue(`insert into counted values ($1)`, n)
	b.Queue(`select $1::text`, "x")
	if err := pool.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	tx, err := pool.Begin(ctx, providers.TxOptions{})
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `insert into counted values ($1)`, n); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	return tx.Commit(ctx)
}

// TestTrap17WhatTheProfilePrevents: with the direct profile the second client
// prepares under a name that the session already has, and one whose session was
// exchanged executes what the new one does not have.
func TestTrap17WhatTheProfilePrevents(t *testing.T) {
	p := newPooler(t, 1)
	const sql = `select $1::int + 1`
	for profile, want := range map[providers.Profile][2]string{
		providers.ProfileDirect:    {"42P05", "26000"},
		providers.ProfilePgBouncer: {"", ""},
	} {
		t.Run(profile.String(), func(t *testing.T) {
			cfg := providers.Config{Profile: profile, Pool: providers.PoolStrategy{MaxSize: 1}}
			first, second := p.open(t, cfg), p.open(t, cfg)
			if got := scalar[int](t, first, sql, 1); got != 2 {
				t.Errorf("got %d", got)
			}
			var got int
			if code := codeOf(t, second.QueryRow(t.Context(), sql, 1).Scan(&got)); code != want[0] {
				t.Errorf("the same statement by another client: %q, want %q", code, want[0])
			}
			p.reconnect(t)
			if code := codeOf(t, first.QueryRow(t.Context(), sql, 1).Scan(&got)); code != want[1] {
				t.Errorf("the same client on another session: %q, want %q", code, want[1])
			}
			if profile == providers.ProfilePgBouncer && got != 2 {
				t.Errorf("got %d", got)
			}
		})
		p.reconnect(t)
	}
}

// reconnect has the pooler exchange its sessions on the server.
func (p *pooler) reconnect(t *testing.T) {
	t.Helper()
	cfg, err := pgx.ParseConfig(p.DSN("pgbouncer"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	console, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = console.Exec(t.Context(), `reconnect`)
	if err := errors.Join(err, console.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// codeOf returns the SQLSTATE, empty without an error.
func codeOf(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var pg *providers.PGError
	if !errors.As(err, &pg) {
		t.Fatalf("an error without a code: %v", err)
	}
	return pg.Code
}

func TestTrap17NamedStatementsAreRefusedBehindPgBouncer(t *testing.T) {
	pool := newPooler(t, 1).open(t, behind(2))
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe} {
		if _, err := pool.Exec(t.Context(), `select $1::int`, mode, 1); err == nil || !strings.Contains(err.Error(), "disabled") {
			t.Errorf("%v: %v", mode, err)
		}
	}
	whole(t, pool)
}

func TestTrap17TransactionsBehindPgBouncer(t *testing.T) {
	pool := newPooler(t, 2).open(t, behind(4))
	run(t, pool, `create table written (who text primary key)`)
	tx, err := pool.Begin(t.Context(), providers.TxOptions{Isolation: providers.Serializable})
	if err != nil {
		t.Fatal(err)
	}
	server := scalar[int](t, tx, `select pg_backend_pid()`)
	if got := scalar[string](t, tx, `select current_setting('transaction_isolation')`); got != "serializable" {
		t.Errorf("isolation %s", got)
	}
	run(t, tx, `insert into written values ($1)`, "kept")
	for _, name := range []string{"", `a "name"; rollback`} {
		sp, err := tx.Savepoint(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		run(t, sp, `insert into written values ($1)`, "undone")
		if _, err := sp.Exec(t.Context(), `insert into written values ($1)`, "kept"); codeOf(t, err) != "23505" {
			t.Errorf("a duplicate: %v", err)
		}
		if err := sp.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if other := scalar[int](t, pool, `select count(*) from written`); other != 0 {
		t.Errorf("another client sees %d uncommitted rows", other)
	}
	if got := scalar[int](t, tx, `select pg_backend_pid()`); got != server {
		t.Error("the transaction changed its session")
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := scalar[string](t, pool, `select string_agg(who, ',') from written`); got != "kept" {
		t.Errorf("got %q", got)
	}
	whole(t, pool)
}

func TestTrap17BatchAndCopyBehindPgBouncer(t *testing.T) {
	pool := newPooler(t, 1).open(t, behind(3))
	run(t, pool, `create table loaded (id int primary key, name text, tags text[], at timestamptz, doc jsonb)`)
	at := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	rows := make([][]any, 500)
	for i := range rows {
		rows[i] = []any{i, fmt.Sprint("name ", i), []string{"a", fmt.Sprint(i)}, at, map[string]any{"i": i}}
	}
	columns := []string{"id", "name", "tags", "at", "doc"}
	for range 2 { // the second time on a client, or a session, that has seen it
		n, err := pool.CopyFrom(t.Context(), pgx.Identifier{"loaded"}, columns, pgx.CopyFromRows(rows))
		if err != nil || n != 500 {
			t.Fatalf("COPY: %d, %v", n, err)
		}
		if got := scalar[int](t, pool, `select count(*) from loaded where doc ->> 'i' = tags[2] and at = $1`, at); got != 500 {
			t.Errorf("%d rows are as they were sent", got)
		}
		if _, err := pool.CopyFrom(t.Context(), pgx.Identifier{"loaded"}, columns, pgx.CopyFromRows(rows[:1])); codeOf(t, err) != "23505" {
			t.Errorf("a duplicate: %v", err)
		}
		run(t, pool, `truncate loaded`)
	}
	b := &pgx.Batch{}
	total := 0
	for i := range 100 {
		b.Queue(`insert into loaded (id, name) values ($1, $2)`, i, fmt.Sprint(i))
		b.Queue(`select count(*)::int from loaded where id <= $1`, i).QueryRow(func(row pgx.Row) error {
			var n int
			err := row.Scan(&n)
			total += n
			return err
		})
	}
	if err := pool.SendBatch(t.Context(), b).Close(); err != nil || total != 5050 {
		t.Errorf("batch: %d, %v", total, err)
	}
	failing := &pgx.Batch{}
	failing.Queue(`insert into loaded (id) values ($1)`, 1000)
	failing.Queue(`insert into loaded (id) values ($1)`, 1)
	if err := pool.SendBatch(t.Context(), failing).Close(); codeOf(t, err) != "23505" {
		t.Errorf("a duplicate: %v", err)
	}
	if scalar[bool](t, pool, `select exists (select from loaded where id = 1000)`) {
		t.Error("half a batch was kept")
	}
	whole(t, pool)
}

// TestTrap17ScopesStayWithTheirCall: everybody shares one session, so whatever
// a call left behind the next client would see.
func TestTrap17ScopesStayWithTheirCall(t *testing.T) {
	p := newPooler(t, 1)
	pool, other := p.open(t, behind(2)), p.open(t, behind(2))
	const look = `select coalesce(current_setting('app.tenant_id', true), '') || ' ' || current_setting('statement_timeout')`
	scope := []providers.Setting{{Name: "app.tenant_id", Value: `o'brien "x"`}, {Name: "statement_timeout", Value: "5000"}}
	server := scalar[int](t, other, `select pg_backend_pid()`)
	call := func(kind providers.CallKind, sql string) *providers.Call {
		return &providers.Call{Kind: kind, SQL: sql, Args: []any{1}, Scope: scope}
	}
	for name, use := range map[string]func() error{
		"query": func() error {
			c := call(providers.CallQuery, `select current_setting('app.tenant_id') || current_setting('statement_timeout') || $1::int`)
			if err := pool.Run(t.Context(), c); err != nil {
				return err
			}
			var got string
			if err := providers.FirstRow(c.Rows).Scan(&got); err != nil || got != `o'brien "x"5s1` {
				return fmt.Errorf("got %q, %w", got, err)
			}
			return nil
		},
		"exec": func() error {
			return pool.Run(t.Context(), call(providers.CallExec, `select pg_notify('c', $1::int::text)`))
		},
		"a statement that fails": func() error {
			if err := pool.Run(t.Context(), call(providers.CallExec, `select 1 / ($1::int - 1)`)); codeOf(t, err) != "22012" {
				return fmt.Errorf("a division by zero: %w", err)
			}
			return nil
		},
		"rows that nobody reads": func() error {
			c := call(providers.CallQuery, `select generate_series(1, 1000 * $1::int)`)
			if err := pool.Run(t.Context(), c); err != nil {
				return err
			}
			c.Rows.Close()
			return c.Rows.Err()
		},
		"a transaction": func() error {
			tx, err := pool.Begin(t.Context(), providers.TxOptions{})
			if err != nil {
				return err
			}
			err = tx.Run(t.Context(), call(providers.CallExec, `select $1::int`))
			if got := scalar[string](t, tx, look); got != " 0" {
				err = errors.Join(err, fmt.Errorf("the transaction's next statement sees %q", got))
			}
			return errors.Join(err, tx.Commit(t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := use(); err != nil {
				t.Error(err)
			}
			if got := scalar[string](t, other, look); got != " 0" {
				t.Errorf("the next client sees %q", got)
			}
			if got := scalar[int](t, other, `select pg_backend_pid()`); got != server {
				t.Error("on another session, so this proves nothing")
			}
		})
	}
	whole(t, pool)
}

func TestTrap17ScopesOfManyAtOnce(t *testing.T) {
	pool := newPooler(t, 2).open(t, behind(8))
	errs := make(chan error)
	const callers, each = 16, 25
	for i := range callers {
		tenant := fmt.Sprint("tenant ", i)
		go func() {
			errs <- func() error {
				for range each {
					c := &providers.Call{
						SQL: `select current_setting('app.tenant_id') from generate_series(1, $1::int)`, Args: []any{3},
						Scope: []providers.Setting{{Name: "app.tenant_id", Value: tenant}},
					}
					if err := pool.Run(t.Context(), c); err != nil {
						return err
					}
					got, err := pgx.CollectRows(c.Rows, pgx.RowTo[string])
					if err != nil || strings.Join(got, ",") != strings.Join([]string{tenant, tenant, tenant}, ",") {
						return fmt.Errorf("%s sees %v, %w", tenant, got, err)
					}
					var leaked string
					if err := pool.QueryRow(t.Context(), `select coalesce(current_setting('app.tenant_id', true), '')`).Scan(&leaked); err != nil || leaked != "" {
						return fmt.Errorf("without a tenant one sees %q, %w", leaked, err)
					}
				}
				return nil
			}()
		}()
	}
	for range callers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	whole(t, pool)
}

// TestTrap17CancelHitsNobodyElse: one caller's context ends while others use
// the same few sessions.
func TestTrap17CancelHitsNobodyElse(t *testing.T) {
	p := newPooler(t, 2)
	pool, admin := p.open(t, behind(6)), p.admin(t)
	const sleeping = `select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active' and datname = current_database()`
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		ended, stop, done := make(chan error, 1), make(chan struct{}), make(chan error, 4)
		go func() { _, err := pool.Exec(ctx, `select pg_sleep(600)`); ended <- err }()
		until(t, "the statement to run", func() bool { return scalar[int](t, admin, sleeping) == 1 })
		for range cap(done) {
			go func() {
				for {
					if _, err := pool.Exec(t.Context(), `select pg_sleep(0.005)`); err != nil {
						done <- err
						return
					}
					select {
					case <-stop:
						done <- nil
						return
					default:
					}
				}
			}()
		}
		cancel()
		err := <-ended
		var timeout *providers.TimeoutError
		if !errors.Is(err, context.Canceled) || !errors.As(err, &timeout) || timeout.Limit != "context cancelled" || timeout.Timeout() {
			t.Errorf("the caller who gave up: %v", err)
		}
		if got := providers.OutcomeOf(err); got != providers.OutcomeUnknown {
			t.Errorf("nobody can know what became of the statement, but the error says %s", got)
		}
		until(t, "the statement to end on the server", func() bool { return scalar[int](t, admin, sleeping) == 0 })
		close(stop)
		for range cap(done) {
			if err := <-done; err != nil {
				t.Errorf("another caller: %v", err)
			}
		}
	}
	whole(t, pool)
}

// TestTrap17DeadlineWhileThePoolerHasNoSession: whoever gives up while the pooler
// has no session to give disturbs nobody who has one.
func TestTrap17DeadlineWhileThePoolerHasNoSession(t *testing.T) {
	pool := newPooler(t, 1).open(t, behind(6))
	run(t, pool, `create table undisturbed (n int)`)
	tx, err := pool.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	run(t, tx, `insert into undisturbed values ($1)`, 1)
	for range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		_, err := pool.Exec(ctx, `insert into undisturbed values ($1)`, 2)
		cancel()
		var timeout *providers.TimeoutError
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &timeout) || timeout.Limit != "context deadline" {
			t.Fatalf("got %v", err)
		}
		// The pooler has the statement, and may yet run it.
		if got := providers.OutcomeOf(err); got != providers.OutcomeUnknown {
			t.Errorf("outcome %s", got)
		}
		run(t, tx, `insert into undisturbed values ($1)`, 1)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := scalar[int](t, pool, `select count(*) from undisturbed where n = 1`); got != 5 {
		t.Errorf("%d rows", got)
	}
	whole(t, pool)
}

// TestTrap17SessionStateIsNotTouched: there is no session to reset, and a reset
// would hit whoever is served by it at that time.
func TestTrap17SessionStateIsNotTouched(t *testing.T) {
	p := newPooler(t, 1)
	pool, other := p.open(t, behind(1)), p.open(t, behind(1))
	run(t, pool, `set app.left_by = 'somebody'`)
	run(t, pool, `select set_config('app.left_by', $1, false)`, "somebody")
	for range 3 {
		if got := scalar[string](t, other, `select current_setting('app.left_by')`); got != "somebody" {
			t.Errorf("got %q", got)
		}
		whole(t, pool)
	}
	if got := pool.Stats().Resets + other.Stats().Resets; got != 0 {
		t.Errorf("%d resets", got)
	}
	direct := openProfile(t, providers.Config{DSN: p.direct, Pool: providers.PoolStrategy{MaxSize: 1}})
	run(t, direct, `set app.left_by = 'somebody'`)
	if got := scalar[string](t, direct, `select current_setting('app.left_by', true)`); got != "" || direct.Stats().Resets != 1 {
		t.Errorf("without PgBouncer it is reset: %q after %d resets", got, direct.Stats().Resets)
	}
}

// TestTrap17StartupParameters: PgBouncer refuses a session with parameters that
// it does not know how to keep, so the profile refuses them before.
func TestTrap17StartupParameters(t *testing.T) {
	p := newPooler(t, 1)
	cfg := behind(1)
	cfg.DSN, cfg.StatementTimeout = p.through, time.Second
	_, err := provider.Open(t.Context(), cfg)
	var fault *providers.ConfigError
	if !errors.As(err, &fault) || fault.Field != "StatementTimeout" || !strings.Contains(fault.Problem, "ALTER ROLE") {
		t.Errorf("got %v", err)
	}
	pool := p.open(t, providers.Config{StatementTimeout: time.Second})
	err = pool.Ping(t.Context())
	if !errors.Is(err, providers.ErrUnreachable) || !strings.Contains(err.Error(), "unsupported startup parameter: statement_timeout") {
		t.Errorf("what the refusal spares its user: %v", err)
	}
	if got := providers.OutcomeOf(err); got != providers.OutcomeNotSent {
		t.Errorf("outcome %s", got)
	}
	for _, reset := range []providers.SessionReset{providers.ResetAlways, providers.ResetNever} {
		cfg := behind(1)
		cfg.SessionReset = reset
		if err := cfg.Validate(); !errors.As(err, &fault) || fault.Field != "SessionReset" {
			t.Errorf("reset %d has no effect: %v", reset, err)
		}
	}
}

func TestServerlessLetsTheDatabaseSleep(t *testing.T) {
	dsn := pgtest.NewDB(t)
	defaults := openProfile(t, providers.Config{DSN: dsn, Profile: providers.ProfileServerless}).Unwrap().Config()
	if defaults.MaxConnIdleTime != time.Minute || defaults.MinConns != 0 || defaults.MinIdleConns != 0 {
		t.Errorf("idle connections end after %s, down to %d and %d", defaults.MaxConnIdleTime, defaults.MinConns, defaults.MinIdleConns)
	}
	pool := openProfile(t, providers.Config{
		DSN: dsn, Profile: providers.ProfileServerless,
		Pool: providers.PoolStrategy{InitialSize: 3, MaxIdleTime: time.Millisecond, HealthCheckInterval: 5 * time.Millisecond},
	})
	admin, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	until(t, "the last connection to end", func() bool {
		return scalar[int](t, admin, `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`) == 0
	})
	if got := scalar[int](t, pool, `select 1`); got != 1 { // and it comes back
		t.Error(got)
	}
	var fault *providers.ConfigError
	_, err = provider.Open(t.Context(), providers.Config{
		DSN: dsn, Profile: providers.ProfileServerless, Pool: providers.PoolStrategy{MinSize: 1},
	})
	if !errors.As(err, &fault) || fault.Field != "Pool.MinSize" {
		t.Errorf("a MinSize would keep it awake: %v", err)
	}
}

func TestServerlessWaitsForADatabaseThatStarts(t *testing.T) {
	for name, tc := range map[string]struct {
		profile providers.Profile
		dsn     string
		own     time.Duration
		want    time.Duration
	}{
		"direct":         {want: providers.DefaultConnectTimeout},
		"serverless":     {profile: providers.ProfileServerless, want: 30 * time.Second},
		"by the DSN":     {profile: providers.ProfileServerless, dsn: "connect_timeout=7", want: 7 * time.Second},
		"by the setting": {profile: providers.ProfileServerless, dsn: "connect_timeout=7", own: time.Second, want: time.Second},
	} {
		pool := openProfile(t, providers.Config{DSN: "host=127.0.0.1 " + tc.dsn, Profile: tc.profile, ConnectTimeout: tc.own})
		if got := pool.Unwrap().Config().ConnConfig.ConnectTimeout; got != tc.want {
			t.Errorf("%s: an attempt to connect may take %s, want %s", name, got, tc.want)
		}
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connects, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	pool := openProfile(t, providers.Config{
		DSN:     fmt.Sprintf("host=127.0.0.1 port=%d sslmode=disable", silent.Addr().(*net.TCPAddr).Port),
		Profile: providers.ProfileServerless, ConnectTimeout: 50 * time.Millisecond,
	})
	if err := pool.Ping(t.Context()); !errors.Is(err, providers.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a database that does not wake up: %v", err)
	}
}
