package tenancy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	pgxprovider "github.com/pgkeel/pgkeel/providers/pgx"
)

// watchSessions samples the sessions of routers on the server until stop is
// called, which returns the most that were there at once, and the most of them
// that lasted from one sample to the next: a session that was closed takes the
// server a moment to end.
func watchSessions(t *testing.T) (stop func() (most, lasting int)) {
	conn, err := pgx.Connect(t.Context(), pgtest.Shared(t).Primary().DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	var watching sync.WaitGroup
	var most, lasting int
	watching.Go(func() {
		defer conn.Close(context.Background())
		before := map[int]bool{}
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			rows, _ := conn.Query(context.Background(), "select pid from pg_stat_activity where application_name = 'pgkeel-router'")
			pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
			if err != nil {
				t.Error(err)
				return
			}
			now, still := map[int]bool{}, 0
			for _, pid := range pids {
				now[pid] = true
				if before[pid] {
					still++
				}
			}
			before = now
			most, lasting = max(most, len(pids)), max(lasting, still)
		}
	})
	return func() (int, int) {
		close(end)
		watching.Wait()
		return most, lasting
	}
}

// Many databases, more tenants, and even more goroutines, within one limit.
func TestOneLimitOverAllDatabases(t *testing.T) {
	const (
		databases, tenants = 40, 2000
		workers, limit     = 200, 64
	)
	dsns := newTenantDBs(t, databases)
	directory := DirectoryFunc(func(_ context.Context, tenant string) (string, error) {
		var n int
		if _, err := fmt.Sscanf(tenant, "t%d", &n); err != nil || n >= tenants {
			return "", ErrUnknownTenant
		}
		return dsns[n%databases], nil
	})
	r := openRouter(t, directory, providers.Config{Pool: providers.PoolStrategy{MaxSize: 4}}, MaxConnections(limit))
	stop := watchSessions(t)
	var work sync.WaitGroup
	var done atomic.Int64
	until := time.Now().Add(3 * time.Second)
	for range workers {
		work.Go(func() {
			for time.Now().Before(until) {
				n := rand.IntN(tenants)
				ctx := as(t.Context(), fmt.Sprintf("t%d", n))
				got, err := homeOf(ctx, r)
				if err != nil || got != n%databases {
					t.Errorf("tenant t%d is at %d: %v", n, got, err)
					return
				}
				done.Add(1)
			}
		})
	}
	work.Wait()
	most, lasting := stop()
	s, ds := r.Stats(), r.DatabaseStats()
	t.Logf("%d statements; sessions at most %d, lasting %d; %+v; connects %d, open %d", done.Load(), most, lasting, ds, s.Connects, s.Open)
	if lasting > limit {
		t.Errorf("%d sessions lasted at once, over the limit of %d", lasting, limit)
	}
	if s.Open > limit || ds.Permits > limit {
		t.Errorf("%d connections open, %d permits", s.Open, ds.Permits)
	}
}

// Every path leads to the tenant's own database, whoever else is at work.
func TestEveryPathLeadsHome(t *testing.T) {
	const databases = 6
	dsns := newTenantDBs(t, databases)
	directory := DirectoryFunc(func(_ context.Context, tenant string) (string, error) {
		var n int
		_, err := fmt.Sscanf(tenant, "t%d", &n)
		return dsns[n%databases], err
	})
	r := openRouter(t, directory, sized(2), MaxConnections(4))
	var names []string
	for name := range paths {
		names = append(names, name)
	}
	var work sync.WaitGroup
	for worker := range 12 {
		work.Go(func() {
			for i := range 40 {
				n := (worker + i*i) % databases // each a tenant of its own
				ctx := as(t.Context(), fmt.Sprintf("t%d", n))
				if err := livesAt(ctx, r, n); err != nil {
					t.Error(err)
					return
				}
				name := names[rand.IntN(len(names))]
				if err := paths[name](ctx, r); err != nil {
					t.Errorf("%s of tenant %d: %v", name, n, err)
					return
				}
			}
		})
	}
	work.Wait()
	for n, dsn := range dsns {
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		rows, _ := conn.Query(t.Context(), "select distinct n from notes where tenant = 'mine'")
		found, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err != nil || len(found) != 1 || found[0] != n {
			t.Errorf("database %d has notes of %v: %v", n, found, err)
		}
		conn.Close(t.Context())
	}
}

