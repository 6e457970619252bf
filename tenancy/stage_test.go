package tenancy

import (
	"context"
	"crypto/rand"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	pgxprovider "github.com/pgkeel/pgkeel/providers/pgx"
)

// testPatience is how long a condition may take on a slow machine.
const testPatience = 20 * time.Second

// A stage is a database, with a role that is no superuser.
type stage struct {
	app     string    // the role
	admin   *pgx.Conn // connects as a superuser
	dsn     string    // also
	appDSN  string    // connects as the role
	created []string
}

// newStage makes one, and runs setup in it as the superuser, in which APP stands
// for the role.
func newStage(t testing.TB, setup string) *stage {
	t.Helper()
	s := &stage{}
	// Ahead of the database, so that the roles are dropped behind it, when they
	// own nothing any more.
	t.Cleanup(func() { s.dropRoles(t) })
	s.dsn = pgtest.NewDB(t)
	var err error
	if s.admin, err = pgx.Connect(t.Context(), s.dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.admin.Close(context.Background()) })
	s.app = s.role(t, "login password 'app'")
	s.appDSN = s.as(t, s.app)
	s.exec(t, "grant create on schema public to APP; "+setup)
	return s
}

// role makes a role with a name of its own, as roles belong to the server.
func (s *stage) role(t testing.TB, attributes string) string {
	t.Helper()
	name := "r_" + strings.ToLower(rand.Text())
	s.exec(t, "create role "+name+" "+attributes)
	s.created = append(s.created, name)
	return name
}

func (s *stage) dropRoles(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	conn, err := pgx.Connect(ctx, pgtest.Shared(t).Primary().DSN(""))
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(ctx)
	for _, name := range s.created {
		if _, err := conn.Exec(ctx, "drop role "+name); err != nil {
			t.Error(err)
		}
	}
}

// as is the DSN for a role of the stage's.
func (s *stage) as(t testing.TB, role string) string {
	t.Helper()
	u, err := url.Parse(s.dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "app")
	return u.String()
}

// exec runs SQL as the superuser.
func (s *stage) exec(t testing.TB, sql string) {
	t.Helper()
	if _, err := s.admin.Exec(t.Context(), strings.ReplaceAll(sql, "APP", s.app)); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// openWith opens a pool by a mode on the real provider.
func openWith(t testing.TB, mode Mode, cfg providers.Config) (providers.Pool, error) {
	t.Helper()
	pool, err := mode.Open(t.Context(), cfg, pgxOpen)
	if err == nil {
		closeAtEnd(t, pool)
	}
	return pool, err
}

func mustOpen(t testing.TB, mode Mode, cfg providers.Config) providers.Pool {
	t.Helper()
	pool, err := openWith(t, mode, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func pgxOpen(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
	return pgxprovider.Provider{}.Open(ctx, cfg)
}

func closeAtEnd(t testing.TB, pool providers.Pool) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testPatience)
		defer cancel()
		_ = pool.Close(ctx)
	})
}

func tenant(t testing.TB, id string) context.Context {
	t.Helper()
	return providers.WithTenantID(t.Context(), id)
}

func bypass(t testing.TB) context.Context {
	t.Helper()
	return Bypass(t.Context(), "test")
}

// value reads one value.
func value[T any](ctx context.Context, t testing.TB, q providers.Querier, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := q.QueryRow(ctx, sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// handle has the Begin of a pgkeel.DB.
type handle struct{ providers.Pool }

func (h handle) Begin(ctx context.Context, _ ...providers.TxOptions) (providers.Tx, error) {
	return h.Pool.Begin(ctx, providers.TxOptions{})
}

// heap is what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
