package tenancy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// scopeOf asks the ScopeFunc that a mode opens its pool with.
func scopeOf(t testing.TB, mode Mode) providers.ScopeFunc {
	t.Helper()
	stop := errors.New("stop")
	var scope providers.ScopeFunc
	_, err := mode.Open(t.Context(), providers.Config{}, func(_ context.Context, cfg providers.Config) (providers.Pool, error) {
		scope = cfg.Scope
		return nil, stop
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	return scope
}

func roleOf(role string, err error) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return role, err }
}

func TestScopeOfATenant(t *testing.T) {
	hostile := `o'hare"; drop table x; -- ü`
	set := func(pairs ...string) (settings []providers.Setting) {
		for i := 0; i < len(pairs); i += 2 {
			settings = append(settings, providers.Setting{Name: pairs[i], Value: pairs[i+1]})
		}
		return settings
	}
	quoted := func(id string) (string, error) { return id, nil }
	for name, c := range map[string]struct {
		mode Mode
		id   string
		want []providers.Setting
	}{
		"rls":      {RLS("app.tenant_id"), hostile, set("app.tenant_id", hostile)},
		"user":     {RLS("app.tenant_id", UserSetting("app.user_id")), "a", set("app.tenant_id", "a", "app.user_id", "u1")},
		"role":     {RLS("app.tenant_id", Role("app_user")), "a", set("app.tenant_id", "a", "role", "app_user")},
		"roles":    {RLS("app.tenant_id", RoleFunc(roleOf("x", nil))), "a", set("app.tenant_id", "a", "role", "x")},
		"timeout":  {RLS("app.tenant_id", TenantStatementTimeout(1500*time.Microsecond)), "a", set("app.tenant_id", "a", "statement_timeout", "2")},
		"schema":   {Schema(), "acme_1", set("search_path", `"tenant_acme_1"`)},
		"shared":   {Schema(SharedSchemas("extensions", "public")), "a", set("search_path", `"tenant_a", "extensions", "public"`)},
		"quoted":   {Schema(SchemaName(quoted), Role("r")), `A"; "b`, set("search_path", `"A""; ""b"`, "role", "r")},
		"longest":  {Schema(), strings.Repeat("a", 56), set("search_path", `"tenant_`+strings.Repeat("a", 56)+`"`)},
		"not user": {Schema(UserSetting("app.user_id")), "a", set("search_path", `"tenant_a"`, "app.user_id", "u1")},
	} {
		scope := scopeOf(t, c.mode)
		got, err := scope(providers.WithUserID(tenant(t, c.id), "u1"))
		if err != nil || !slices.Equal(got.Settings, c.want) || got.Gate != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if again, _ := scope(providers.WithUserID(tenant(t, c.id), "u1")); !slices.Equal(again.Settings, got.Settings) {
			t.Errorf("%s: %+v at the second time", name, again)
		}
	}
}

func TestWithoutAUserTheSettingIsEmpty(t *testing.T) {
	got, err := scopeOf(t, RLS("app.tenant_id", UserSetting("app.user_id")))(tenant(t, "a"))
	if err != nil || got.Settings[1] != (providers.Setting{Name: "app.user_id"}) {
		t.Errorf("%+v %v", got, err)
	}
}

