package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// victim and neighbour are tenants with an order each.
const victim, neighbour = "victim", "neighbour"

// fuzzSite is a pool with one connection to a database, and what only its server
// knows.
type fuzzSite struct {
	pool providers.Pool
	// stays are queries for what is to be the same after each tenant.
	stays map[string]*pgx.Conn
	// accepts says whether an id is a tenant, and makes it one.
	accepts func(t *testing.T, id string) bool
	// forget undoes that.
	forget func(t *testing.T, id string)
	// ownerOf says whose an item is, by the id of whom it should be.
	ownerOf func(t *testing.T, id, item string) string
	// sees are all items that a tenant sees.
	sees string

	before map[string]string
}

const (
	insertOrder = "insert into orders (item) values ($1)"
	deleteOrder = "delete from orders where item = $1"
	visible     = "select coalesce(string_agg(item, ', ' order by item), '') from orders"
	everything  = `select concat((select count(*) from pg_class), ' ', (select count(*) from pg_policy), ' ',
		string_agg(concat_ws(' ', tenant_id, item), ', ' order by item)) from orders`
	// leftover is what a session has without a tenant, and what it was ever asked.
	leftover = `select concat(current_setting('app.tenant_id', true), current_setting('pgkeel.tenant', true), current_setting('search_path'), ': ',
		(select string_agg(distinct statement, '; ' order by statement) from pg_catalog.pg_prepared_statements))`
)

