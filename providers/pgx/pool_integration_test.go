package pgx

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// TestTrap05NoStateTravels leaves every kind of state in a session, and looks
// for it as the next borrower.
func TestTrap05NoStateTravels(t *testing.T) {
	for name, tc := range map[string]struct{ leave, look, clean string }{
		"setting":          {"set application_name = 'left'", "select current_setting('application_name')", ""},
		"set_config":       {"select set_config('app.tenant', 'left', false)", "select coalesce(current_setting('app.tenant', true), '')", ""},
		"role":             {"set role pg_monitor", "select current_user::text", "postgres"},
		"listen":           {"listen left_behind", "select count(*)::text from pg_listening_channels()", "0"},
		"advisory lock":    {"select pg_advisory_lock(5)", "select count(*)::text from pg_locks where locktype = 'advisory'", "0"},
		"temporary table":  {"create temp table left_behind (n int)", "select coalesce(to_regclass('pg_temp.left_behind')::text, '')", ""},
		"cursor with hold": {"begin; declare c cursor with hold for select 1; commit", "select count(*)::text from pg_cursors where name = 'c'", "0"},
		"in a DO block":    {"do $$ begin perform set_config('app.tenant', 'left', false); end $$", "select coalesce(current_setting('app.tenant', true), '')", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := balanced(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
			pid := value[int](t, p, "select pg_backend_pid()")
			for _, borrow := range []func(){
				func() { mustExec(t, p, tc.leave) },
				func() {
					c := acquireN(t, p, 1)[0]
					defer c.Release()
					mustExec(t, c, tc.leave)
				},
				func() {
					c, err := p.Unwrap().Acquire(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					defer c.Release()
					if _, err := c.Exec(t.Context(), tc.leave); err != nil {
						t.Fatal(err)
					}
				},
			} {
				borrow()
				if got := value[string](t, p, tc.look); got != tc.clean {
					t.Errorf("the next borrower sees %q, want %q", got, tc.clean)
				}
			}
			if now := value[int](t, p, "select pg_backend_pid()"); now != pid || p.Stats().Resets < 3 {
				t.Errorf("%d resets, and the connection was replaced: %v", p.Stats().Resets, now != pid)
			}
		})
	}
}

func TestTrap05ResetPolicies(t *testing.T) {
	const look = "select current_setting('application_name')"
	for policy, want := range map[providers.SessionReset]string{providers.ResetNever: "left", providers.ResetAlways: "", providers.ResetDirty: "left"} {
		p := balanced(t, providers.Config{SessionReset: policy})
		// What a function does inside cannot be seen in the statement's text.
		mustExec(t, p, `create function leave() returns void language plpgsql as $$ begin set application_name = 'left'; end $$`)
		mustExec(t, p, "select leave()")
		if got := value[string](t, p, look); got != want {
			t.Errorf("policy %d: %q, want %q", policy, got, want)
		}
	}
}

// TestTrap05AConnectionThatWasShownIsNotReused keeps a raw connection.
func TestTrap05AConnectionThatWasShownIsNotReused(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{})
	raw := tx.Conn()
	mustCommit(t, tx)
	eventually(t, "the raw connection is closed", raw.IsClosed)
	if raw.PgConn().PID() == value[uint32](t, p, "select pg_backend_pid()") {
		t.Error("the next borrower shares it")
	}
}

// TestTrap06ReleaseIsSeenOfDestroyedConnections: pgxpool's own callback is left
// out for those.
func TestTrap06ReleaseIsSeenOfDestroyedConnections(t *testing.T) {
	hooks, seen := watched(t)
	p := balanced(t, providers.Config{Hooks: hooks})
	seen.forget()
	c := acquireN(t, p, 1)[0]
	_, _ = c.Exec(t.Context(), "select pg_terminate_backend(pg_backend_pid())")
	c.Release()
	eventually(t, "the release is seen", func() bool { return len(seen.of(providers.EventRelease)) == 1 })
}

// TestTrap07MinSizeIsRestoredAtOnce does not wait for the health check.
func TestTrap07MinSizeIsRestoredAtOnce(t *testing.T) {
	const size = 4
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MinSize: size, MaxSize: size, HealthCheckInterval: time.Hour}})
	full := func() bool { return p.Stats().Open == size && p.Stats().Idle == size }
	eventually(t, "the pool is warm", full)
	before := p.Stats().Connects
	p.Reset()
	eventually(t, "it is full after a reset", func() bool { return full() && p.Stats().Connects >= before+size })
	killer := openPool(t, providers.Config{DSN: p.cfg.DSN, Pool: providers.PoolStrategy{MaxSize: 1}})
	before = p.Stats().Connects
	mustExec(t, killer, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
	eventually(t, "it is full after an outage", func() bool { return full() && p.Stats().Connects >= before+size })
	if n := value[int](t, p, "select 1"); n != 1 {
		t.Error(n)
	}
}