func TestScopeOfABypass(t *testing.T) {
	for name, c := range map[string]struct {
		mode Mode
		want []providers.Setting
	}{
		"rls":    {RLS("app.tenant_id", TenantConcurrency(1), TenantStatementTimeout(time.Second), Role("app")), nil},
		"role":   {RLS("app.tenant_id", BypassRole("admin")), []providers.Setting{{Name: "role", Value: "admin"}}},
		"schema": {Schema(), nil},
		"shared": {Schema(SharedSchemas("x"), BypassRole("r")), []providers.Setting{{Name: "search_path", Value: `"x"`}, {Name: "role", Value: "r"}}},
	} {
		got, err := scopeOf(t, c.mode)(Bypass(tenant(t, "a"), "a test"))
		if err != nil || !slices.Equal(got.Settings, c.want) || got.Gate != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestScopeRefuses(t *testing.T) {
	with := func(id, user string) context.Context {
		return providers.WithUserID(providers.WithTenantID(t.Context(), id), user)
	}
	user := UserSetting("app.user_id")
	broken := errors.New("broken")
	name := func(name string) Mode { return Schema(SchemaName(roleName(name, nil)), SharedSchemas("shared")) }
	for what, c := range map[string]struct {
		mode Mode
		ctx  context.Context
		want string
	}{
		"no tenant":       {RLS("app.tenant_id"), t.Context(), "has no tenant"},
		"empty":           {RLS("app.tenant_id"), with("", ""), "has no tenant"},
		"nul":             {RLS("app.tenant_id"), with("a\x00", ""), "NUL"},
		"not utf-8":       {RLS("app.tenant_id"), with("a\xff", ""), "UTF-8"},
		"long":            {RLS("app.tenant_id"), with(strings.Repeat("a", 1<<20), ""), "1048576 bytes"},
		"user":            {RLS("app.tenant_id", user), with("a", "u\x00"), "the user's id contains a NUL"},
		"no reason":       {RLS("app.tenant_id"), Bypass(t.Context(), " "), "needs a reason"},
		"role failed":     {RLS("app.tenant_id", RoleFunc(roleOf("", broken))), with("a", ""), "broken"},
		"no role":         {RLS("app.tenant_id", RoleFunc(roleOf("", nil))), with("a", ""), "is empty"},
		"none":            {RLS("app.tenant_id", RoleFunc(roleOf("NONE", nil))), with("a", ""), "no role"},
		"bypass role":     {RLS("app.tenant_id", RoleFunc(roleOf("admin", nil)), BypassRole("admin")), with("a", ""), "not for tenants"},
		"characters":      {Schema(), with("A", ""), "SchemaName"},
		"quote":           {Schema(), with(`a"`, ""), "SchemaName"},
		"57 bytes":        {Schema(), with(strings.Repeat("a", 57), ""), "64 bytes"},
		"schema role":     {Schema(RoleFunc(roleOf("", broken))), with("a", ""), "broken"},
		"name failed":     {Schema(SchemaName(roleName("", broken))), with("a", ""), "SchemaName: broken"},
		"name refused":    {Schema(SchemaName(roleName("", ErrNoTenant))), with("a", ""), "has no tenant"},
		"no name":         {name(""), with("a", ""), "is empty"},
		"long name":       {name(strings.Repeat("ü", 32)), with("a", ""), "64 bytes"},
		"nul name":        {name("a\x00b"), with("a", ""), "NUL"},
		"not utf-8 name":  {name("\xff"), with("a", ""), "UTF-8"},
		"catalog":         {name("pg_catalog"), with("a", ""), "PostgreSQL's own"},
		"temporary":       {name("pg_temp"), with("a", ""), "PostgreSQL's own"},
		"information":     {name("information_schema"), with("a", ""), "PostgreSQL's own"},
		"public":          {name("public"), with("a", ""), "not for one tenant alone"},
		"shared":          {name("shared"), with("a", ""), "not for one tenant alone"},
		"user variable":   {name("$user"), with("a", ""), "role's name"},
		"pgkeel's schema": {name("pgkeel"), with("a", ""), "pgkeel's own"},
	} {
		scope, err := scopeOf(t, c.mode)(c.ctx)
		if err == nil || !strings.Contains(err.Error(), c.want) || providers.OutcomeOf(err) != providers.OutcomeNotSent ||
			len(err.Error()) > 400 || len(scope.Settings) > 0 {
			t.Errorf("%s: %+v, %v", what, scope, err)
		}
	}
}

func roleName(name string, err error) func(string) (string, error) {
	return func(string) (string, error) { return name, err }
}

func TestLimitsOfATenant(t *testing.T) {
	u := NewUsage(2)
	scope := scopeOf(t, Schema(TenantConcurrency(3), TenantUsage(u)))
	a, err := scope(tenant(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := scope(tenant(t, "b"))
	again, _ := scope(tenant(t, "a"))
	if a.Gate == nil || a.Gate == b.Gate || a.Gate != again.Gate {
		t.Errorf("%v %v %v", a.Gate, b.Gate, again.Gate)
	}
	if top, _ := u.Top(); !slices.Equal(top, []TenantCount{{"a", 2}, {"b", 1}}) {
		t.Errorf("%+v", top)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for field, mode := range map[string]Mode{
		"Tenancy.RLS":                    RLS("app tenant"),
		"Tenancy.UserSetting":            RLS("app.tenant_id", UserSetting("user_id")),
		"Tenancy.Role":                   RLS("app.tenant_id", Role("")),
		"Tenancy.BypassRole":             RLS("app.tenant_id", BypassRole("none")),
		"Tenancy.RoleFunc":               RLS("app.tenant_id", RoleFunc(nil)),
		"Tenancy.TenantColumn":           RLS("app.tenant_id", TenantColumn("")),
		"Tenancy.TenantStatementTimeout": Schema(TenantStatementTimeout(0)),
		"Tenancy.TenantConcurrency":      Schema(TenantConcurrency(0)),
		"Tenancy.TenantUsage":            Schema(TenantUsage(nil)),
		"Tenancy.SchemaName":             Schema(SchemaName(nil)),
		"Tenancy.SharedSchemas":          Schema(SharedSchemas("pg_temp")),
		"Tenancy.Schema":                 Schema(nil),
	} {
		requireFault(t, mode, providers.Config{}, field)
	}
	scope := func(context.Context) (providers.Scope, error) { return providers.Scope{}, nil }
	requireFault(t, RLS("app.tenant_id", nil), providers.Config{}, "Tenancy.RLS")
	requireFault(t, RLS("app.tenant_id", Role("a"), RoleFunc(roleOf("", nil))), providers.Config{}, "Tenancy.RoleFunc")
	requireFault(t, RLS("app.tenant_id", RoleFunc(roleOf("", nil)), Role("a")), providers.Config{}, "Tenancy.Role")
	requireFault(t, RLS("app.tenant_id", Role("a"), BypassRole("a")), providers.Config{}, "Tenancy.BypassRole")
	requireFault(t, RLS("app.tenant_id", UserSetting("App.Tenant_ID")), providers.Config{}, "Tenancy.UserSetting")
	requireFault(t, RLS("app.tenant_id"), providers.Config{Scope: scope}, "Tenancy.Scope")
	requireFault(t, Schema(), providers.Config{Scope: scope}, "Tenancy.Scope")
	requireFault(t, Schema(), providers.Config{DSN: "host=x search_path=public"}, "DSN")
}

func requireFault(t *testing.T, mode Mode, cfg providers.Config, field string) {
	t.Helper()
	_, err := mode.Open(t.Context(), cfg, func(context.Context, providers.Config) (providers.Pool, error) {
		t.Errorf("%s: it was opened", field)
		return nil, errors.New("opened")
	})
	var fault *providers.ConfigError
	if !errors.As(err, &fault) || fault.Field != field || strings.Contains(fault.Problem, "%!") {
		t.Errorf("%s: %v", field, err)
	}
}

func TestBypassKeepsItsReason(t *testing.T) {
	for given, want := range map[string]string{"": "ours", "  ": "ours", "audit 7": "audit 7"} {
		if reason, _ := BypassReason(bypassFor(Bypass(t.Context(), given), "ours")); reason != want {
			t.Errorf("%q: %q", given, reason)
		}
	}
	if reason, _ := BypassReason(bypassFor(t.Context(), "ours")); reason != "ours" {
		t.Errorf("%q", reason)
	}
}
