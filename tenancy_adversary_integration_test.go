package pgkeel_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/batch"
	"github.com/pgkeel/pgkeel/bulk"
	"github.com/pgkeel/pgkeel/tenancy"
)

// whoSQL tells whose rows are seen: nobody's, or all of them.
const whoSQL = "select coalesce(string_agg(distinct owner, ',' order by owner), '') from items"

// adversary is a handle with one connection, so that whatever is left behind on
// it meets the next, and two tenants.
func adversary(t *testing.T, newSite func(testing.TB) *leakSite, options ...pgkeel.Option) (s *leakSite, one, two context.Context) {
	t.Helper()
	s = newSite(t)
	s.db = openDSN(t, s.appDSN, append([]pgkeel.Option{pgkeel.WithTenancy(s.mode), single()}, options...)...)
	return s, pgkeel.WithTenantID(t.Context(), s.tenants[1]), pgkeel.WithTenantID(t.Context(), s.tenants[2])
}

// single keeps the pool to one connection, which the first tenant to come opens.
func single() pgkeel.Option { return pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 1}) }

// TestWhatATenantLeavesBehind has one tenant leave what it can in the session, and
// asks as the next one, and as nobody.
func TestWhatATenantLeavesBehind(t *testing.T) {
	for kind, newSite := range map[string]func(testing.TB) *leakSite{"rls": rlsSite, "schema": schemaSite} {
		for mode, options := range map[string][]pgkeel.Option{"plain": nil, "pipelined": {pgkeel.WithPipelining(pgkeel.Pipelining{})}} {
			s, one, two := adversary(t, newSite, options...)
			for name, leave := range leftBehind(s, one) {
				t.Run(kind+"/"+mode+"/"+name, func(t *testing.T) {
					defer func() {
						if t.Failed() {
							s.db.Reset() // so that the next test does not find it
						}
					}()
					err := leave()
					for range 2 {
						got, askErr := pgkeel.One[string](two, s.db, whoSQL)
						if askErr != nil || got != s.tenants[2] {
							t.Errorf("the next tenant sees %q: %v (leaving: %v)", got, askErr, err)
						}
					}
					left, askErr := pgkeel.One[string](tenancy.Bypass(t.Context(), "test"), s.db,
						`select concat_ws('|', coalesce(current_setting('app.tenant_id', true), ''), current_setting('search_path'), session_user = current_user)`)
					if want := s.nothing(); askErr != nil || left != want {
						t.Errorf("around the tenants: %q, not %q: %v (leaving: %v)", left, want, askErr, err)
					}
				})
			}
		}
	}
}

// nothing is what there is without a tenant.
func (s *leakSite) nothing() string {
	if s.rls {
		return `|"$user", public|t`
	}
	return "|pg_catalog|t"
}

