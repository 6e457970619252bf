package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// orders is a table with a row of two tenants, which belongs to the role that
// connects, and the policies for it.
func orders(t testing.TB) *stage {
	t.Helper()
	s := newStage(t, `create table orders (id serial primary key, tenant_id text not null, item text);
		alter table orders owner to APP; insert into orders (tenant_id, item) values ('a', 'of a'), ('b', 'of b')`)
	s.policies(t, PolicyOptions{})
	return s
}

// policies makes them as the role that owns the tables.
func (s *stage) policies(t testing.TB, o PolicyOptions) {
	t.Helper()
	owner, err := pgx.Connect(t.Context(), s.appDSN)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close(t.Context())
	o.Setting = "app.tenant_id"
	plan, err := Policies(t.Context(), owner, o)
	if err == nil {
		err = plan.Apply(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

const itemsSQL = `select coalesce(string_agg(item, ', ' order by item), '') from orders`

func TestRLSKeepsTenantsApart(t *testing.T) {
	s := orders(t)
	pool := mustOpen(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN})
	for _, id := range []string{"a", "b"} {
		if got := value[string](tenant(t, id), t, pool, itemsSQL); got != "of "+id {
			t.Errorf("%s sees %q", id, got)
		}
	}
	ctx := tenant(t, "a")
	tag, err := pool.Exec(ctx, `update orders set item = 'changed'`)
	if err != nil || tag.RowsAffected() != 1 {
		t.Errorf("%v %v", tag, err)
	}
	_, err = pool.Exec(ctx, `insert into orders (tenant_id, item) values ('b', 'forged')`)
	if pg := providers.NewPGError(err); pg == nil || pg.Code != "42501" {
		t.Errorf("a tenant writes rows of another: %v", err)
	}
	if _, err = pool.Exec(ctx, `update orders set tenant_id = 'b'`); err == nil {
		t.Error("a tenant gives its rows to another")
	}
	if _, err := pool.Exec(t.Context(), `delete from orders`); !errors.Is(err, ErrNoTenant) {
		t.Errorf("without a tenant: %v", err)
	}
	if got := value[string](bypass(t), t, pool, itemsSQL); got != "" {
		t.Errorf("the owner sees %q of nobody", got)
	}
	var items string
	if err := s.admin.QueryRow(t.Context(), itemsSQL).Scan(&items); err != nil || items != "changed, of b" {
		t.Errorf("%q %v", items, err)
	}
}

func TestRLSWithRoles(t *testing.T) {
	s := orders(t)
	admin := s.role(t, "bypassrls")
	user := s.role(t, "")
	s.exec(t, fmt.Sprintf("grant %s, %s to APP; grant select, insert on orders to %s, %s; grant usage on sequence orders_id_seq to %s",
		admin, user, user, admin, user))
	for name, role := range map[string]Option{
		"Role":     Role(user),
		"RoleFunc": RoleFunc(func(context.Context) (string, error) { return user, nil }),
	} {
		pool := mustOpen(t, RLS("app.tenant_id", role, BypassRole(admin), UserSetting("app.user_id")), providers.Config{DSN: s.appDSN})
		ctx := providers.WithUserID(tenant(t, "a"), "u7")
		if got := value[string](ctx, t, pool, `select current_user || current_setting('app.user_id')`); got != user+"u7" {
			t.Errorf("%s: %q", name, got)
		}
		if got := value[string](ctx, t, pool, itemsSQL); got != "of a" {
			t.Errorf("%s: a sees %q", name, got)
		}
		if got := value[string](bypass(t), t, pool, itemsSQL); got != "of a, of b" {
			t.Errorf("%s: the bypass sees %q", name, got)
		}
		if got := value[string](bypass(t), t, pool, `select current_user::text`); got != admin {
			t.Errorf("%s: the bypass is done by %s", name, got)
		}
	}
}

func TestTrap30NoTenantStaysInASession(t *testing.T) {
	s := orders(t)
	pool := mustOpen(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN, Pool: providers.PoolStrategy{MaxSize: 1}})
	setting := `select coalesce(current_setting('app.tenant_id', true), '')`
	if got := value[string](tenant(t, "a"), t, pool, setting); got != "a" {
		t.Errorf("inside: %q", got)
	}
	tx, err := pool.Begin(tenant(t, "b"), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := value[string](tenant(t, "b"), t, tx, setting); got != "b" {
		t.Errorf("in the transaction: %q", got)
	}
	if err := tx.Commit(tenant(t, "b")); err != nil {
		t.Fatal(err)
	}
	if got := value[string](bypass(t), t, pool, setting); got != "" {
		t.Errorf("the next borrower has %q", got)
	}
}

func TestTrap31AnEmptySettingIsNobody(t *testing.T) {
	s := newStage(t, `create table t (tenant_id int, v text); create table u (tenant_id text, v text); create table w (tenant_id uuid, v text);
		alter table t owner to APP; alter table u owner to APP; alter table w owner to APP;
		insert into t values (1, 'one'); insert into u values ('', 'of an empty id'); insert into w values (null, 'null')`)
	s.policies(t, PolicyOptions{})
	s.exec(t, "set role APP")
	for _, before := range []string{"", "select set_config('app.tenant_id', '1', true)"} { // after which it reads ''
		s.exec(t, before)
		for _, table := range []string{"t", "u", "w"} {
			var n int
			if err := s.admin.QueryRow(t.Context(), "select count(*) from "+table).Scan(&n); err != nil || n != 0 {
				t.Errorf("%s after %q: %d rows, %v", table, before, n, err)
			}
		}
	}
	var reads string
	if err := s.admin.QueryRow(t.Context(), "select current_setting('app.tenant_id', true)").Scan(&reads); err != nil || reads != "" {
		t.Errorf("%q, %v", reads, err)
	}
}

func TestTrap32RolesThatNoPolicyBinds(t *testing.T) {
	s := orders(t)
	_, err := openWith(t, RLS("app.tenant_id"), providers.Config{DSN: s.dsn})
	requireFaults(t, err, `superuser`)
	s.exec(t, "alter role APP bypassrls")
	_, err = openWith(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN})
	requireFaults(t, err, `BYPASSRLS`)
	s.exec(t, "alter role APP nobypassrls; alter table orders no force row level security")
	_, err = openWith(t, RLS("app.tenant_id"), providers.Config{DSN: s.appDSN})
	requireFaults(t, err, `"public"."orders" belongs to the role of tenants`)
}

func TestTrap34ASettingThatFailsTakesTheStatementWithIt(t *testing.T) {
	s := orders(t)
	user := s.role(t, "")
	s.exec(t, "grant "+user+" to APP; grant select, insert on orders to "+user)
	pool := mustOpen(t, RLS("app.tenant_id", Role(user)), providers.Config{DSN: s.appDSN})
	s.exec(t, "revoke "+user+" from APP") // from now on the role cannot be set
	ctx := tenant(t, "a")
	if _, err := pool.Exec(ctx, `insert into orders (id, tenant_id, item) values (7, 'a', 'by the wrong role')`); err == nil {
		t.Error("it succeeded")
	} else if got := providers.OutcomeOf(err); got != providers.OutcomeRolledBack {
		t.Errorf("%s: %v", got, err)
	}
	if _, err := pool.Begin(ctx, providers.TxOptions{}); err == nil {
		t.Error("a transaction began")
	}
	var n int
	if err := s.admin.QueryRow(t.Context(), "select count(*) from orders").Scan(&n); err != nil || n != 2 {
		t.Errorf("%d rows, %v", n, err)
	}
}

func TestTenantConcurrencyLeavesRoomForOthers(t *testing.T) {
	s := orders(t)
	pool := mustOpen(t, RLS("app.tenant_id", TenantConcurrency(2)), providers.Config{
		DSN: s.appDSN, Pool: providers.PoolStrategy{MaxSize: 3}, AcquireTimeout: testPatience,
	})
	var held []providers.Tx
	for range 2 {
		tx, err := pool.Begin(tenant(t, "a"), providers.TxOptions{})
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, tx)
	}
	short, cancel := context.WithTimeout(tenant(t, "a"), 20*time.Millisecond)
	defer cancel()
	_, err := pool.Exec(short, `select 1`)
	if !errors.Is(err, ErrTenantBusy) || !errors.Is(err, context.DeadlineExceeded) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("a third of the tenant: %v", err)
	}
	var waiting sync.WaitGroup
	for range 5 {
		waiting.Go(func() {
			if _, err := pool.Exec(tenant(t, "a"), `select 1`); err != nil {
				t.Error(err)
			}
		})
	}
	if got := value[string](tenant(t, "b"), t, pool, itemsSQL); got != "of b" { // on the third connection
		t.Errorf("%q", got)
	}
	for _, tx := range held {
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	}
	waiting.Wait()
}

