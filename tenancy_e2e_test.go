package pgkeel_test

import (
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	pgxprovider "github.com/pgkeel/pgkeel/providers/pgx"
	"github.com/pgkeel/pgkeel/tenancy"
)

const (
	leakTenants = 100
	leakWorkers = 1000
	leakPool    = 8
)

// leakTime is how long each run of the leak test lasts.
func leakTime(t *testing.T) time.Duration {
	t.Helper()
	given, ok := os.LookupEnv("PGKEEL_LEAK_SECONDS")
	if !ok {
		return 1500 * time.Millisecond
	}
	seconds, err := strconv.ParseFloat(given, 64)
	if err != nil || seconds <= 0 {
		t.Fatalf("PGKEEL_LEAK_SECONDS is %q; give a number", given)
	}
	return time.Duration(seconds * float64(time.Second))
}

// A thousand goroutines work for a hundred tenants on eight connections, in one
// database or in several, by every path of the handle at random, while statements and callbacks fail and panic,
// contexts end and backends are killed. No tenant ever sees or writes a row of
// another. What is true is kept outside of the library, see [ledger].
func TestTenantsDoNotLeak(t *testing.T) {
	for name, newSite := range leakSites() {
		for mode, options := range map[string][]pgkeel.Option{
			"plain":     {pgkeel.WithDeadlinePropagation()},
			"pipelined": {pgkeel.WithPipelining(pgkeel.Pipelining{})},
		} {
			if name == "database" && mode == "pipelined" {
				continue // it is refused
			}
			t.Run(name+"/"+mode, func(t *testing.T) {
				s := newSite(t)
				s.open(t, append(options, pgkeel.WithTenancy(s.mode))...)
				s.work(t, leakWorkers, leakTime(t))
				s.lookAtAll(t)
				for path, c := range s.count {
					t.Logf("%-28s %7d ended well, %6d otherwise", path, c.well.Load(), c.ill.Load())
					if c.well.Load() == 0 && !s.refusedOutright(path) {
						t.Errorf("%s: never ended well, so nothing was shown; the last error: %v", path, c.last.Load())
					}
				}
				s.report(t)
			})
		}
	}
}

// The checks above find what they look for: with a context of another tenant
// every single path is caught.
func TestLeaksAreFoundOnEveryPath(t *testing.T) {
	for name, newSite := range leakSites() {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.open(t, pgkeel.WithTenancy(s.mode))
			for path, run := range s.paths() {
				s.untouch(t)
				left := s.leaksLeft(t) // by the paths before
				before := s.ledger.found()
				o := &leakOp{s: s, path: path, tenant: s.home(s.tenants[0]), count: &leakCount{}, steady: true}
				o.run(pgkeel.WithTenantID(t.Context(), s.tenants[1]), run)
				noticed := s.ledger.found() > before || s.leaksLeft(t) > left || isDeniedRow(o.count.last.Load())
				if !noticed && !s.refusedOutright(path) {
					t.Errorf("%s worked in the data of another tenant, and nobody noticed: %v", path, o.count.last.Load())
				}
			}
		})
	}
}

// untouch has the next leak show like the first.
func (s *leakSite) untouch(t testing.TB) {
	t.Helper()
	for _, view := range s.views {
		if _, err := view.conn.Exec(t.Context(), view.untouch); err != nil {
			t.Fatal(err)
		}
	}
}

// leaksLeft is how many leaks a look at all rows finds.
func (s *leakSite) leaksLeft(t testing.TB) int {
	t.Helper()
	before := s.ledger.found()
	s.lookAtAll(t)
	return s.ledger.found() - before
}

// isDeniedRow reports that the server noticed the row of another tenant itself.
func isDeniedRow(last any) bool {
	err, _ := last.(leakError)
	var pg *pgkeel.PGError
	return errors.As(err.error, &pg) && pg.Code == "42501"
}

// Whatever goes wrong on a path, also with a statement that the connection has not
// met yet, the connection comes back.
func TestEveryFaultOnEveryPathGivesTheConnectionBack(t *testing.T) {
	for name, newSite := range leakSites() {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.open(t, pgkeel.WithTenancy(s.mode))
			for path, run := range s.paths() {
				for fault := range leakFaults {
					if fault == badArgument {
						s.db.Reset() // what was not prepared is sent in another way
					}
					o := &leakOp{s: s, path: path, tenant: s.home(s.tenants[0]), count: &leakCount{}, steady: true, fault: fault}
					o.run(pgkeel.WithTenantID(t.Context(), s.tenants[0]), run)
					eventually(t, path+" gives its connection back", func() bool { return s.db.Stats().InUse == 0 })
				}
			}
			s.lookAtAll(t)
			s.report(t)
		})
	}
}