// leftBehind are the ways of a tenant to leave something.
func leftBehind(s *leakSite, ctx context.Context) map[string]func() error {
	setting, value := "app.tenant_id", s.tenants[1]
	if !s.rls {
		setting, value = "search_path", "tenant_"+s.tenants[1]
	}
	quoted := bulk.QuoteLiteral(value)
	all := map[string]func() error{}
	for _, sql := range []string{
		"set " + setting + " = " + quoted,
		"set session " + setting + " = " + quoted,
		"select set_config('" + setting + "', " + quoted + ", false)",
		`select pg_catalog."set_config"('` + setting + `', ` + quoted + `, false)`,
		`select U&"s\0065t_config"('` + setting + `', ` + quoted + `, false)`,
		"update pg_catalog.pg_settings set setting = " + quoted + " where name = '" + setting + "'",
		"with s as (update pg_settings set setting = " + quoted + " where name = '" + setting + "' returning 1) select count(*) from s",
		"do $$ begin perform set_config('" + setting + "', " + quoted + ", false); end $$",
		"do $$ begin execute 's' || 'et " + setting + " = ' || quote_literal(" + quoted + "); end $$",
		"create temp table items as select 'temporary'::text as owner, 1::bigint as key",
		"create temp view items as select 'temporary'::text as owner, 1::bigint as key",
		"select 'temporary'::text as owner into temp items",
		"select 'temporary'::text as owner into pg_temp.items",
		"create table pg_temp.items as select 'temporary'::text as owner",
		"declare c cursor with hold for select * from items",
		"listen tenants",
		"prepare stolen as select * from items",
		"load 'plpgsql'",
		"set role none",
		"reset " + setting,
		"reset all",
		"discard all",
		"select pg_advisory_lock(1)",
		"explain analyze select set_config('" + setting + "', " + quoted + ", false)",
	} {
		all[sql] = func() error { _, err := s.db.Exec(ctx, sql); return err }
		all["query: "+sql] = func() error { _, err := pgkeel.All[string](ctx, s.db, sql); return err }
		all["transaction: "+sql] = func() error {
			return s.db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error { _, err := tx.Exec(ctx, sql); return err })
		}
		all["connection: "+sql] = func() error {
			conn, err := s.db.Acquire(ctx)
			if err != nil {
				return err
			}
			defer conn.Release()
			_, err = conn.Exec(ctx, sql)
			return err
		}
		all["batch: "+sql] = func() error {
			b := &pgx.Batch{}
			b.Queue(sql)
			return s.db.SendBatch(ctx, b).Close()
		}
		all["batch.Run: "+sql] = func() error {
			b := &pgx.Batch{}
			b.Queue(sql)
			_, err := batch.Run(ctx, s.db, b, batch.Options{Mode: batch.Isolated})
			return err
		}
		all["unwrapped pool: "+sql] = func() error { _, err := s.db.Unwrap().Exec(ctx, sql); return err }
		all["database/sql: "+sql] = func() error { _, err := s.db.SQL().ExecContext(ctx, sql); return err }
		all["copy: "+sql] = func() error {
			_, err := bulk.CopyTo(ctx, s.db, bulk.From{Query: sql}, &strings.Builder{})
			return err
		}
	}
	return all
}

// TestConnectionsKeptTooLong has a tenant keep what it should have given back.
func TestConnectionsKeptTooLong(t *testing.T) {
	s, one, two := adversary(t, rlsSite)
	conn, err := s.db.Acquire(one)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := conn.Query(one, "select owner from items cross join generate_series(1, 1000)")
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	conn.Release()
	seen := value[string](t, onTenant{s.db, two}, whoSQL)
	for rows.Next() {
		var owner string
		if err := rows.Scan(&owner); err != nil || owner != s.tenants[1] {
			t.Errorf("the rows go on as those of %q: %v", owner, err)
		}
	}
	rows.Close()
	if seen != s.tenants[2] {
		t.Errorf("the next sees %q", seen)
	}
	if _, err := conn.Exec(one, "select 1"); err == nil {
		t.Error("a connection that was given back works on")
	}
	if conn.Unwrap() != nil {
		t.Error("a connection that was given back can be unwrapped")
	}
	tx, err := s.db.Begin(one)
	if err != nil {
		t.Fatal(err)
	}
	raw := tx.Unwrap()
	if err := tx.Commit(one); err != nil {
		t.Fatal(err)
	}
	other := beginAs(two, t, s.db)
	defer func() { _ = other.Rollback(two) }()
	if _, err := raw.Exec(one, "select 1"); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("a transaction that is over works on: %v", err)
	}
	if c := raw.Conn(); c != nil {
		if _, err := c.Exec(one, "select 1"); err == nil {
			t.Error("the connection of a transaction that is over works on")
		}
	}
}

