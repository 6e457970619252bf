package pgx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
	"github.com/pgkeel/pgkeel/providers"
)

// rowsOf reads every result of a batch.
func rowsOf(results pgx.BatchResults, n int) (all [][]map[string]any, err error) {
	for range n {
		rows, _ := results.Query() // its error is the rows' own
		got, err := pgx.CollectRows(rows, pgx.RowToMap)
		if err != nil {
			_ = results.Close()
			return all, err
		}
		all = append(all, got)
	}
	return all, results.Close()
}

// A change of the schema costs one batch at the most, and never a wrong value.
func TestWiredBatchBehindASchemaChange(t *testing.T) {
	for name, tc := range map[string]struct {
		sql    string
		args   []any
		change []string
		// code is that of the batch after the change, gone that of all after.
		code, gone string
	}{
		"more columns":              {"select * from s where id = $1", []any{1}, []string{"alter table s add more text default 'm'"}, "0A000", ""},
		"another type":              {"select x from s where id = $1", []any{1}, []string{"alter table s alter x type bigint using x::bigint"}, "0A000", ""},
		"another type of argument":  {"update s set id = id where x = $1", []any{"1"}, []string{"alter table s alter x type bigint using x::bigint"}, "42883", ""},
		"a column less":             {"select * from s where id = $1", []any{1}, []string{"alter table s drop x"}, "0A000", ""},
		"a column that is needed":   {"select x from s where id = $1", []any{1}, []string{"alter table s drop x"}, "42703", "42703"},
		"no table":                  {"select x from s where id = $1", []any{1}, []string{"drop table s"}, "42P01", "42P01"},
		"another table":             {"select x from s where id = $1", []any{1}, []string{"drop table s", "create table s (x date, id int)", "insert into s values ('2026-01-02', 1)"}, "0A000", ""},
		"the server has forgotten":  {"select x from s where id = $1", []any{1}, []string{"deallocate all"}, "26000", ""},
		"the session is as new":     {"select x from s where id = $1", []any{1}, []string{"discard all"}, "26000", ""},
		"another table in the path": {"select x from s where id = $1", []any{1}, []string{"create schema first", "create table first.s (id int, x text)", "insert into first.s values (1, 'first')", "set search_path = first, public"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := balanced(t, providers.Config{})
			mustExec(t, p, "create table s (id int, x text)")
			mustExec(t, p, "insert into s values (1, '1')")
			c := acquireN(t, p, 1)[0].(*Conn)
			defer c.Release()
			send := func() ([][]map[string]any, error) {
				b := batchOf("select 0 as zero")
				b.Queue(tc.sql, tc.args...)
				return rowsOf(c.SendBatch(t.Context(), b), 2)
			}
			if _, err := send(); err != nil {
				t.Fatal(err)
			}
			for _, sql := range tc.change {
				mustExec(t, c, sql)
			}
			want, wanted := []string{tc.code, tc.gone, tc.gone}, []string{}
			for i := range want {
				got, err := send()
				wanted = append(wanted, strings.TrimPrefix(outcome(err), "ok"))
				if err != nil {
					continue
				}
				rows, err := c.lease.conn().Query(t.Context(), tc.sql, append([]any{pgx.QueryExecModeSimpleProtocol}, tc.args...)...)
				if err != nil {
					t.Fatal(err)
				}
				plain, err := pgx.CollectRows(rows, pgx.RowToMap)
				if err != nil || fmt.Sprint(got[1]) != fmt.Sprint(plain) {
					t.Errorf("%d: %v instead of %v, %v", i, got[1], plain, err)
				}
			}
			if !slices.Equal(want, wanted) {
				t.Errorf("%q instead of %q", wanted, want)
			}
		})
	}
}

