package pgx_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
	provider "github.com/pgkeel/pgkeel/providers/pgx"
)

// TestTrap17ScopesStayWithTheirCall: everybody shares one session, so whatever
// a call left behind the next client would see.
func TestTrap17ScopesStayWithTheirCall(t *testing.T) {
	p := newPooler(t, 1)
	pool, other := p.open(t, behind(2)), p.open(t, behind(2))
	const look = `select coalesce(current_setting('app.tenant_id', true), '') || ' ' || current_setting('statement_timeout')`
	scope := []providers.Setting{{Name: "app.tenant_id", Value: `o'brien "x"`}, {Name: "statement_timeout", Value: "5000"}}
	server := scalar[int](t, other, `select pg_backend_pid()`)
	call := func(kind providers.CallKind, sql string) *providers.Call {
		return &providers.Call{Kind: kind, SQL: sql, Args: []any{1}, Scope: scope}
	}
	for name, use := range map[string]func() error{
		"query": func() error {
			c := call(providers.CallQuery, `select current_setting('app.tenant_id') || current_setting('statement_timeout') || $1::int`)
			if err := pool.Run(t.Context(), c); err != nil {
				return err
			}
			var got string
			if err := providers.FirstRow(c.Rows).Scan(&got); err != nil || got != `o'brien "x"5s1` {
				return fmt.Errorf("got %q, %w", got, err)
			}
			return nil
		},
		"exec": func() error {
			return pool.Run(t.Context(), call(providers.CallExec, `select pg_notify('c', $1::int::text)`))
		},
		"a statement that fails": func() error {
			if err := pool.Run(t.Context(), call(providers.CallExec, `select 1 / ($1::int - 1)`)); codeOf(t, err) != "22012" {
				return fmt.Errorf("a division by zero: %w", err)
			}
			return nil
		},
		"rows that nobody reads": func() error {
			c := call(providers.CallQuery, `select generate_series(1, 1000 * $1::int)`)
			if err := pool.Run(t.Context(), c); err != nil {
				return err
			}
			c.Rows.Close()
			return c.Rows.Err()
		},
		"a transaction": func() error {
			tx, err := pool.Begin(t.Context(), providers.TxOptions{})
			if err != nil {
				return err
			}
			err = tx.Run(t.Context(), call(providers.CallExec, `select $1::int`))
			if got := scalar[string](t, tx, look); got != " 0" {
				err = errors.Join(err, fmt.Errorf("the transaction's next statement sees %q", got))
			}
			return errors.Join(err, tx.Commit(t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := use(); err != nil {
				t.Error(err)
			}
			if got := scalar[string](t, other, look); got != " 0" {
				t.Errorf("the next client sees %q", got)
			}
			if got := scalar[int](t, other, `select pg_backend_pid()`); got != server {
				t.Error("on another session, so this proves nothing")
			}
		})
	}
	whole(t, pool)
}

func TestTrap17ScopesOfManyAtOnce(t *testing.T) {
	pool := newPooler(t, 2).open(t, behind(8))
	errs := make(chan error)
	const callers, each = 16, 25
	for i := range callers {
		tenant := fmt.Sprint("tenant ", i)
		go func() {
			errs <- func() error {
				for range each {
					c := &providers.Call{
						SQL: `select current_setting('app.tenant_id') from generate_series(1, $1::int)`, Args: []any{3},
						Scope: []providers.Setting{{Name: "app.tenant_id", Value: tenant}},
					}
					if err := pool.Run(t.Context(), c); err != nil {
						return err
					}
					got, err := pgx.CollectRows(c.Rows, pgx.RowTo[string])
					if err != nil || strings.Join(got, ",") != strings.Join([]string{tenant, tenant, tenant}, ",") {
						return fmt.Errorf("%s sees %v, %w", tenant, got, err)
					}
					var leaked string
					if err := pool.QueryRow(t.Context(), `select coalesce(current_setting('app.tenant_id', true), '')`).Scan(&leaked); err != nil || leaked != "" {
						return fmt.Errorf("without a tenant one sees %q, %w", leaked, err)
					}
				}
				return nil
			}()
		}()
	}
	for range callers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	whole(t, pool)
}

// TestTrap17SessionStateIsNotTouched: there is no session to reset, and a reset
// would hit whoever is served by it at that time.
func TestTrap17SessionStateIsNotTouched(t *testing.T) {
	p := newPooler(t, 1)
	pool, other := p.open(t, behind(1)), p.open(t, behind(1))
	run(t, pool, `set app.left_by = 'somebody'`)
	run(t, pool, `select set_config('app.left_by', $1, false)`, "somebody")
	for range 3 {
		if got := scalar[string](t, other, `select current_setting('app.left_by')`); got != "somebody" {
			t.Errorf("got %q", got)
		}
		whole(t, pool)
	}
	if got := pool.Stats().Resets + other.Stats().Resets; got != 0 {
		t.Errorf("%d resets", got)
	}
	direct := openProfile(t, providers.Config{DSN: p.direct, Pool: providers.PoolStrategy{MaxSize: 1}})
	run(t, direct, `set app.left_by = 'somebody'`)
	if got := scalar[string](t, direct, `select current_setting('app.left_by', true)`); got != "" || direct.Stats().Resets != 1 {
		t.Errorf("without PgBouncer it is reset: %q after %d resets", got, direct.Stats().Resets)
	}
}

// TestTrap17StartupParameters: PgBouncer refuses a session with parameters that
// it does not know how to keep, so the profile refuses them before.
func TestTrap17StartupParameters(t *testing.T) {
	p := newPooler(t, 1)
	cfg := behind(1)
	cfg.DSN, cfg.StatementTimeout = p.through, time.Second
	_, err := provider.Open(t.Context(), cfg)
	var fault *providers.ConfigError
	if !errors.As(err, &fault) || fault.Field != "StatementTimeout" || !strings.Contains(fault.Problem, "ALTER ROLE") {
		t.Errorf("got %v", err)
	}
	pool := p.open(t, providers.Config{StatementTimeout: time.Second})
	err = pool.Ping(t.Context())
	if !errors.Is(err, providers.ErrUnreachable) || !strings.Contains(err.Error(), "unsupported startup parameter: statement_timeout") {
		t.Errorf("what the refusal spares its user: %v", err)
	}
	if got := providers.OutcomeOf(err); got != providers.OutcomeNotSent {
		t.Errorf("outcome %s", got)
	}
	for _, reset := range []providers.SessionReset{providers.ResetAlways, providers.ResetNever} {
		cfg := behind(1)
		cfg.SessionReset = reset
		if err := cfg.Validate(); !errors.As(err, &fault) || fault.Field != "SessionReset" {
			t.Errorf("reset %d has no effect: %v", reset, err)
		}
	}
}