func beginAs(ctx context.Context, t *testing.T, db *pgkeel.DB) pgkeel.Tx {
	t.Helper()
	tx, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

// onTenant asks as a tenant, whatever the context.
type onTenant struct {
	*pgkeel.DB

	ctx context.Context //nolint:containedctx // it is what it is about
}

// Query asks.
func (o onTenant) Query(_ context.Context, sql string, args ...any) (pgx.Rows, error) {
	return o.DB.Query(o.ctx, sql, args...)
}

// TestSettingsUndoneUnderWay has a statement undo or change the tenant, and goes
// on: with nothing, or with the tenant's own, never with all.
func TestSettingsUndoneUnderWay(t *testing.T) {
	for kind, newSite := range map[string]func(testing.TB) *leakSite{"rls": rlsSite, "schema": schemaSite} {
		s, one, _ := adversary(t, newSite)
		for _, sql := range []string{
			"reset app.tenant_id", "reset search_path", "reset all", "set app.tenant_id = default", "set role none",
			"set session authorization default", "savepoint s; reset all; rollback to s", "set local row_security = off",
		} {
			t.Run(kind+"/"+sql, func(t *testing.T) {
				s.seesNoOthers(t, "in a transaction", s.db.RunTx(one, func(ctx context.Context, tx pgkeel.Tx) error {
					if _, err := tx.Exec(ctx, sql); err != nil {
						return err
					}
					return s.whoIn(ctx, tx)
				}))
				conn, err := s.db.Acquire(one)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Release()
				if _, err := conn.Exec(one, sql); err != nil && !strings.Contains(sql, "savepoint") {
					t.Error(err)
				}
				s.seesNoOthers(t, "on a connection", s.whoIn(one, conn))
			})
		}
	}
}

var errSeesOthers = errors.New("it sees others")

// whoIn asks whose rows are seen by the first tenant.
func (s *leakSite) whoIn(ctx context.Context, q pgkeel.Querier) error {
	who, err := pgkeel.One[string](ctx, q, whoSQL)
	if err == nil && who != "" && who != s.tenants[1] {
		err = errors.Join(errSeesOthers, errors.New(who))
	}
	return err
}

func (s *leakSite) seesNoOthers(t *testing.T, where string, err error) {
	t.Helper()
	if errors.Is(err, errSeesOthers) {
		t.Errorf("%s: %v", where, err)
	}
}

// TestPreparedByAnother has one tenant prepare what another runs.
func TestPreparedByAnother(t *testing.T) {
	for kind, newSite := range map[string]func(testing.TB) *leakSite{"rls": rlsSite, "schema": schemaSite} {
		t.Run(kind, func(t *testing.T) {
			s, one, two := adversary(t, newSite)
			tx := beginAs(one, t, s.db)
			if _, err := tx.Unwrap().Prepare(one, "stolen", whoSQL); err != nil {
				t.Fatal(err)
			}
			if got, err := pgkeel.One[string](one, tx, "stolen"); err != nil || got != s.tenants[1] {
				t.Errorf("%q %v", got, err)
			}
			if err := tx.Commit(one); err != nil {
				t.Fatal(err)
			}
			if got, err := pgkeel.One[string](two, s.db, "stolen"); err == nil && got != s.tenants[2] {
				t.Errorf("the other sees %q", got)
			}
			stmt, err := s.db.SQL().PrepareContext(one, whoSQL)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = stmt.Close() }()
			for i, ctx := range []context.Context{1: one, 2: two} {
				if ctx == nil {
					continue
				}
				var got string
				if err := stmt.QueryRowContext(ctx).Scan(&got); err != nil || got != s.tenants[i] {
					t.Errorf("database/sql: %q %v", got, err)
				}
			}
		})
	}
}

// TestHooksThatChangeTheTenant has a hook put another tenant into the context that
// a statement goes on with.
func TestHooksThatChangeTheTenant(t *testing.T) {
	s := rlsSite(t)
	s.db = openDSN(t, s.appDSN, pgkeel.WithTenancy(s.mode), single(), pgkeel.WithHooks(pgkeel.Hook{
		Name: "other", Before: func(ctx context.Context, _ *pgkeel.HookInfo) context.Context {
			return pgkeel.WithTenantID(ctx, s.tenants[2])
		},
	}))
	for path, run := range s.paths() {
		o := &leakOp{s: s, path: path, tenant: s.tenants[1], count: &leakCount{}, steady: true}
		o.run(pgkeel.WithTenantID(t.Context(), s.tenants[1]), run)
	}
	s.lookAtAll(t)
	s.ledger.report(t)
}