// livesAt writes into the tenant's database by several paths, and looks at each
// where it is.
func livesAt(ctx context.Context, r *Router, want int) error {
	here := func(path string, q providers.Querier) error {
		n, err := homeOf(ctx, q)
		if err == nil && n != want {
			err = fmt.Errorf("%s of tenant %d leads to database %d", path, want, n)
		}
		return err
	}
	const note = "insert into notes values ('mine', $1)"
	if _, err := r.Exec(ctx, note, want); err != nil {
		return err
	}
	if err := here("QueryRow", r); err != nil {
		return err
	}
	conn, err := r.Acquire(ctx)
	if err != nil {
		return err
	}
	err = here("Acquire", conn)
	conn.Release()
	if err != nil {
		return err
	}
	tx, err := r.Begin(ctx, providers.TxOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, note, want); err != nil {
		return err
	}
	if err := here("Begin", tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	started, err := r.BeginWith(ctx, providers.TxOptions{}, providers.Statement{SQL: note, Args: []any{want}})
	if err != nil {
		return err
	}
	defer func() { _ = started.Rollback(ctx) }()
	if err := here("BeginWith", started); err != nil {
		return err
	}
	if err := started.Commit(ctx); err != nil {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(note, want)
	if err := r.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	_, err = r.CopyFrom(ctx, pgx.Identifier{"notes"}, []string{"tenant", "n"}, pgx.CopyFromRows([][]any{{"mine", want}}))
	return err
}

// A transaction or connection of one tenant refuses a statement of another, also
// when both have the same database.
func TestTransactionsStayWithTheirTenant(t *testing.T) {
	dsns := newTenantDBs(t, 2)
	d := newTowns(map[string]string{"a": dsns[0], "b": dsns[1], "same": dsns[0]})
	r := openRouter(t, d, providers.Config{})
	for _, tenant := range []string{"a", "b", "same"} { // everybody is known
		if _, err := homeOf(as(t.Context(), tenant), r); err != nil {
			t.Fatal(err)
		}
	}
	for _, owner := range []string{"a", "same"} {
		tx, err := r.Begin(as(t.Context(), owner), providers.TxOptions{})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := r.Acquire(as(t.Context(), owner))
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range []string{"a", "b", "same", ""} {
			for kind, q := range map[string]providers.Querier{"transaction": tx, "connection": conn} {
				_, err := homeOf(as(t.Context(), other), q)
				if (err == nil) != (other == owner) || err != nil && providers.OutcomeOf(err) != providers.OutcomeNotSent {
					t.Errorf("the %s of %q for %q: %v", kind, owner, other, err)
				}
			}
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Errorf("nobody's context may end it: %v", err)
		}
		conn.Release()
	}
}

func TestATenantThatMovedIsFollowed(t *testing.T) {
	dsns := newTenantDBs(t, 2)
	d := newTowns(map[string]string{"a": dsns[0]})
	r := openRouter(t, d, providers.Config{}, DirectoryTTL(20*time.Millisecond))
	ctx := as(t.Context(), "a")
	tx, err := r.Begin(ctx, providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.set("a", dsns[1])
	atLast(t, "new work goes to the new database", func() bool {
		n, err := homeOf(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		return n == 1
	})
	if n, err := homeOf(ctx, tx); n != 0 || err != nil {
		t.Errorf("the transaction goes on at %d: %v", n, err)
	}
	if s := r.DatabaseStats(); s.Closing != 1 {
		t.Errorf("%+v", s)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Error(err)
	}
	atLast(t, "the old pool is closed", func() bool { return r.DatabaseStats().Closed == 1 })
}

// A tenant whose database takes connections and never answers, and one whose
// database does not exist, harm nobody else.
func TestOneTenantsDatabaseIsDown(t *testing.T) {
	dsns := newTenantDBs(t, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // the backlog takes them, nobody answers
	d := newTowns(map[string]string{
		"good": dsns[0], "black": "postgres://postgres@" + l.Addr().String() + "/db?sslmode=disable",
		"gone": strings.Replace(dsns[0], "/pgtest_", "/none_", 1),
	})
	r := openRouter(t, d, providers.Config{ConnectTimeout: 5 * time.Second, Pool: providers.PoolStrategy{MaxSize: 4}}, MaxConnections(8))
	var work sync.WaitGroup
	end := time.Now().Add(2 * time.Second)
	for _, tenant := range []string{"black", "gone"} {
		for range 20 {
			work.Go(func() {
				for time.Now().Before(end) {
					_, err := homeOf(as(t.Context(), tenant), r)
					if !errors.Is(err, providers.ErrUnreachable) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
						t.Errorf("%s: %v", tenant, err)
						return
					}
				}
			})
		}
	}
	var longest time.Duration
	for time.Now().Before(end) {
		began := time.Now()
		if n, err := homeOf(as(t.Context(), "good"), r); n != 0 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		longest = max(longest, time.Since(began))
	}
	work.Wait()
	t.Logf("the good tenant waited %s at most", longest)
	if longest > 4*time.Second { // less than it takes to give up on another's
		t.Errorf("the good tenant waited %s", longest)
	}
}

// A control database that is gone leaves those that it told of at work.
func TestDirectoryTableOfARealDatabase(t *testing.T) {
	dsns := newTenantDBs(t, 2)
	control, err := pgxprovider.Open(t.Context(), providers.Config{DSN: dsns[1], AcquireTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx := as(t.Context(), "a")
	for _, sql := range []string{
		"create table tenants (id text primary key, dsn text)",
		fmt.Sprintf("insert into tenants values ('a', '%s'), ('none', null)", dsns[0]),
	} {
		if _, err := control.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	r := openRouter(t, DirectoryTable(control, "select dsn from tenants where id = $1"), providers.Config{}, DirectoryTTL(time.Millisecond))
	if n, err := homeOf(ctx, r); n != 0 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	for _, tenant := range []string{"none", "b"} {
		if _, err := homeOf(as(t.Context(), tenant), r); !errors.Is(err, ErrUnknownTenant) {
			t.Errorf("%s: %v", tenant, err)
		}
	}
	if err := control.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	atLast(t, "the stale answer is used", func() bool {
		if n, err := homeOf(ctx, r); n != 0 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		return r.DatabaseStats().Stale > 0
	})
	if _, err := homeOf(as(t.Context(), "b"), r); !errors.Is(err, providers.ErrPoolClosed) || errors.Is(err, ErrUnknownTenant) {
		t.Error(err)
	}
}

// What is taken from the pool itself is part of the limit, and stays the tenant's.
func TestPoolForThoseWhoNeedIt(t *testing.T) {
	dsns := newTenantDBs(t, 2)
	r := openRouter(t, newTowns(map[string]string{"a": dsns[0], "b": dsns[1]}),
		providers.Config{AcquireTimeout: testPatience, Pool: providers.PoolStrategy{MaxSize: 1}}, MaxConnections(1))
	pool, release, err := r.PoolFor(as(t.Context(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pool.(providers.Unwrapper).Unwrap().Acquire(as(t.Context(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(as(t.Context(), "b"), 50*time.Millisecond)
	defer cancel()
	if _, err := homeOf(short, r); !errors.Is(err, providers.ErrPoolExhausted) {
		t.Errorf("the limit is one: %v", err)
	}
	conn.Release()
	if _, err := pool.(providers.Unwrapper).Unwrap().Acquire(as(t.Context(), "b")); !errors.Is(err, errOtherTenant) {
		t.Errorf("the pool of a for b: %v", err)
	}
	release()
	if n, err := homeOf(as(t.Context(), "b"), r); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