// A scope as many have it, which lasts as long as the session, leaks, and the
// same work as above shows it.
func TestABrokenScopeIsFoundOut(t *testing.T) {
	for name, mode := range map[string]tenancy.Mode{
		"set ahead of the statement": naiveMode{}, "set on the connection of the statement": naiveMode{sameConn: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := rlsSite(t)
			s.open(t, pgkeel.WithTenancy(mode), pgkeel.WithSessionReset(pgkeel.ResetNever))
			s.work(t, leakTenants, time.Second/2)
			s.lookAtAll(t)
			if s.ledger.found() == 0 {
				t.Error("the leak was not found")
			}
			t.Logf("%d rows of others were seen or written", s.ledger.found())
		})
	}
}

// naiveMode sets the tenant for the session, ahead of a statement: on whichever
// connection is free, or on the statement's own, but for what is no statement.
type naiveMode struct{ sameConn bool }

const naiveSQL = "select set_config('app.tenant_id', $1, false)"

// Open opens the pool.
func (m naiveMode) Open(ctx context.Context, cfg providers.Config, open tenancy.Opener) (providers.Pool, error) {
	if m.sameConn {
		cfg.Tracer = naiveTracer{}
	}
	pool, err := open(ctx, cfg)
	if err != nil || m.sameConn {
		return pool, err
	}
	return naivePool{pool.(*pgxprovider.Pool)}, nil
}

type naiveTracer struct{}

// TraceQueryStart sets the tenant.
func (naiveTracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if tenant, ok := pgkeel.GetTenantID(ctx); ok {
		_ = conn.PgConn().ExecParams(ctx, naiveSQL, [][]byte{[]byte(tenant)}, nil, nil, nil).Read()
	}
	return ctx
}

// TraceQueryEnd leaves it there.
func (naiveTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

type naivePool struct{ *pgxprovider.Pool }

func (p naivePool) set(ctx context.Context) {
	tenant, _ := pgkeel.GetTenantID(ctx)
	_, _ = p.Pool.Exec(ctx, naiveSQL, tenant)
}

// Query is the pool's.
func (p naivePool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	p.set(ctx)
	return p.Pool.Query(ctx, sql, args...)
}

// Exec is the pool's.
func (p naivePool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	p.set(ctx)
	return p.Pool.Exec(ctx, sql, args...)
}

// A leakSite is a database with tenants, each of which has a row of its own with
// the key 0, and a handle on it.
type leakSite struct {
	mode    tenancy.Mode
	tenants []string
	homes   map[string]string // whose data a tenant's are, if not its own alone
	rls     bool
	schemas bool
	admin   *pgx.Conn
	role    string
	appDSN  string
	views   []leakView
	db      *pgkeel.DB
	ledger  ledger
	news    journal
	count   map[string]*leakCount
}

// A leakView shows every row that there is in a database: whose data it is in, and
// what it says.
type leakView struct {
	conn    *pgx.Conn
	sql     string
	untouch string // undoes updates, and what a tenant wrote as its first row elsewhere
}

// home is whose data a tenant works in.
func (s *leakSite) home(tenant string) string {
	if home, ok := s.homes[tenant]; ok {
		return home
	}
	return tenant
}

// leakSites are the ways to keep tenants apart.
func leakSites() map[string]func(testing.TB) *leakSite {
	return map[string]func(testing.TB) *leakSite{"rls": rlsSite, "schema": schemaSite, "database": databaseSite}
}

type leakCount struct {
	well, ill atomic.Int64
	last      atomic.Value
}

// newLeakSite makes one with a role that is no superuser. The role goes when the
// database, in which it owns everything, is gone.
func newLeakSite(t testing.TB) *leakSite {
	t.Helper()
	role := "leak_" + strings.ToLower(cryptorand.Text())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, err := pgx.Connect(ctx, pgtest.Shared(t).Primary().DSN(""))
		if err == nil {
			_, err = conn.Exec(ctx, "drop role if exists "+role)
			_ = conn.Close(ctx)
		}
		if err != nil {
			t.Error(err)
		}
	})
	dsn := pgtest.NewDB(t)
	s := &leakSite{role: role, count: map[string]*leakCount{}, ledger: ledger{rows: map[int64]*ledgerRow{}}}
	var err error
	if s.admin, err = pgx.Connect(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.admin.Close(context.Background()) })
	s.exec(t, "create role "+role+" login password 'app'; alter role "+role+" set deadlock_timeout = '20ms'")
	s.exec(t, "grant create on schema public to "+role+"; do $$ begin execute format('grant create on database %I to "+role+"', current_database()); end $$")
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "app")
	s.appDSN = u.String()
	return s
}

