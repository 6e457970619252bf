package tenancy

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	pgxprovider "github.com/pgkeel/pgkeel/providers/pgx"
)

// openRouter opens a router over the pgx provider, and closes it at the end.
func openRouter(t testing.TB, d Directory, cfg providers.Config, options ...DatabaseOption) *Router {
	t.Helper()
	return openRouterWith(t, d, cfg, pgxprovider.Provider{}.Open, options...)
}

func openRouterWith(t testing.TB, d Directory, cfg providers.Config, open Opener, options ...DatabaseOption) *Router {
	t.Helper()
	pool, err := Database(d, options...).Open(t.Context(), cfg, open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testPatience)
		defer cancel()
		_ = pool.Close(ctx)
	})
	return pool.(*Router)
}

// as is a context of the tenant.
func as(ctx context.Context, tenant string) context.Context {
	return providers.WithTenantID(ctx, tenant)
}

// towns is a directory that a test can change.
type towns struct {
	mu   sync.Mutex
	dsns map[string]string
	err  error
	asks map[string]int
}

func newTowns(dsns map[string]string) *towns { return &towns{dsns: dsns, asks: map[string]int{}} }

func (d *towns) Lookup(_ context.Context, tenant string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asks[tenant]++
	if d.err != nil {
		return "", d.err
	}
	dsn, ok := d.dsns[tenant]
	if !ok {
		return "", fmt.Errorf("no such town: %w", ErrUnknownTenant)
	}
	return dsn, nil
}

func (d *towns) set(tenant, dsn string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dsns[tenant] = dsn
}

func (d *towns) remove(tenant string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.dsns, tenant)
}

func (d *towns) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *towns) asked(tenant string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asks[tenant]
}

// newTenantDBs makes n databases, in each of which a table holds its number.
func newTenantDBs(t testing.TB, n int) []string {
	t.Helper()
	template := pgtest.NewTemplate(func(ctx context.Context, dsn string) error {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "create table home (n int not null); create table notes (tenant text not null, n int not null)")
		return err
	})
	dsns := make([]string, n)
	for i := range dsns {
		dsns[i] = withParameter(t, template.NewDB(t), "application_name", "pgkeel-router")
		conn, err := pgx.Connect(t.Context(), dsns[i])
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Exec(t.Context(), "insert into home values ($1)", i)
		if err := errors.Join(err, conn.Close(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	return dsns
}

func withParameter(t testing.TB, dsn, name, value string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// atLast waits for a condition.
func atLast(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(testPatience)
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("it never came true: %s", what)
		}
	}
}

// homeOf reads which database the context's tenant has.
func homeOf(ctx context.Context, q providers.Querier) (n int, err error) {
	err = q.QueryRow(ctx, "select n from home").Scan(&n)
	return n, err
}