// What a cursor or a statement of the session yields has other columns each time.
func TestWiredBatchWhoseColumnsAreOthersEachTime(t *testing.T) {
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0].(*Conn)
	defer c.Release()
	mustExec(t, c, "begin")
	for _, yields := range []string{"1 as n", "'text'::text as n", "2 as n, 'two' as t", "'2026-01-02'::date as d"} {
		mustExec(t, c, "declare c scroll cursor for select "+yields)
		mustExec(t, c, "prepare p as select "+yields)
		want, err := c.Query(t.Context(), "select "+yields)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := pgx.CollectRows(want, pgx.RowToMap)
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{"fetch first from c", "execute p"} {
			got, err := rowsOf(wired(t, c, batchOf(sql)), 1)
			if err != nil || fmt.Sprint(got[0]) != fmt.Sprint(plain) {
				t.Fatalf("%s: %v instead of %v, %v", sql, got, plain, err)
			}
			scoped, err := pgx.CollectRows(readMarked(t, c, sql), pgx.RowToMap)
			if err != nil || fmt.Sprint(scoped) != fmt.Sprint(plain) {
				t.Fatalf("%s with settings: %v instead of %v, %v", sql, scoped, plain, err)
			}
		}
		mustExec(t, c, "close c")
		mustExec(t, c, "deallocate p")
	}
	mustExec(t, c, "rollback")
}

// More statements than the server is to keep are no trouble, in one batch or over
// time.
func TestWiredBatchOfMoreStatementsThanAreKept(t *testing.T) {
	dsn := pgtest.NewDB(t)
	p := balanced(t, providers.Config{DSN: dsn + "&statement_cache_capacity=2"})
	c := acquireN(t, p, 1)[0].(*Conn)
	defer c.Release()
	for round := range 3 {
		b := &pgx.Batch{}
		for i := range 20 {
			b.Queue(fmt.Sprintf("select %d + $1::int as n", (i+round)%15), i)
		}
		got, err := rowsOf(wired(t, c, b), 20)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if n := got[i][0]["n"]; n != int32((i+round)%15+i) {
				t.Errorf("%d: %v", i, n)
			}
		}
	}
	_ = wired(t, c, batchOf("select 'the last'")).Close()
	if n := value[int](t, c, "select count(*) from pg_prepared_statements where name like 'pgkeel%'"); n > 3 {
		t.Errorf("the server keeps %d statements", n)
	}
	none := balanced(t, providers.Config{DSN: dsn + "&statement_cache_capacity=0"})
	if err := none.SendBatch(t.Context(), batchOf("select 1")).Close(); err == nil || !strings.Contains(err.Error(), "disabled statement cache") {
		t.Errorf("not as in pgx: %v", err)
	}
}

// Whatever the driver is to do with statements, a batch is one.
func TestBatchInEveryMode(t *testing.T) {
	dsn := pgtest.NewDB(t)
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		p := balanced(t, providers.Config{DSN: dsn + "&default_query_exec_mode=" + mode})
		for range 2 {
			b := batchOf("create temp table if not exists m (n int)", "select 1 as n")
			b.Queue("select $1::int + 1 as n", 41)
			results := p.SendBatch(t.Context(), b)
			_, isWired := results.(*batchResults).BatchResults.(*wiredBatch)
			got, err := rowsOf(results, 3)
			if err != nil || got[2][0]["n"] != int32(42) || isWired != (mode == "cache_statement") {
				t.Errorf("%s: %v, %v, %t", mode, got, err, isWired)
			}
		}
	}
}

// A user's tracer sees batches as it does those of the driver.
func TestBatchWithATracerIsTheDrivers(t *testing.T) {
	tracer := &batchTracer{}
	p := balanced(t, providers.Config{Tracer: tracer})
	b := batchOf("select 1", "select 2")
	if err := p.SendBatch(t.Context(), b).Close(); err != nil || tracer.started != 1 || tracer.queries != 2 || tracer.ended != 1 {
		t.Errorf("%+v, %v", tracer, err)
	}
}

type batchTracer struct{ started, queries, ended int }

