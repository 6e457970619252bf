//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func databaseOf(t *testing.T, dsn string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	must(t, err)
	return cfg.Database
}

func exists(t *testing.T, name string) bool {
	t.Helper()
	admin := connect(t, Shared(t).Primary().DSN(""))
	return get[bool](t, admin, `select exists (select from pg_database where datname = $1)`, name)
}

func TestNewDBIsFreshAndDropped(t *testing.T) {
	var names []string
	for i := range 2 {
		t.Run(fmt.Sprint("Case ", i, strings.Repeat("ä", 40)), func(t *testing.T) {
			dsn := NewDB(t)
			names = append(names, databaseOf(t, dsn))
			conn := connect(t, dsn)
			mustExec(t, conn, `create table only_here (n int)`)
			if !exists(t, names[i]) || len(names[i]) > maxIdentifier {
				t.Errorf("a strange name: %s", names[i])
			}
			// The connection stays open: it must not keep the database.
		})
	}
	if names[0] == names[1] || exists(t, names[0]) || exists(t, names[1]) {
		t.Errorf("not dropped: %v", names)
	}
}

func TestNewDBOnAClusterOfItsOwn(t *testing.T) {
	c := New(t, Options{})
	dsn := c.NewDB(t)
	if get[string](t, connect(t, dsn), `select current_setting('port')`) != fmt.Sprint(c.Primary().Port()) {
		t.Error("on another cluster")
	}
	must(t, c.Close(t.Context())) // before the cleanup drops the database
}

func TestCloneTime(t *testing.T) {
	Shared(t)
	var times []time.Duration
	for range 20 {
		begun := time.Now()
		NewDB(t)
		times = append(times, time.Since(begun))
	}
	slices.Sort(times)
	t.Logf("a fresh database: median %v, worst %v", times[len(times)/2].Round(100*time.Microsecond), times[len(times)-1].Round(100*time.Microsecond))
}

func TestTemplateIsBuiltOnce(t *testing.T) {
	var built atomic.Int32
	tpl := NewTemplate(func(ctx context.Context, dsn string) error {
		built.Add(1)
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, `create table seeded as select generate_series(1, 10) as n`)
		return errors.Join(err, conn.Close(ctx))
	})
	t.Run("group", func(t *testing.T) {
		for i := range 4 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				conn := connect(t, tpl.NewDB(t))
				mustExec(t, conn, `insert into seeded values (11)`)
				if got := get[int](t, conn, `select count(*) from seeded`); got != 11 {
					t.Errorf("%d rows", got)
				}
			})
		}
	})
	if built.Load() != 1 {
		t.Errorf("built %d times", built.Load())
	}
}

func TestOutsideServer(t *testing.T) {
	server := New(t, Options{Password: "secret"})
	dsn := server.Primary().DSN("")
	c, err := outsideCluster(t.Context(), dsn)
	must(t, err)
	name := ""
	t.Run("database", func(t *testing.T) {
		own := c.NewDB(t)
		name = databaseOf(t, own)
		if get[string](t, connect(t, own), `select current_database()`) != name {
			t.Error("connected elsewhere")
		}
	})
	c.templates = []string{"left"}
	must(t, c.createDatabase(t.Context(), "left", ""))
	must(t, c.Close(t.Context()))
	left := get[int](t, connect(t, dsn), `select count(*) from pg_database where datname in ($1, 'left')`, name)
	if left != 0 {
		t.Errorf("%d databases are left", left)
	}
	if _, err := outsideCluster(t.Context(), "postgres://postgres:wrong@127.0.0.1:"+fmt.Sprint(server.Primary().Port())); err == nil || !strings.Contains(err.Error(), outsideEnv) {
		t.Errorf("an outside server that refuses: %v", err)
	}
}

func TestSetupAndCleanupTestDB(t *testing.T) {
	name := ""
	t.Run("by itself", func(t *testing.T) {
		db := SetupTestDB(t)
		must(t, db.QueryRowContext(t.Context(), `select current_database()`).Scan(&name))
	})
	if exists(t, name) {
		t.Error("not dropped at the end of the test")
	}
	db := SetupTestDB(t)
	must(t, db.QueryRowContext(t.Context(), `select current_database()`).Scan(&name))
	CleanupTestDB(t, db)
	CleanupTestDB(t, db)
	CleanupTestDB(t, nil)
	if exists(t, name) {
		t.Error("not dropped by an early call")
	}
	if err := db.PingContext(t.Context()); err == nil {
		t.Error("the handle is still open")
	}
}

func TestCreateTestTenant(t *testing.T) {
	db := SetupTestDB(t)
	ids := []string{"acme", `O'Brien "& Sons"; drop schema public`, "select", "Größe", strings.Repeat("x", 63)}
	for _, id := range append(ids, "acme") {
		CreateTestTenant(t, db, id)
	}
	for _, id := range ids {
		var row, schema bool
		must(t, db.QueryRowContext(t.Context(), `select exists (select from tenants where id = $1),
			exists (select from information_schema.schemata where schema_name = $1)`, id).Scan(&row, &schema))
		if !row || !schema {
			t.Errorf("%q: row %v, schema %v", id, row, schema)
		}
	}
	for _, id := range []string{"", "a\x00b", strings.Repeat("x", 64), "\xff", "pg_own", "public", "information_schema"} {
		if err := createTenant(t.Context(), db, id); err == nil || !strings.Contains(err.Error(), "tenant id") {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := createTenant(t.Context(), nil, "acme"); err == nil {
		t.Error("no error without a database")
	}
	CleanupTestDB(t, db)
	if err := createTenant(t.Context(), db, "acme"); err == nil {
		t.Error("no error on a closed handle")
	}
}

func TestCreateTestTenantByManyAtOnce(t *testing.T) {
	db := SetupTestDB(t)
	errs := make(chan error)
	for i := range 8 {
		go func() { errs <- createTenant(t.Context(), db, fmt.Sprint("tenant ", i%2)) }()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestCreateDatabaseSaysWhich(t *testing.T) {
	c := Shared(t)
	var pgErr *pgconn.PgError
	err := c.createDatabase(t.Context(), "postgres", "")
	if !errors.As(err, &pgErr) || pgErr.Code != "42P04" || !strings.Contains(err.Error(), `create database "postgres"`) {
		t.Errorf("got %v", err)
	}
}
