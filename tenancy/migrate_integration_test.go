package tenancy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// files is a file system of names and texts.
func files(pairs ...string) fs.FS {
	m := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return m
}

// addTenants makes schemas for n tenants at once.
func addTenants(t testing.TB, s *stage, a *Schemas, n int) {
	t.Helper()
	if err := a.Create(t.Context(), "t0"); err != nil { // and the registry
		t.Fatal(err)
	}
	const at = 500 // PostgreSQL locks each in a transaction
	for from := 1; from < n; from += at {
		s.exec(t, fmt.Sprintf(`set role APP; do $$ begin for i in %d..%d loop
			execute format('create schema tenant_t%%s', i); insert into pgkeel.tenants (tenant, schema) values ('t' || i, 'tenant_t' || i);
		end loop; end $$; reset role`, from, min(from+at, n)-1))
	}
}

const (
	usersSQL  = `create table users (id int primary key, name text); insert into users values (1, current_schema());`
	ordersSQL = `create table orders (id int primary key, user_id int references users);`
)

func TestMigrateHundredsOfSchemas(t *testing.T) {
	s, pool, a := administered(t)
	const n = 300
	addTenants(t, s, a, n)
	var seen []MigrateProgress
	o := MigrateOptions{
		FS:       files("001_users.sql", usersSQL, "002_orders.sql", ordersSQL, "readme.txt", "not SQL", "old/000.sql", "not in the root"),
		Progress: func(p MigrateProgress) { seen = append(seen, p) },
	}
	report, err := a.Migrate(t.Context(), o)
	if err != nil || report != (MigrateReport{Total: n, Migrated: n}) {
		t.Fatalf("%+v %v", report, err)
	}
	if len(seen) != n || seen[n-1].Done != n || seen[n-1].Total != n || seen[0].Done != 1 || seen[0].Tenant == "" || seen[n-1].Elapsed < seen[0].Elapsed {
		t.Errorf("%d: %+v", len(seen), seen[len(seen)-1])
	}
	for _, id := range []string{"t0", "t7", "t299"} {
		if got := value[string](tenant(t, id), t, pool, `select name from users left join orders on user_id = users.id`); got != "tenant_"+id {
			t.Errorf("%s: %q", id, got)
		}
	}
	report, err = a.Migrate(t.Context(), o)
	if err != nil || report != (MigrateReport{Total: n, UpToDate: n}) || len(seen) != n {
		t.Errorf("a second time: %+v %v", report, err)
	}
	o.Tenants = []string{"t1", "t2"}
	o.FS = files("001_users.sql", usersSQL, "0015_between.sql", "create table b ()", "002_orders.sql", ordersSQL)
	if report, err = a.Migrate(t.Context(), o); err != nil || report != (MigrateReport{Total: 2, Migrated: 2}) {
		t.Errorf("a few: %+v %v", report, err)
	}
	o.Tenants = []string{"t1", "nobody"}
	if _, err = a.Migrate(t.Context(), o); err == nil || !strings.Contains(err.Error(), `tenant "nobody" has no schema`) {
		t.Error(err)
	}
}