func (*batchTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (*batchTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (b *batchTracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	b.started++
	return ctx
}

func (b *batchTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {
	b.queries++
}
func (b *batchTracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) { b.ended++ }

// lateContext is one whose deadline is over when the test says so.
type lateContext struct {
	context.Context //nolint:containedctx // it is one
	over            chan struct{}
}

func (c *lateContext) Done() <-chan struct{} { return c.over }

func (c *lateContext) Err() error {
	select {
	case <-c.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// A batch ends with its context, at every point, and leaves a connection that works.
func TestWiredBatchWhoseContextEnds(t *testing.T) {
	p := balanced(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 2}})
	mustExec(t, p, "create table held (n int)")
	const sleeps = "wait_event = 'PgSleep'"
	holder := begin(t, p, providers.TxOptions{})
	mustExec(t, holder, "lock table held")
	defer func() { _ = holder.Rollback(t.Context()) }()
	observer := openPool(t, providers.Config{DSN: p.cfg.DSN, Pool: providers.PoolStrategy{MaxSize: 1}})
	large := strings.Repeat("x", 1<<20)
	for name, tc := range map[string]struct {
		batch  func() *pgx.Batch
		notYet bool
		there  string // where the server is then
	}{
		"while it is prepared": {func() *pgx.Batch { return batchOf("select 1", "select n from held") }, true, "wait_event_type = 'Lock'"},
		"while it runs":        {func() *pgx.Batch { return batchOf("select 1", "select pg_sleep(60)", "select 2") }, false, sleeps},
		"while it is sent": {func() *pgx.Batch {
			b := batchOf("select pg_sleep(60)")
			for range 12 { // more than lies on the way, and soon gone when it was cancelled
				b.Queue("select $1::text", large)
			}
			return b
		}, false, sleeps},
		"while it is read": {func() *pgx.Batch {
			return batchOf("select 1", "select repeat('x', 1000), pg_sleep(case when g = 100000 then 60 else 0 end) from generate_series(1, 100000) g")
		}, false, sleeps},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := &lateContext{Context: t.Context(), over: make(chan struct{})}
			failed := make(chan error, 1)
			go func() { failed <- p.SendBatch(ctx, tc.batch()).Close() }()
			eventually(t, "it is there", func() bool { return backends(t, observer, tc.there) == 1 })
			close(ctx.over)
			err := <-failed
			var limit *providers.TimeoutError
			if !errors.As(err, &limit) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
			if told := providers.OutcomeOf(err) == providers.OutcomeNotSent; told != tc.notYet {
				t.Errorf("%v: %v", providers.OutcomeOf(err), err)
			}
			mustExec(t, p, "select 1")
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.SendBatch(ended, batchOf("select 1")).Close(); providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("before it began: %v", err)
	}
	if s := p.Stats(); s.Connects != 2 {
		t.Errorf("%d connections were made", s.Connects)
	}
}

// A backend that dies in the middle is told at every way to read, and Close.
func TestWiredBatchWhoseServerEnds(t *testing.T) {
	p := balanced(t, providers.Config{})
	const dies = "select pg_terminate_backend(pg_backend_pid())"
	for i := range 3 {
		results := wired(t, p, batchOf("select 1", dies, "select 3"))
		var n int
		if err := results.QueryRow().Scan(&n); err != nil || n != 1 {
			t.Errorf("%d, %v", n, err)
		}
		var err error
		switch i {
		case 0:
			_, err = results.Exec()
		case 1:
			_, err = rowsOf(results, 1)
		default:
			err = results.Close()
		}
		if closed := results.Close(); outcome(err) != "57P01" || outcome(closed) != "57P01" {
			t.Errorf("%v, %v", err, closed)
		}
		if _, err := results.Exec(); err == nil {
			t.Error("went on")
		}
	}
	mustExec(t, p, "select 1")
	if s := p.Stats(); s.Connects != 4 {
		t.Errorf("%d connections were made", s.Connects)
	}
}

// Trap 27: nobody waits for the other when much goes both ways, and the memory that
// it took does not stay with the session.
func TestTrap27WiredBatchLargeBothWays(t *testing.T) {
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0].(*Conn)
	defer c.Release()
	const n = 5000
	run := func(n int, size int) {
		arg := strings.Repeat("y", size)
		b := &pgx.Batch{}
		read := 0
		for range n {
			b.Queue("select $1::text", arg).QueryRow(func(row pgx.Row) error {
				var s string
				err := row.Scan(&s)
				read += len(s)
				return err
			})
		}
		if err := wired(t, c, b).Close(); err != nil || read != n*size {
			t.Errorf("%d bytes of %d, %v", read, n*size, err)
		}
	}
	run(10, 10)
	before := heap()
	run(n, 20_000)
	heap() // what is kept for whoever comes next is gone after a second look
	if after := heap(); after > before+8<<20 {
		t.Errorf("%d KiB stay", (after-before)>>10)
	}
	// As many different statements: each is prepared, which takes answers as well.
	b := &pgx.Batch{}
	for i := range n {
		b.Queue(fmt.Sprintf("select %d, '%s'", i, strings.Repeat("z", 1000)))
	}
	if err := wired(t, c, b).Close(); err != nil {
		t.Error(err)
	}
}

// Notices and notifications come through between the results.
func TestWiredBatchPassesOnWhatTheServerSaysBesides(t *testing.T) {
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0].(*Conn)
	defer c.Release()
	var notices []string
	c.lease.s.config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	mustExec(t, c, `create function pg_temp.talk(n int) returns int language plpgsql as $$ begin raise notice 'n%', n; return n; end $$`)
	mustExec(t, c, "listen wired")
	got, err := rowsOf(wired(t, c, batchOf("select pg_temp.talk(1) n", "select pg_notify('wired', 'hello')", "select pg_temp.talk(2) n", "set local work_mem = '1MB'")), 4)
	if err != nil || got[2][0]["n"] != int32(2) {
		t.Errorf("%v, %v", got, err)
	}
	if len(notices) < 2 || notices[0] != "n1" || notices[1] != "n2" { // up to PostgreSQL 17 SET LOCAL adds a warning
		t.Errorf("%q", notices)
	}
	told, err := c.lease.conn().WaitForNotification(t.Context())
	if err != nil || told.Payload != "hello" {
		t.Errorf("%v, %v", told, err)
	}
}

// A batch in a failed transaction takes it back to a savepoint.
func TestWiredBatchBackToASavepoint(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create table t (n int)")
	tx := begin(t, p, providers.TxOptions{})
	for i := range 2 { // the second time with what was prepared in the first
		b := batchOf("savepoint s", "insert into t values (1)", "rollback to s", "insert into t values (2)", "release s")
		if err := wired(t, tx, b).Close(); err != nil {
			t.Fatal(err)
		}
		mustExec(t, tx, "savepoint s")
		if err := wired(t, tx, batchOf("insert into t values (1)", "select 1 / (n - n) from t")).Close(); outcome(err) != "22012" {
			t.Fatal(i, err)
		}
		if err := wired(t, tx, batchOf("rollback to s", "insert into t values (2)", "release s")).Close(); err != nil {
			t.Fatal(i, err)
		}
	}
	mustCommit(t, tx)
	if n := value[int](t, p, "select count(*) from t where n = 2"); n != 4 || rowsIn(t, p) != 4 {
		t.Errorf("%d of %d rows", n, rowsIn(t, p))
	}
}

// In a scope the settings go first, the batch is one exchange all the same, and the
// next tenant sees nothing of them.
func TestWiredBatchInAScope(t *testing.T) {
	p := balanced(t, providers.Config{Scope: tenants})
	for _, tenant := range []string{"a", "b", "a"} {
		ctx := asTenant(t.Context(), tenant)
		results := p.SendBatch(ctx, batchOf(tenantSQL+" as tenant", "select 1 as n"))
		if _, ok := results.(*batchResults).BatchResults.(*wiredBatch); !ok {
			t.Error("it left the driver's way")
		}
		got, err := rowsOf(results, 2)
		if err != nil || got[0][0]["tenant"] != tenant || got[1][0]["n"] != int32(1) {
			t.Errorf("%v, %v", got, err)
		}
		if err := p.SendBatch(ctx, batchOf("select 1", "rollback")).Close(); !errors.Is(err, providers.ErrEndsScope) {
			t.Error(err)
		}
		b := batchOf("select 1")
		b.Queue("select $1::int", struct{}{})
		if err := p.SendBatch(ctx, b).Close(); providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Error(err)
		}
	}
	left, err := scanString(p.QueryRow(asTenant(t.Context(), ""), tenantSQL))
	if err != nil || left != "" {
		t.Errorf("%q was left behind, %v", left, err)
	}
}

