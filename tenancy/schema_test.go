package tenancy

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

func TestSearchPathIsAddedToADSN(t *testing.T) {
	t.Setenv("PGUSER", "nobody")
	for given, want := range map[string]string{
		"":                              "search_path=pg_catalog",
		"host=h dbname=d":               "host=h dbname=d search_path=pg_catalog",
		"host=h password='a b'  ":       "host=h password='a b'   search_path=pg_catalog",
		"postgres://u:p@h/d":            "postgres://u:p@h/d?search_path=pg_catalog",
		"postgresql://u:p@h:5432/d?a=b": "postgresql://u:p@h:5432/d?a=b&search_path=pg_catalog",
		"postgres://u@h":                "postgres://u@h?search_path=pg_catalog",
		"postgres://u@h/d?":             "postgres://u@h/d?search_path=pg_catalog",
		"postgres://u@h1,h2/d":          "postgres://u@h1,h2/d?search_path=pg_catalog",
		"postgres://u:%3F%23@h/d":       "postgres://u:%3F%23@h/d?search_path=pg_catalog",
		"postgres://%zz":                "postgres://%zz", // the provider reports it
	} {
		got, err := withSearchPath(given)
		if err != nil || got != want {
			t.Errorf("%s: %s, %v", given, got, err)
			continue
		}
		before, err := pgx.ParseConfig(given)
		if err != nil {
			continue
		}
		after, err := pgx.ParseConfig(got)
		if err != nil {
			t.Fatal(err)
		}
		if after.Host != before.Host || after.Database != before.Database || after.Password != before.Password ||
			len(after.RuntimeParams) != len(before.RuntimeParams)+1 {
			t.Errorf("%s: it changes the rest", given)
		}
	}
}

func TestASearchPathOfTheUsersIsRefused(t *testing.T) {
	for _, dsn := range []string{"search_path=x", "postgres://u@h/d?search_path=x", "postgres://u@h/d?a=b&search_path="} {
		_, err := withSearchPath(dsn)
		var fault *providers.ConfigError
		if !errors.As(err, &fault) || fault.Field != "DSN" || !strings.Contains(fault.Problem, "SharedSchemas") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}

func TestADSNThatCannotBeGivenAParameter(t *testing.T) {
	// The quote is never closed, which pgx lets pass at the end of a DSN.
	dsn := `host=h application_name=a\`
	if _, err := pgx.ParseConfig(dsn); err != nil {
		t.Fatal(err)
	}
	_, err := withSearchPath(dsn)
	var fault *providers.ConfigError
	if !errors.As(err, &fault) || fault.Field != "DSN" {
		t.Error(err)
	}
}

// FuzzTenantID: whatever the id, a scope means its tenant and nobody else's, or
// there is none.
func FuzzTenantID(f *testing.F) {
	for _, id := range []string{
		"a", "acme_1", `"`, `a", "tenant_b`, `'; drop schema x; --`, "a\x00", "ü", "\xff", "$user", "pg_temp", "public", "",
		"A", " a", "a ", "a,b", strings.Repeat("a", 1<<20), strings.Repeat(`"`, 63), "tenant_a", "İ", "ﬀ", "a\u200b",
	} {
		f.Add(id)
	}
	same := func(id string) (string, error) { return id, nil }
	plain, named, rls := scopeOf(f, Schema()), scopeOf(f, Schema(SchemaName(same))), scopeOf(f, RLS("app.tenant_id"))
	f.Fuzz(func(t *testing.T, id string) {
		ctx := providers.WithTenantID(t.Context(), id)
		if s, err := rls(ctx); err == nil && (len(s.Settings) != 1 || s.Settings[0].Value != id) {
			t.Errorf("rls: %q", s.Settings)
		}
		if s, err := plain(ctx); err == nil {
			if name := onlyName(t, s.Settings[0].Value); name != "tenant_"+id || len(name) > maxName {
				t.Errorf("the schema of %q is %q", id, name)
			}
		}
		if s, err := named(ctx); err == nil {
			if name := onlyName(t, s.Settings[0].Value); name != id || len(name) > maxName || name == "public" || strings.HasPrefix(name, "pg_") {
				t.Errorf("the schema of %q is %q", id, name)
			}
		}
	})
}

// onlyName reads a search path as the server does, and fails unless it is one
// quoted name.
func onlyName(t *testing.T, path string) string {
	t.Helper()
	if len(path) < 3 || path[0] != '"' || path[len(path)-1] != '"' {
		t.Fatalf("%q is not quoted", path)
	}
	inner := path[1 : len(path)-1]
	if strings.Contains(strings.ReplaceAll(inner, `""`, ""), `"`) {
		t.Fatalf("%q is more than a name", path)
	}
	return strings.ReplaceAll(inner, `""`, `"`)
}
