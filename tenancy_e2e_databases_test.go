package pgkeel_test

import (
	"context"
	"fmt"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/tenancy"
)

const leakDatabases = 5

// databaseSite has several databases on a server, each of which several tenants
// share. What is theirs is the database.
func databaseSite(t testing.TB) *leakSite {
	t.Helper()
	s := newLeakSite(t)
	s.homes = map[string]string{}
	dsns := make([]string, leakDatabases)
	for i := range dsns {
		dsns[i] = s.tenantDatabase(t, fmt.Sprint("database ", i))
	}
	directory := map[string]string{}
	for i := range leakTenants {
		tenant := fmt.Sprintf(`O'%d"; -- ü`, i)
		s.tenants = append(s.tenants, tenant)
		s.homes[tenant] = fmt.Sprint("database ", i%leakDatabases)
		directory[tenant] = dsns[i%leakDatabases]
	}
	s.appDSN = ""
	s.mode = tenancy.Database(tenancy.DirectoryFunc(func(_ context.Context, tenant string) (string, error) {
		dsn, ok := directory[tenant]
		if !ok {
			return "", tenancy.ErrUnknownTenant
		}
		return dsn, nil
	}), tenancy.MaxConnections(leakPool))
	return s
}

// tenantDatabase makes a database with a row, and returns its DSN for the role of
// the application.
func (s *leakSite) tenantDatabase(t testing.TB, home string) string {
	t.Helper()
	u, err := url.Parse(pgtest.NewDB(t))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	_, err = conn.Exec(t.Context(), "create table items ("+leakColumns+"); create index on items (key); insert into items (owner, key) values ('"+
		home+"', 0); grant all on items to "+s.role)
	if err != nil {
		t.Fatal(err)
	}
	s.views = append(s.views, leakView{
		conn, "select '" + home + "', owner, key, coalesce(touched, owner) from items",
		"update items set touched = null; delete from items where key = 0 and owner <> '" + home + "'",
	})
	u.User = url.UserPassword(s.role, "app")
	return u.String()
}