// A callback gets no connection that it could use for another tenant, nor one that
// the next borrower gets as well.
func TestWiredBatchConnOfACallback(t *testing.T) {
	for _, tenant := range []string{"a", ""} {
		p := balanced(t, providers.Config{Scope: tenants})
		var raw *pgx.Conn
		b := &pgx.Batch{}
		b.Queue("select 1").Query(func(rows pgx.Rows) error {
			raw = rows.Conn()
			return nil
		})
		if err := p.SendBatch(asTenant(t.Context(), tenant), b).Close(); err != nil {
			t.Error(err)
		}
		mustExecAs(t, p, "b", "select 1")
		if (raw == nil) != (tenant != "") || raw != nil && !raw.IsClosed() {
			t.Errorf("%q: %v", tenant, raw)
		}
	}
}

// What is told of a batch is what the server did, wherever the connection is lost.
func TestWiredBatchWithALossAtEachMessage(t *testing.T) {
	for name, read := range map[string]func(pgx.BatchResults) error{
		"closed": func(r pgx.BatchResults) error { return r.Close() },
		"read": func(r pgx.BatchResults) error {
			if _, err := r.Exec(); err != nil {
				return errors.Join(err, r.Close())
			}
			_, err := rowsOf(r, 1)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			fault.EachMessage(t, newTable, fault.Cut, func(t *testing.T, proxy *fault.Proxy) {
				p := openPool(t, providers.Config{DSN: proxy.DSN(), Pool: providers.PoolStrategy{MaxSize: 1}})
				direct := openPool(t, providers.Config{DSN: proxy.Upstream()})
				b := &pgx.Batch{}
				b.Queue("insert into t values ($1)", 1)
				b.Queue("insert into t values ($1) returning n", 2)
				err := read(p.SendBatch(t.Context(), b))
				eventually(t, "the server is done", func() bool {
					return value[int](t, direct, `select count(*) from pg_stat_activity where datname = current_database()
						and pid <> pg_backend_pid() and (state = 'active' or xact_start is not null)`) == 0
				})
				there := rowsIn(t, direct)
				if there == 1 || err == nil && there == 0 || err != nil && there == 2 && providers.OutcomeOf(err) != providers.OutcomeUnknown {
					t.Errorf("%d rows are there: %v, %v", there, providers.OutcomeOf(err), err)
				}
				if (err == nil) != (len(proxy.Fired()) == 0) {
					t.Errorf("%v, with %d losses", err, len(proxy.Fired()))
				}
			})
		})
	}
}