// What fails in one schema does not stop the others, is undone, and is done by
// the next run.
func TestMigrateGoesOnWhereItFailed(t *testing.T) {
	s, pool, a := administered(t)
	addTenants(t, s, a, 10)
	for _, id := range []string{"t3", "t7"} {
		if _, err := pool.Exec(tenant(t, id), `create table orders (in_the_way int)`); err != nil {
			t.Fatal(err)
		}
	}
	o := MigrateOptions{FS: files("1.sql", usersSQL, "2.sql", "create table half (); "+ordersSQL)}
	report, err := a.Migrate(t.Context(), o)
	var failed *MigrateError
	if !errors.As(err, &failed) || report != (MigrateReport{Total: 10, Migrated: 8, Failed: 2}) || failed.MigrateReport != report {
		t.Fatalf("%+v %v", report, err)
	}
	var ids []string
	for _, f := range failed.Tenants {
		ids = append(ids, f.Tenant+" "+f.Schema+" "+f.File)
		pg := providers.NewPGError(f)
		if pg == nil || pg.Code != "42P07" || providers.OutcomeOf(f) != providers.OutcomeRolledBack {
			t.Errorf("%v", f)
		}
	}
	slices.Sort(ids)
	if !slices.Equal(ids, []string{"t3 tenant_t3 2.sql", "t7 tenant_t7 2.sql"}) {
		t.Errorf("%q", ids)
	}
	var one *TenantError
	if !errors.As(err, &one) || !strings.Contains(err.Error(), "2 of 10 schemas could not be migrated, 0 were not begun") {
		t.Error(err)
	}
	// The file before it stays, its first statement does not.
	if got := value[bool](tenant(t, "t3"), t, pool, `select to_regclass('users') is not null and to_regclass('half') is null`); !got {
		t.Error("t3 is not at the first file")
	}
	for _, id := range []string{"t3", "t7"} {
		if _, err := pool.Exec(tenant(t, id), `drop table orders`); err != nil {
			t.Fatal(err)
		}
	}
	if report, err = a.Migrate(t.Context(), o); err != nil || report != (MigrateReport{Total: 10, UpToDate: 8, Migrated: 2}) {
		t.Errorf("%+v %v", report, err)
	}
}

func TestMigrateStopsOnError(t *testing.T) {
	s, _, a := administered(t)
	addTenants(t, s, a, 5)
	report, err := a.Migrate(t.Context(), MigrateOptions{FS: files("1.sql", "select 1/0"), Parallel: 1, StopOnError: true})
	if report != (MigrateReport{Total: 5, Failed: 1}) || err == nil || !strings.Contains(err.Error(), "4 were not begun") {
		t.Errorf("%+v %v", report, err)
	}
}

func TestMigrateCanBeInterrupted(t *testing.T) {
	s, _, a := administered(t)
	addTenants(t, s, a, 20)
	ctx, cancel := context.WithCancel(t.Context())
	o := MigrateOptions{FS: files("1.sql", usersSQL), Parallel: 1, Progress: func(p MigrateProgress) {
		if p.Done == 3 {
			cancel()
		}
	}}
	report, err := a.Migrate(ctx, o)
	if !errors.Is(err, context.Canceled) || report != (MigrateReport{Total: 20, Migrated: 3}) {
		t.Errorf("%+v %v", report, err)
	}
	if report, err = a.Migrate(t.Context(), o); err != nil || report != (MigrateReport{Total: 20, UpToDate: 3, Migrated: 17}) {
		t.Errorf("%+v %v", report, err)
	}
}

func TestMigrateRefusesAChangedFile(t *testing.T) {
	s, pool, a := administered(t)
	addTenants(t, s, a, 7)
	if _, err := a.Migrate(t.Context(), MigrateOptions{FS: files("1.sql", usersSQL)}); err != nil {
		t.Fatal(err)
	}
	report, err := a.Migrate(t.Context(), MigrateOptions{FS: files("0.sql", "create table early ()", "1.sql", usersSQL+" ")})
	if !errors.Is(err, ErrMigrationChanged) || report.Failed != 7 || !strings.Contains(err.Error(), "and 2 more") {
		t.Errorf("%+v %v", report, err)
	}
	if value[bool](tenant(t, "t1"), t, pool, `select to_regclass('early') is not null`) {
		t.Error("a file was applied beside one that was changed")
	}
}

// Two runs at a time share the work, and each file is applied once.
func TestMigrateTwiceAtTheSameTime(t *testing.T) {
	s, pool, a := administered(t)
	addTenants(t, s, a, 40)
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			report, err := a.Migrate(t.Context(), MigrateOptions{FS: files("1.sql", usersSQL, "2.sql", ordersSQL)})
			if err != nil || report.Migrated+report.UpToDate != 40 {
				t.Errorf("%+v %v", report, err)
			}
		})
	}
	both.Wait()
	if n := value[int](bypass(t), t, pool, `select count(*)::int from pgkeel.migrations`); n != 80 {
		t.Errorf("%d files are noted", n)
	}
}