func (s *leakSite) exec(t testing.TB, sql string) {
	t.Helper()
	if _, err := s.admin.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// asOwner runs SQL as the role of the application, one statement after another.
func (s *leakSite) asOwner(t testing.TB, work func(conn *pgx.Conn) error) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.appDSN)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := work(conn); err != nil {
		t.Fatal(err)
	}
}

const leakColumns = "owner text not null, key bigint not null, touched text, n int not null default 0, primary key (owner, key)"

// rlsSite has one table for all.
func rlsSite(t testing.TB) *leakSite {
	t.Helper()
	s := newLeakSite(t)
	s.rls = true
	s.mode = tenancy.RLS("app.tenant_id")
	s.views = []leakView{{s.admin, "select tenant_id, owner, key, coalesce(touched, owner) from items", "update items set touched = null"}}
	s.asOwner(t, func(conn *pgx.Conn) error {
		_, err := conn.Exec(t.Context(), `create table items (tenant_id text not null default current_setting('app.tenant_id'), `+leakColumns+`);
			create index on items (tenant_id, key)`)
		if err != nil {
			return err
		}
		for i := range leakTenants {
			s.tenants = append(s.tenants, fmt.Sprintf(`O'%d"; -- ü`, i))
		}
		_, err = conn.Exec(t.Context(), "insert into items (tenant_id, owner, key) select t, t, 0 from unnest($1::text[]) t", s.tenants)
		if err != nil {
			return err
		}
		plan, err := tenancy.Policies(t.Context(), conn, tenancy.PolicyOptions{Setting: "app.tenant_id"})
		if err != nil {
			return err
		}
		return plan.Apply(t.Context())
	})
	return s
}

// schemaSite has a table for each.
func schemaSite(t testing.TB) *leakSite {
	t.Helper()
	s := newLeakSite(t)
	s.schemas = true
	s.mode = tenancy.Schema()
	var all, untouch []string
	s.asOwner(t, func(conn *pgx.Conn) error {
		for i := range leakTenants {
			tenant := fmt.Sprintf("t%d", i)
			table := "tenant_" + tenant + ".items"
			_, err := conn.Exec(t.Context(), "create schema tenant_"+tenant+"; create table "+table+" ("+leakColumns+
				"); create index on "+table+" (key); insert into "+table+" (owner, key) values ('"+tenant+"', 0)")
			if err != nil {
				return err
			}
			s.tenants = append(s.tenants, tenant)
			all = append(all, "select '"+tenant+"', owner, key, coalesce(touched, owner) from "+table)
			untouch = append(untouch, "update "+table+" set touched = null; delete from "+table+" where key = 0 and owner <> '"+tenant+"'")
		}
		return nil
	})
	s.views = []leakView{{s.admin, strings.Join(all, " union all "), strings.Join(untouch, "; ")}}
	return s
}

// open opens the handle. It is closed, with every connection back, before the
// database is dropped.
func (s *leakSite) open(t testing.TB, options ...pgkeel.Option) {
	t.Helper()
	s.db = openDSN(t, s.appDSN, append(options, pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: leakPool}), pgkeel.WithLogger(s.news.logger()))...)
}

// report fails the test over every leak, and over connections that were
// forgotten, though the garbage collector found them.
func (s *leakSite) report(t testing.TB) {
	t.Helper()
	s.ledger.report(t)
	if news := s.news.String(); strings.Contains(news, "forgot it") {
		t.Errorf("connections were forgotten:\n%.2000s", news)
	}
}