// While callers give up and backends are killed, each batch is done once or not at
// all, as its caller is told, and nobody reads what is another's.
func TestWiredBatchesAmongCallersWhoGiveUp(t *testing.T) {
	p := balanced(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 3}})
	direct := openPool(t, providers.Config{DSN: p.cfg.DSN})
	mustExec(t, p, "create table t (n int)")
	const workers, batches = 8, 60
	told := make([]error, workers*batches)
	var all, killer sync.WaitGroup
	over := make(chan struct{})
	killer.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(30 * time.Millisecond):
				_, _ = direct.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity
					where datname = current_database() and pid <> pg_backend_pid() order by random() limit 1`)
			}
		}
	})
	for w := range workers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 5))
			for i := range batches {
				id := w*batches + i
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(12_000))*time.Microsecond)
				told[id] = sendTagged(ctx, t, p, r, id)
				cancel()
			}
		})
	}
	all.Wait()
	close(over)
	killer.Wait()
	done := 0
	for id, err := range told {
		n := value[int](t, direct, "select count(*) from t where n = $1", id)
		o := providers.OutcomeOf(err)
		if n != 0 && n != 2 || err == nil && n == 0 || err != nil && n == 2 && o != providers.OutcomeUnknown {
			t.Errorf("%d: %d rows are there: %v, %v", id, n, o, err)
		}
		if err == nil {
			done++
		}
	}
	if done == 0 || done == len(told) {
		t.Errorf("it proved little: %d were done", done)
	}
}

// sendTagged sends a batch all of whose results say whose they are.
func sendTagged(ctx context.Context, t *testing.T, p *Pool, r *rand.Rand, id int) error {
	b := &pgx.Batch{}
	b.Queue("insert into t values ($1)", id)
	for range r.IntN(4) {
		b.Queue("select $1::int, pg_sleep($2) from generate_series(1, $3::int)", id, r.Float64()/200, r.IntN(20)).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var tag int
				if err := rows.Scan(&tag, nil); err == nil && tag != id {
					t.Errorf("%d read what is %d's", id, tag)
				}
				if r.IntN(10) == 0 {
					break
				}
			}
			return nil
		})
	}
	b.Queue("insert into t values ($1) returning n", id)
	return p.SendBatch(ctx, b).Close()
}