// FuzzTenantsOnAServer: whatever the id, the server does what it is asked to do,
// for this tenant alone, or nothing at all. The next one on the connection finds
// nothing of it.
func FuzzTenantsOnAServer(f *testing.F) {
	for _, id := range []string{
		"a", victim, neighbour, "", " ", "'", `"`, `''`, `""`, `'; drop table orders; --`, `victim'; commit; drop table orders; --`,
		`victim", "neighbour`, `"victim"`, `victim, neighbour`, "victim\x00", "\x00", "vict\x00im", "Victim", "victim ", " victim", "victim\n",
		"vi\u0441tim", "vi\u0301ctim", "v\u00edctim", "\u202evictim", "victim\u200b", "\xff", "victim\xff", "\xed\xa0\x80", "🐘", "$1", "%s", `\`, `E'\''`, "$$", "$user",
		"public", "pg_catalog", "PG_TEMP", "information_schema", "pgkeel", "none", "default", "null", "tenant_victim", "on", "0",
		strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("é", 127), strings.Repeat("'", 255), strings.Repeat("a", 256), strings.Repeat("'", 1<<20),
	} {
		f.Add(id)
	}
	sites := map[string]*fuzzSite{"rls": fuzzRLS(f), "schema": fuzzSchemas(f), "database": fuzzDatabases(f)}
	for _, s := range sites {
		s.remember(f)
	}
	count := 0
	f.Fuzz(func(t *testing.T, id string) {
		count++
		for name, s := range sites {
			if err := s.try(t, id, fmt.Sprint("item ", count)); err != nil {
				t.Errorf("%s: the tenant %.300q: %v", name, id, err)
			}
		}
	})
}

// remember notes what is there, once every statement has been made.
func (s *fuzzSite) remember(f *testing.F) {
	f.Helper()
	for _, sql := range []string{insertOrder, deleteOrder} {
		if _, err := s.pool.Exec(as(f.Context(), neighbour), sql, "first"); err != nil {
			f.Fatal(err)
		}
	}
	value[string](as(f.Context(), neighbour), f, s.pool, s.sees)
	s.now(f)
	s.before = s.now(f)
}

// now is what there is, in the database and in the session.
func (s *fuzzSite) now(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{leftover: value[string](bypass(t), t, s.pool, leftover)}
	for sql, conn := range s.stays {
		found[sql] = value[string](t.Context(), t, conn, sql)
	}
	return found
}

// try lets the tenant write and read, and looks at what became of it.
func (s *fuzzSite) try(t *testing.T, id, item string) error {
	t.Helper()
	ctx := as(t.Context(), id)
	if !s.accepts(t, id) {
		_, err := s.pool.Exec(ctx, insertOrder, item)
		if err == nil || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			return fmt.Errorf("was not refused: %w", err)
		}
		return s.unchanged(t)
	}
	if _, err := s.pool.Exec(ctx, insertOrder, item); err != nil {
		return err
	}
	if owner := s.ownerOf(t, id, item); owner != id {
		return fmt.Errorf("its order became one of %q", owner)
	}
	if got := value[string](ctx, t, s.pool, s.sees); got != item+ownOrder(id) {
		return fmt.Errorf("it sees %q", got)
	}
	if _, err := s.pool.Exec(ctx, deleteOrder, item); err != nil {
		return err
	}
	s.forget(t, id)
	return s.unchanged(t)
}

// ownOrder is what a tenant has had all along.
func ownOrder(id string) string {
	if id == victim || id == neighbour {
		return ", of the " + id
	}
	return ""
}

func (s *fuzzSite) unchanged(t *testing.T) error {
	t.Helper()
	for _, id := range []string{victim, neighbour} {
		if got := value[string](as(t.Context(), id), t, s.pool, s.sees); ", "+got != ownOrder(id) {
			return fmt.Errorf("behind it %s sees %q", id, got)
		}
	}
	for what, now := range s.now(t) {
		if now != s.before[what] {
			return fmt.Errorf("behind it %s is %q, not %q", what, now, s.before[what])
		}
	}
	return nil
}

func isTenant(id string) bool {
	return id != "" && len(id) <= 255 && utf8.ValidString(id) && !strings.Contains(id, "\x00")
}

func nothingToForget(*testing.T, string) {}

func fuzzRLS(f *testing.F) *fuzzSite {
	s := newStage(f, `create table orders (tenant_id text not null default current_setting('app.tenant_id'), item text not null);
		alter table orders owner to APP; insert into orders values ('victim', 'of the victim'), ('neighbour', 'of the neighbour')`)
	s.policies(f, PolicyOptions{})
	return &fuzzSite{
		pool:    mustOpen(f, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN, Pool: providers.PoolStrategy{MaxSize: 1}}),
		stays:   map[string]*pgx.Conn{everything: s.admin},
		accepts: func(_ *testing.T, id string) bool { return isTenant(id) },
		forget:  nothingToForget,
		ownerOf: func(t *testing.T, _, item string) string {
			return value[string](t.Context(), t, s.admin, "select tenant_id from orders where item = $1", item)
		},
		sees: visible,
	}
}

// fuzzSchemas has a schema whose name is the id itself.
func fuzzSchemas(f *testing.F) *fuzzSite {
	s := newStage(f, "")
	create := func(t testing.TB, id string) {
		quoted := pgx.Identifier{id}.Sanitize()
		s.exec(t, "create schema "+quoted+"; grant usage on schema "+quoted+" to APP; create table "+quoted+".orders (tenant_id text, item text not null); grant all on "+quoted+".orders to APP")
	}
	for _, id := range []string{victim, neighbour} {
		create(f, id)
		s.exec(f, "insert into "+id+".orders (item) values ('of the "+id+"')")
	}
	mode := newSchemaMode([]SchemaOption{SchemaName(func(id string) (string, error) { return id, nil })})
	there := func(id string) bool { return id == victim || id == neighbour }
	return &fuzzSite{
		pool:  mustOpen(f, mode, providers.Config{DSN: s.appDSN, Pool: providers.PoolStrategy{MaxSize: 1}}),
		stays: map[string]*pgx.Conn{strings.ReplaceAll(everything, "from orders", "from victim.orders"): s.admin, "select item from neighbour.orders": s.admin},
		accepts: func(t *testing.T, id string) bool {
			_, err := mode.schemaOf(id)
			if err != nil || !isTenant(id) {
				return false
			}
			if !there(id) {
				create(t, id)
			}
			return true
		},
		forget: func(t *testing.T, id string) {
			if !there(id) {
				s.exec(t, "drop schema "+pgx.Identifier{id}.Sanitize()+" cascade")
			}
		},
		ownerOf: func(t *testing.T, id, item string) string {
			if value[int](t.Context(), t, s.admin, "select count(*) from "+pgx.Identifier{id}.Sanitize()+".orders where item = $1", item) != 1 {
				return ""
			}
			return id
		},
		sees: visible,
	}
}

// fuzzDatabases has the victim in a database, and everybody else in another, by
// the table of a directory.
func fuzzDatabases(f *testing.F) *fuzzSite {
	dsns := newTenantDBs(f, 2)
	conns := make([]*pgx.Conn, len(dsns))
	for i, dsn := range dsns {
		conn, err := pgx.Connect(f.Context(), dsn)
		if err != nil {
			f.Fatal(err)
		}
		f.Cleanup(func() { _ = conn.Close(context.Background()) })
		_, err = conn.Exec(f.Context(), "create table orders (tenant_id text not null default current_setting('pgkeel.tenant'), item text not null); create table tenants (id text primary key, dsn text)")
		if err != nil {
			f.Fatal(err)
		}
		conns[i] = conn
	}
	register := func(t testing.TB, id, dsn string) {
		if _, err := conns[0].Exec(t.Context(), "insert into tenants values ($1, $2) on conflict do nothing", id, dsn); err != nil {
			t.Fatal(err)
		}
	}
	control := mustOpen(f, passMode{}, providers.Config{DSN: dsns[0]})
	r := openRouter(f, DirectoryTable(control, "select dsn from tenants where id = $1"), sized(1), MaxConnections(2), AdminDSN(dsns[1]))
	for i, names := range [][]string{{"first", victim}, {"first too", neighbour}} {
		for _, id := range names { // whoever is the first of a database has no setting
			register(f, id, dsns[i])
			if _, err := homeOf(as(f.Context(), id), r); err != nil {
				f.Fatal(err)
			}
		}
		if _, err := conns[i].Exec(f.Context(), "insert into orders values ($1, $2)", names[1], "of the "+names[1]); err != nil {
			f.Fatal(err)
		}
	}
	known := []string{victim, neighbour}
	return &fuzzSite{
		pool:  r,
		stays: map[string]*pgx.Conn{everything: conns[1], everything + " where tenant_id <> ''": conns[0]},
		accepts: func(t *testing.T, id string) bool {
			if !isTenant(id) {
				return false
			}
			if slices.Contains(known, id) {
				return true
			}
			if _, err := r.Exec(as(t.Context(), id), insertOrder, "of nobody"); !errors.Is(err, ErrUnknownTenant) {
				t.Errorf("%q is unknown: %v", id, err)
			}
			register(t, id, dsns[1])
			known = append(known, id)
			return true
		},
		forget: nothingToForget,
		ownerOf: func(t *testing.T, id, item string) string {
			home := conns[1]
			if id == victim {
				home = conns[0]
			}
			return value[string](t.Context(), t, home, "select tenant_id from orders where item = $1", item)
		},
		sees: visible + " where tenant_id = current_setting('pgkeel.tenant')",
	}
}

// passMode keeps nobody apart.
type passMode struct{}

// Open opens the pool.
func (passMode) Open(ctx context.Context, cfg providers.Config, open Opener) (providers.Pool, error) {
	return open(ctx, cfg)
}
