package pgtest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver of SetupTestDB
)

// maxIdentifier is the length in bytes beyond which PostgreSQL silently cuts a name.
const maxIdentifier = 63

// NewDB returns the DSN of a fresh, empty database on the [Shared] cluster. The
// database is dropped when the test is over, with whatever is still connected.
// It fails the test if it cannot be created.
func NewDB(t testing.TB) string {
	t.Helper()
	return Shared(t).NewDB(t)
}

// NewDB is like the function of that name, on the primary of this cluster.
func (c *Cluster) NewDB(t testing.TB) string {
	t.Helper()
	return c.newDatabase(t, "").dsn
}

// A Template is a database that is built once and copied for every test: the
// way to have a schema, or data, without building it each time.
type Template struct {
	build func(ctx context.Context, dsn string) error
	once  sync.Once
	name  string
	err   error
}

// NewTemplate returns a template on the [Shared] cluster, usually kept in a
// package variable. build gets an empty database at the first use; it must have
// closed its connections when it returns. Its error fails every test that uses
// the template.
func NewTemplate(build func(ctx context.Context, dsn string) error) *Template {
	return &Template{build: build}
}

// NewDB is like the function of that name, with a copy of the template.
func (tpl *Template) NewDB(t testing.TB) string {
	t.Helper()
	c := Shared(t)
	tpl.once.Do(func() {
		ctx, cancel := limited(context.WithoutCancel(t.Context()))
		defer cancel()
		tpl.name = databaseName("template")
		if tpl.err = c.createDatabase(ctx, tpl.name, ""); tpl.err != nil {
			return
		}
		c.mu.Lock()
		c.templates = append(c.templates, tpl.name)
		c.mu.Unlock()
		tpl.err = tpl.build(ctx, c.Primary().DSN(tpl.name))
	})
	if tpl.err != nil {
		t.Fatalf("pgtest: template: %v", tpl.err)
	}
	return c.newDatabase(t, tpl.name).dsn
}

// A database is one that belongs to a test.
type database struct {
	cluster *Cluster
	name    string
	dsn     string
	once    sync.Once
	err     error
}

func (c *Cluster) newDatabase(t testing.TB, template string) *database {
	t.Helper()
	ctx, cancel := limited(t.Context())
	defer cancel()
	name := databaseName(t.Name())
	if err := c.createDatabase(ctx, name, template); err != nil {
		t.Fatal(err)
	}
	db := &database{cluster: c, name: name, dsn: c.Primary().DSN(name)}
	t.Cleanup(func() {
		if err := db.drop(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// createDatabase copies a template, the server's template1 if it is empty.
func (c *Cluster) createDatabase(ctx context.Context, name, template string) error {
	ident := pgx.Identifier{name}.Sanitize()
	err := c.Primary().session(ctx, func(conn *pgx.Conn) error {
		create := "create database " + ident
		if template != "" {
			create += " template " + pgx.Identifier{template}.Sanitize()
		}
		if c.outside == "" && serverVersion(conn) >= 15 {
			// Half the time of wal_log, the default, where checkpoints cost
			// nothing. On an outside server they may cost a lot.
			create += " strategy file_copy"
		}
		_, err := conn.Exec(ctx, create)
		return err
	})
	if err != nil {
		return fmt.Errorf("pgtest: create database %s: %w", ident, err)
	}
	return nil
}

func (c *Cluster) dropDatabase(ctx context.Context, name string) error {
	ident := pgx.Identifier{name}.Sanitize()
	if err := c.Primary().exec(ctx, "drop database if exists "+ident+" with (force)"); err != nil {
		return fmt.Errorf("pgtest: drop database %s: %w", ident, err)
	}
	return nil
}

func (c *Cluster) dropTemplates(ctx context.Context) error {
	c.mu.Lock()
	names := c.templates
	c.templates = nil
	c.mu.Unlock()
	var errs []error
	for _, name := range names {
		errs = append(errs, c.dropDatabase(ctx, name))
	}
	return errors.Join(errs...)
}

// drop drops the database, once. In a cluster that is closed it is gone already.
func (d *database) drop() error {
	d.once.Do(func() {
		if d.cluster.isClosed() {
			return
		}
		ctx, cancel := limited(context.Background())
		defer cancel()
		d.err = d.cluster.dropDatabase(ctx, d.name)
	})
	return d.err
}

// databaseName makes a name that is unique on the server and, for whoever looks
// at pg_stat_activity, says which test it belongs to.
func databaseName(test string) string {
	readable := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, test)
	suffix := strings.ToLower(rand.Text()[:10])
	return "pgtest_" + readable[:min(len(readable), maxIdentifier-len("pgtest__")-len(suffix))] + "_" + suffix
}

// testDBs remembers which database each handle of SetupTestDB belongs to.
var testDBs sync.Map // *sql.DB → *database

// SetupTestDB returns a handle on a fresh database, as [NewDB] makes it. Handle
// and database are cleaned up when the test is over; [CleanupTestDB] may do so
// earlier.
func SetupTestDB(t *testing.T) *sql.DB {
	t.Helper()
	d := Shared(t).newDatabase(t, "")
	db, err := sql.Open("pgx", d.dsn)
	if err != nil {
		t.Fatal(err)
	}
	testDBs.Store(db, d)
	// Registered after the drop of the database, so it runs before it.
	t.Cleanup(func() {
		CleanupTestDB(t, db)
		testDBs.Delete(db)
	})
	return db
}

// CleanupTestDB closes the handle and drops its database. It may be called
// early, more than once, and with nil. A handle that is not from [SetupTestDB]
// is only closed: its database is not the kit's to drop.
func CleanupTestDB(t *testing.T, db *sql.DB) {
	t.Helper()
	if db == nil {
		return
	}
	err := db.Close()
	if d, ok := testDBs.Load(db); ok {
		err = errors.Join(err, d.(*database).drop())
	}
	if err != nil {
		t.Error(err)
	}
}
