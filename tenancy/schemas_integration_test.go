package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

// administered is a handle with a schema per tenant, and what administers it.
func administered(t testing.TB, options ...SchemaOption) (*stage, providers.Pool, *Schemas) {
	t.Helper()
	s := newStage(t, "")
	database := strings.TrimPrefix(s.dsn[strings.LastIndex(s.dsn, "/"):], "/")
	database, _, _ = strings.Cut(database, "?")
	s.exec(t, `grant create on database "`+database+`" to APP`)
	pool := mustOpen(t, Schema(options...), providers.Config{DSN: s.appDSN, Pool: providers.PoolStrategy{MaxSize: 8}})
	return s, pool, mustAdminister(t, pool, options...)
}

func mustAdminister(t testing.TB, pool providers.Pool, options ...SchemaOption) *Schemas {
	t.Helper()
	a, err := NewSchemas(handle{pool}, options...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func names(t testing.TB, a *Schemas) []string {
	t.Helper()
	list, err := a.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := []string{}
	for _, s := range list {
		if s.CreatedAt.IsZero() {
			t.Errorf("%+v", s)
		}
		all = append(all, s.Tenant+"="+s.Schema)
	}
	return all
}

func TestSchemasAreMadeAndRemoved(t *testing.T) {
	_, pool, a := administered(t)
	if got := names(t, a); len(got) != 0 {
		t.Errorf("%q", got)
	}
	for _, id := range []string{"b", "a", "b"} {
		if err := a.Create(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, a); !slices.Equal(got, []string{"a=tenant_a", "b=tenant_b"}) {
		t.Errorf("%q", got)
	}
	if _, err := pool.Exec(tenant(t, "a"), `create table t (id int)`); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.Drop(t.Context(), "a"); err != nil {
			t.Error(err)
		}
	}
	if got := names(t, a); !slices.Equal(got, []string{"b=tenant_b"}) {
		t.Errorf("%q", got)
	}
	if n := value[int](bypass(t), t, pool, `select count(*)::int from pg_namespace where nspname like 'tenant%'`); n != 1 {
		t.Errorf("%d schemas", n)
	}
}

func TestSchemasMadeAtTheSameTime(t *testing.T) {
	_, _, a := administered(t)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			if err := a.Create(t.Context(), fmt.Sprint("t", i%4)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := names(t, a); len(got) != 4 {
		t.Errorf("%q", got)
	}
}

func TestNoTwoTenantsShareASchema(t *testing.T) {
	lossy := SchemaName(func(id string) (string, error) { return "T " + strings.ToLower(id) + `"`, nil })
	_, pool, a := administered(t, lossy)
	if err := a.Create(t.Context(), "Acme"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, a); !slices.Equal(got, []string{`Acme=T acme"`}) {
		t.Errorf("%q", got)
	}
	err := a.Create(t.Context(), "ACME")
	if err == nil || !strings.Contains(err.Error(), `is that of "Acme"`) || providers.OutcomeOf(err) != providers.OutcomeRolledBack {
		t.Error(err)
	}
	if err := a.Drop(t.Context(), "ACME"); err == nil {
		t.Error("a tenant's schema was dropped in the name of another")
	}
	moved := mustAdminister(t, pool, SchemaName(func(string) (string, error) { return "elsewhere", nil }))
	if err := moved.Create(t.Context(), "Acme"); err == nil || !strings.Contains(err.Error(), "one name") {
		t.Error(err)
	}
	if n := value[int](bypass(t), t, pool, `select count(*)::int from pg_namespace where nspname in ('T acme"', 'elsewhere')`); n != 1 {
		t.Errorf("%d schemas", n)
	}
}

func TestSchemasErrors(t *testing.T) {
	s, _, a := administered(t)
	if err := a.Create(t.Context(), ""); !errors.Is(err, ErrNoTenant) {
		t.Error(err)
	}
	if err := a.Drop(t.Context(), "A"); providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Error(err)
	}
	if err := a.Create(Bypass(t.Context(), "test"), "locked"); err != nil {
		t.Error(err)
	}
	s.exec(t, `alter table pgkeel.tenants rename column created_at to made_at`)
	if _, err := a.List(t.Context()); err == nil || !strings.Contains(err.Error(), "list schemas") {
		t.Error(err)
	}
	s.exec(t, `alter table pgkeel.tenants rename to others`)
	for what, err := range map[string]error{"create": a.Create(t.Context(), "x"), "drop": a.Drop(t.Context(), "x")} {
		if err == nil || !strings.Contains(err.Error(), what+` the schema of tenant "x" (rolled back)`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.exec(t, `drop schema pgkeel cascade`)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for what, err := range map[string]error{"create": a.Create(ended, "x"), "list": second(a.List(ended)), "migrate": second(a.Migrate(ended, MigrateOptions{FS: files("1.sql", "select 1")}))} {
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "could not be made") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for field, err := range map[string]error{
		"Tenancy.NewSchemas": second(NewSchemas[providers.Tx](nil)),
		"Tenancy.SchemaName": second(NewSchemas(handle{}, SchemaName(nil))),
	} {
		var fault *providers.ConfigError
		if !errors.As(err, &fault) || fault.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