// More at a time than the pool has connections would wait for these.
func TestMigrateKnowsTheSizeOfThePool(t *testing.T) {
	s, pool, a := administered(t) // of 8
	for given, want := range map[int]int{0: DefaultMigrateParallel, 3: 3, 100: 8} {
		r := migration{schemas: a, options: MigrateOptions{Parallel: given}}
		if got := r.parallel(); got != want {
			t.Errorf("%d instead of %d", got, want)
		}
		r.schemas = &Schemas{db: s.admin} // which does not tell
		if got := r.parallel(); got != cmp.Or(given, DefaultMigrateParallel) {
			t.Errorf("%d without statistics", got)
		}
	}
	addTenants(t, s, a, 3)
	if report, err := a.Migrate(t.Context(), MigrateOptions{FS: files("1.sql", usersSQL), Parallel: 100}); err != nil || report.Migrated != 3 {
		t.Errorf("%+v %v", report, err)
	}
	if n := value[int](bypass(t), t, pool, `select count(*)::int from pgkeel.migrations`); n != 3 {
		t.Errorf("%d files are noted", n)
	}
}

func TestMigrateByAFunction(t *testing.T) {
	s, pool, a := administered(t)
	addTenants(t, s, a, 4)
	var mu sync.Mutex
	var called []string
	o := MigrateOptions{FS: files("1.sql", usersSQL), FuncName: "names", Func: func(ctx context.Context, tx providers.Querier, schema TenantSchema) error {
		mu.Lock()
		called = append(called, schema.Tenant)
		mu.Unlock()
		_, err := tx.Exec(ctx, `insert into users values (2, $1)`, schema.Tenant)
		return err
	}}
	for range 2 {
		if _, err := a.Migrate(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(called)
	if !slices.Equal(called, []string{"t0", "t1", "t2", "t3"}) {
		t.Errorf("%q", called)
	}
	if got := value[string](tenant(t, "t2"), t, pool, `select name from users where id = 2`); got != "t2" {
		t.Errorf("%q", got)
	}
}

// Without the schema, what a file creates would land in the next of the path.
func TestMigrateNeedsTheSchema(t *testing.T) {
	s, pool, a := administered(t, SharedSchemas("public"))
	addTenants(t, s, a, 2)
	s.exec(t, `drop schema tenant_t1`)
	report, err := a.Migrate(t.Context(), MigrateOptions{FS: files("1.sql", usersSQL)})
	if report.Failed != 1 || err == nil || !strings.Contains(err.Error(), "the schema does not exist") {
		t.Errorf("%+v %v", report, err)
	}
	if value[bool](bypass(t), t, pool, `select to_regclass('public.users') is not null`) {
		t.Error("a tenant's table is in public")
	}
}

// A file that ends its transaction would have no note of what it did. A handle
// that is not confined lets it pass.
func TestMigrateRefusesTransactionControl(t *testing.T) {
	s, pool, a := administered(t)
	addTenants(t, s, a, 1)
	free, err := pgxOpen(t.Context(), providers.Config{DSN: s.appDSN})
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, free)
	o := MigrateOptions{FS: files("1.sql", "create table t (); commit")}
	_, err = mustAdminister(t, free).Migrate(t.Context(), o)
	if !errors.Is(err, errEndedTx) || providers.OutcomeOf(err) != providers.OutcomeUnknown {
		t.Error(err)
	}
	if _, err = a.Migrate(t.Context(), o); err == nil {
		t.Error("it was done twice")
	}
	if n := value[int](bypass(t), t, pool, `select count(*)::int from pgkeel.migrations`); n != 0 {
		t.Errorf("%d files are noted", n)
	}
}

func TestMigrateOptionsAreChecked(t *testing.T) {
	_, _, a := administered(t)
	run := func(context.Context, providers.Querier, TenantSchema) error { return nil }
	for field, o := range map[string]MigrateOptions{
		"Tenancy.Migrate":          {},
		"Tenancy.Migrate.FS":       {FS: files("a.txt", "")},
		"Tenancy.Migrate.Parallel": {FS: files("1.sql", ""), Parallel: -1},
		"Tenancy.Migrate.FuncName": {Func: run},
	} {
		requireMigrateFault(t, a, o, field)
	}
	requireMigrateFault(t, a, MigrateOptions{FuncName: "x", FS: files("1.sql", "")}, "Tenancy.Migrate.FuncName")
	requireMigrateFault(t, a, MigrateOptions{FuncName: "1.sql", Func: run, FS: files("1.sql", "")}, "Tenancy.Migrate.FuncName")
	requireMigrateFault(t, a, MigrateOptions{FS: files("dir.sql/1", "")}, "Tenancy.Migrate.FS")
	requireMigrateFault(t, a, MigrateOptions{FS: os.DirFS("missing")}, "Tenancy.Migrate.FS")
}

func requireMigrateFault(t *testing.T, a *Schemas, o MigrateOptions, field string) {
	t.Helper()
	_, err := a.Migrate(t.Context(), o)
	var fault *providers.ConfigError
	if !errors.As(err, &fault) || fault.Field != field {
		t.Errorf("%s: %v", field, err)
	}
}

func TestMigrateThatCannotRead(t *testing.T) {
	s, _, a := administered(t)
	addTenants(t, s, a, 2)
	o := MigrateOptions{FS: files("1.sql", usersSQL)}
	s.exec(t, `alter table pgkeel.migrations rename column checksum to sum`)
	if _, err := a.Migrate(t.Context(), o); err == nil || !strings.Contains(err.Error(), "could not be read, so nothing was") {
		t.Error(err)
	}
	s.exec(t, `alter table pgkeel.migrations rename column sum to checksum; alter table pgkeel.tenants rename column schema to s`)
	if _, err := a.Migrate(t.Context(), o); err == nil || !strings.Contains(err.Error(), "could not be read, so nothing was") {
		t.Error(err)
	}
}

// TestMigrateThousandsOfSchemas measures what docs/multi-tenancy.md tells.
func TestMigrateThousandsOfSchemas(t *testing.T) {
	const n = 5000
	s, pool, a := administered(t)
	began := time.Now()
	addTenants(t, s, a, n)
	t.Logf("%d schemas made in %s", n, time.Since(began).Round(time.Millisecond))
	before := heap()
	o := MigrateOptions{FS: files("1.sql", usersSQL)}
	var most uint64
	var slowest time.Duration
	last := time.Duration(0)
	o.Progress = func(p MigrateProgress) {
		if p.Done%500 == 0 {
			most = max(most, heap())
			slowest = max(slowest, p.Elapsed-last)
			last = p.Elapsed
		}
	}
	began = time.Now()
	report, err := a.Migrate(t.Context(), o)
	if err != nil || report != (MigrateReport{Total: n, Migrated: n}) {
		t.Fatalf("%+v %v", report, err)
	}
	t.Logf("migrated in %s, the slowest 500 in %s, %d kB of heap more", time.Since(began).Round(time.Millisecond), slowest, int64(most-before)/1024)
	began = time.Now()
	if report, err = a.Migrate(t.Context(), o); err != nil || report.UpToDate != n {
		t.Errorf("%+v %v", report, err)
	}
	t.Logf("nothing to do found in %s", time.Since(began).Round(time.Millisecond))
	for _, id := range []string{"t1", "t4999"} {
		if got := value[string](tenant(t, id), t, pool, `select name from users`); got != "tenant_"+id {
			t.Errorf("%s: %q", id, got)
		}
	}
	if most > before+32<<20 {
		t.Errorf("%d MB of heap", (most-before)>>20)
	}
}