func TestTrap10CloseDrains(t *testing.T) {
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 2}})
	c := acquireN(t, p, 1)[0]
	closed := make(chan error, 1)
	go func() { closed <- p.Close(context.Background()) }()
	eventually(t, "intake has stopped", func() bool {
		_, err := p.Exec(t.Context(), "select 1")
		return errors.Is(err, providers.ErrPoolClosed)
	})
	if n := value[int](t, c, "select 1"); n != 1 { // the borrower goes on
		t.Error(n)
	}
	select {
	case err := <-closed:
		t.Fatalf("Close did not wait: %v", err)
	default:
	}
	c.Release()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestTrap10CloseNamesAndEndsWhoHolds(t *testing.T) {
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 2}, LeakAfter: time.Hour})
	ctx := providers.WithCorrelationID(t.Context(), "request-7")
	c, err := p.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	closing, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = p.Close(closing)
	var closed *providers.CloseError
	if !errors.As(err, &closed) || len(closed.Holders) != 1 || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("want one holder, got %v", err)
	}
	if h := closed.Holders[0]; h.CorrelationID != "request-7" || !strings.Contains(h.Stack, "TestTrap10CloseNamesAndEndsWhoHolds") {
		t.Errorf("the holder is %+v", h)
	}
	if _, err := c.Exec(t.Context(), "select 1"); !errors.Is(err, providers.ErrReleased) {
		t.Errorf("the connection was not taken from its holder: %v", err)
	}
	if again := p.Close(t.Context()); again == nil || again.Error() != err.Error() {
		t.Errorf("the second Close says %v", again)
	}
}

// Nobody can give back what was forgotten, so Close itself finds it.
func TestTrap10CloseFindsWhatWasForgotten(t *testing.T) {
	for name, forget := range map[string]func(p *Pool) error{
		"a row":  func(p *Pool) error { _ = p.QueryRow(t.Context(), "select 1"); return nil },
		"rows":   func(p *Pool) error { _, err := p.Query(t.Context(), "select 1"); return err },
		"a conn": func(p *Pool) error { _, err := p.Acquire(t.Context()); return err },
		"a transaction": func(p *Pool) error {
			_, err := p.Begin(t.Context(), providers.TxOptions{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := openPool(t, providers.Config{})
			if err := forget(p); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := p.Close(ctx); err != nil || p.Stats().Reclaimed != 1 {
				t.Errorf("%d came back by themselves: %v", p.Stats().Reclaimed, err)
			}
		})
	}
}

func TestWarmUp(t *testing.T) {
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{
		InitialSize: 3, MaxSize: 5, WarmupQueries: []string{"set application_name = 'warm'", "select 1"},
	}})
	if open := p.Stats().Open; open != 3 {
		t.Errorf("%d connections are open", open)
	}
	if got := value[string](t, p, "select current_setting('application_name')"); got != "warm" {
		t.Errorf("the warm-up queries did not run: %q", got)
	}
	mustExec(t, p, "set application_name = 'other'") // the reset runs them again
	if got := value[string](t, p, "select current_setting('application_name')"); got != "warm" {
		t.Errorf("after a reset: %q", got)
	}
	_, err := Open(t.Context(), providers.Config{DSN: p.cfg.DSN, Pool: providers.PoolStrategy{
		InitialSize: 2, MaxSize: 2, WarmupQueries: []string{"select 1", "select nothing"},
	}})
	if pg := providers.NewPGError(err); pg == nil || pg.Code != "42703" || !strings.Contains(err.Error(), "warm-up query 1") {
		t.Errorf("a warm-up query that fails: %v", err)
	}
}

func TestLeakIsReportedOnce(t *testing.T) {
	var log logBuffer
	p := openPool(t, providers.Config{LeakAfter: 50 * time.Millisecond, Logger: log.logger()})
	c := acquireN(t, p, 1)[0]
	defer c.Release()
	eventually(t, "the report names the stack", func() bool { return strings.Contains(log.String(), "acquireN") })
	p.watchBorrowers(time.Now().Add(time.Hour))
	if n := p.Stats().Leaks; n != 1 {
		t.Errorf("one leak is counted as %d", n)
	}
	if n := strings.Count(log.String(), "acquireN"); n != 1 {
		t.Errorf("one leak is reported %d times", n)
	}
}