func TestTenantStatementTimeoutOnTheServer(t *testing.T) {
	s := orders(t)
	limit := TenantStatementTimeout(20 * time.Millisecond)
	for name, pool := range map[string]providers.Pool{
		"rls":      mustOpen(t, RLS("app.tenant_id", limit), providers.Config{DSN: s.appDSN}),
		"database": openRouter(t, newTowns(map[string]string{"a": s.dsn}), providers.Config{}, AdminDSN(s.dsn), limit),
	} {
		_, err := pool.Exec(tenant(t, "a"), `select pg_sleep(20)`)
		if pg := providers.NewPGError(err); pg == nil || pg.Code != "57014" {
			t.Errorf("%s: %v", name, err)
		}
		if got := value[string](bypass(t), t, pool, `show statement_timeout`); got != "0" {
			t.Errorf("%s: the bypass has %s", name, got)
		}
	}
}

func TestRLSOpenErrors(t *testing.T) {
	broken := errors.New("broken")
	_, err := RLS("app.tenant_id").Open(t.Context(), providers.Config{}, func(context.Context, providers.Config) (providers.Pool, error) {
		return nil, broken
	})
	if !errors.Is(err, broken) {
		t.Error(err)
	}
	s := newStage(t, "")
	var pools []providers.Pool
	keep := func(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
		pool, err := pgxOpen(ctx, cfg)
		pools = append(pools, pool)
		return pool, err
	}
	if _, err := RLS("app.tenant_id").Open(t.Context(), providers.Config{DSN: s.dsn}, keep); err == nil {
		t.Error("a superuser was let in")
	}
	if err := pools[0].Ping(bypass(t)); !errors.Is(err, providers.ErrPoolClosed) {
		t.Errorf("the pool is not closed: %v", err)
	}
}

// requireFaults wants a CheckError with these faults, each a part of its text.
func requireFaults(t *testing.T, err error, want ...string) {
	t.Helper()
	var check *CheckError
	if !errors.As(err, &check) {
		t.Errorf("no CheckError: %v", err)
		return
	}
	got := make([]string, len(check.Faults))
	for i, f := range check.Faults {
		got[i] = f.String()
		if f.Object == "" || f.Fix == "" || !strings.Contains(err.Error(), got[i]) {
			t.Errorf("%+v", f)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d faults instead of %d: %q", len(got), len(want), got)
		return
	}
	for _, w := range want {
		if !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, w) }) {
			t.Errorf("%q is not among %q", w, got)
		}
	}
}
