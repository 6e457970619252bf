package cluster

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestAddresses(t *testing.T) {
	t.Setenv("PGHOST", "env1,env2")
	t.Setenv("PGPORT", "6000")
	t.Setenv("PGSERVICEFILE", "/nowhere")
	for dsn, want := range map[string]string{
		"":                  "env1:6000 env2:6000",
		"dbname=x":          "env1:6000 env2:6000",
		"postgres://u@a/db": "a:6000",
		"postgres://u:p@a:1,b:2/db?sslmode=disable": "a:1 b:2",
		"postgres://u:p@a:1,b:2/db?sslmode=prefer":  "a:1 b:2",
		"postgresql://[::1]:5,b/db":                 "[::1]:5 b:5432",
		"postgres:///db?host=/tmp&port=7":           "/tmp:7",
		"host=a,b port=1,2":                         "a:1 b:2",
		"host=a,a,b port=1,1,1":                     "a:1 b:1",
		"host=/var/run/postgresql port=1":           "/var/run/postgresql:1",
	} {
		got, err := addresses(dsn)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %v, %v, want %s", dsn, got, err, want)
		}
	}
	if _, err := addresses("postgres://u:geheim@h:port/db"); err == nil || strings.Contains(err.Error(), "geheim") {
		t.Error(err)
	}
}

// Whatever the form of a DSN, another address is taken, and nothing else changes.
func TestDSNAt(t *testing.T) {
	for _, dsn := range []string{
		"postgres://u:p%40+%20?@a:1,b:2/db",
		"postgres://u:p%40+%20?@a:1,b:2",
		"postgres://u:p%40+%20?@a:1,b:2/db?",
		"postgres://u:p%40+%20?@a:1,b:2/db?application_name=x%20y+z",
		"postgresql://u:p%40+%20?@a:1,b:2/db?application_name=x%20y+z&",
		"postgres://u:p%40+%20?@/db?host=/tmp&port=9&application_name=x%20y+z&target_session_attrs=read-write",
		`host=a,b port=1,2 user=u dbname=db password='p@+ ?' application_name='x y+z'`,
		`user=u password=p@+\ ? dbname=db host=a\`,
		`target_session_attrs=primary pool_min_conns=3 user=u password=p@+\ ? dbname=db`,
	} {
		before, err := pgconn.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		for _, address := range []string{"c:77", "[::1]:5432", `/some/folder's b\:5433`} {
			moved, err := dsnAt(dsn, address)
			if err != nil {
				t.Fatal(err)
			}
			after, err := pgconn.ParseConfig(moved)
			if err != nil {
				t.Fatalf("%s: %v", moved, err)
			}
			if got, _ := addresses(moved); !slices.Equal(got, []string{address}) {
				t.Errorf("%s is at %v, want %s", moved, got, address)
			}
			if after.User != before.User || after.Password != before.Password || after.Database != before.Database ||
				after.RuntimeParams["application_name"] != before.RuntimeParams["application_name"] {
				t.Errorf("%s became %s", dsn, moved)
			}
			if after.ValidateConnect != nil {
				t.Errorf("%s only connects to some servers", moved)
			}
			if n := after.RuntimeParams["pool_min_conns"]; n != "" && n != "0" {
				t.Errorf("%s keeps connections", moved)
			}
		}
	}
}

func TestDSNAtTheEnvironment(t *testing.T) {
	t.Setenv("PGHOST", "env1,env2")
	t.Setenv("PGTARGETSESSIONATTRS", "read-write")
	moved, err := dsnAt("", "c:1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := addresses(moved); err != nil || !slices.Equal(got, []string{"c:1"}) {
		t.Errorf("%q is at %v: %v", moved, got, err)
	}
	if parsed, _ := pgconn.ParseConfig(moved); parsed.ValidateConnect != nil {
		t.Errorf("%q only connects to a primary", moved)
	}
}

func TestAddressesThatAreNone(t *testing.T) {
	for _, address := range []string{"", "a", ":5432", "a:", "a:0", "a:port", "a:65536", "::1", "a:1:2"} {
		if dsn, err := dsnAt("host=a", address); err == nil {
			t.Errorf("%q: %s", address, dsn)
		}
	}
	if _, err := dsnAt("postgres://u:geheim@h:port/db", "a:1"); err == nil || strings.Contains(err.Error(), "geheim") {
		t.Error(err)
	}
}