// work has goroutines work until the time is over.
func (s *leakSite) work(t testing.TB, workers int, d time.Duration) {
	t.Helper()
	paths := s.paths()
	names := slices.Collect(maps.Keys(paths))
	for _, path := range names {
		s.count[path] = &leakCount{}
	}
	over, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var all sync.WaitGroup
	for i := range workers {
		tenant := s.tenants[i%len(s.tenants)]
		all.Go(func() {
			for over.Err() == nil {
				path := names[rand.IntN(len(names))]
				o := &leakOp{s: s, path: path, tenant: s.home(tenant), count: s.count[path]}
				o.run(pgkeel.WithTenantID(t.Context(), tenant), paths[path])
			}
		})
	}
	s.kill(t, over)
	all.Wait()
}

// kill terminates a backend of the handle now and then, until ctx ends.
func (s *leakSite) kill(t testing.TB, ctx context.Context) {
	t.Helper()
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.exec(t, "select pg_terminate_backend(pid) from pg_stat_activity where usename = '"+s.role+"' order by random() limit 1")
		case <-ctx.Done():
			return
		}
	}
}

// lookAtAll compares every row there is with the ledger.
func (s *leakSite) lookAtAll(t testing.TB) {
	t.Helper()
	there := map[int64]bool{}
	for _, view := range s.views {
		rows, err := view.conn.Query(t.Context(), view.sql)
		if err != nil {
			t.Fatal(err)
		}
		var in, owner, touched string
		var key int64
		_, err = pgx.ForEachRow(rows, []any{&in, &owner, &key, &touched}, func() error {
			s.ledger.check("the end", in, owner, key)
			s.ledger.check("the end: updates", in, touched, key)
			there[key] = true
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.ledger.compare(t, there)
}

// A ledger is what is true, as the tenants themselves know it.
type ledger struct {
	mu    sync.Mutex
	last  int64
	rows  map[int64]*ledgerRow
	leaks map[string]int
	first []string
}

type ledgerRow struct {
	tenant  string
	outcome pgkeel.Outcome
	path    string
}

// intend notes that a row is about to be written.
func (l *ledger) intend(tenant, path string) (key int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	l.rows[l.last] = &ledgerRow{tenant, pgkeel.OutcomeUnknown, path}
	return l.last
}

func (l *ledger) settle(key int64, outcome pgkeel.Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows[key].outcome = outcome
}

// anyKey is a key, most likely of another tenant, and whose.
func (l *ledger) anyKey() (key int64, tenant string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == 0 {
		return -1, ""
	}
	key = 1 + rand.Int64N(l.last)
	return key, l.rows[key].tenant
}

// check is for a row that was seen in a tenant's data.
func (l *ledger) check(path, tenant, owner string, key int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	row := l.rows[key]
	if owner != tenant || key != 0 && (row == nil || row.tenant != tenant) {
		l.leakLocked(path, fmt.Sprintf("%q has row %d of %q", tenant, key, owner))
	}
}

func (l *ledger) leak(path, what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leakLocked(path, what)
}

func (l *ledger) leakLocked(path, what string) {
	if l.leaks == nil {
		l.leaks = map[string]int{}
	}
	l.leaks[path]++
	if len(l.first) < 20 {
		l.first = append(l.first, path+": "+what)
	}
}

func (l *ledger) found() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, leaks := range l.leaks {
		n += leaks
	}
	return n
}

func (l *ledger) report(t testing.TB) {
	t.Helper()
	for _, leak := range l.first {
		t.Error(leak)
	}
	if n := l.found(); n > 0 {
		t.Errorf("%d in all: %v", n, l.leaks)
	}
}

// compare tells what was reported of rows from what became of them.
func (l *ledger) compare(t testing.TB, there map[int64]bool) {
	t.Helper()
	var outcomes [4]int
	wrong := 0
	for key, row := range l.rows {
		outcomes[row.outcome]++
		known := row.outcome != pgkeel.OutcomeUnknown
		if known && there[key] != (row.outcome == pgkeel.OutcomeCommitted) {
			if wrong++; wrong < 10 {
				t.Errorf("%s: row %d is there: %v, and was reported as %s", row.path, key, there[key], row.outcome)
			}
		}
	}
	t.Logf("%d rows: %d committed, %d rolled back, %d not sent, %d unknown", len(l.rows), outcomes[pgkeel.OutcomeCommitted],
		outcomes[pgkeel.OutcomeRolledBack], outcomes[pgkeel.OutcomeNotSent], outcomes[pgkeel.OutcomeUnknown])
}
