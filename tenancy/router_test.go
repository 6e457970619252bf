package tenancy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// paths are all ways into a router, each of which returns its error.
var paths = map[string]func(ctx context.Context, r *Router) error{
	"Query": func(ctx context.Context, r *Router) error {
		rows, err := r.Query(ctx, "select 1")
		if rows == nil {
			return errors.New("no rows to close")
		}
		rows.Close()
		return errors.Join(err, rows.Err())
	},
	"QueryRow": func(ctx context.Context, r *Router) error {
		err := r.QueryRow(ctx, "select 1").Scan(nil)
		if errors.Is(err, pgx.ErrNoRows) {
			err = nil // the fake has none
		}
		return err
	},
	"Exec": func(ctx context.Context, r *Router) error {
		_, err := r.Exec(ctx, "select 1")
		return err
	},
	"Run": func(ctx context.Context, r *Router) error {
		return r.Run(ctx, &providers.Call{Kind: providers.CallExec, SQL: "select 1"})
	},
	"Acquire": func(ctx context.Context, r *Router) error {
		c, err := r.Acquire(ctx)
		if err == nil {
			c.Release()
		}
		return err
	},
	"Begin": func(ctx context.Context, r *Router) error {
		tx, err := r.Begin(ctx, providers.TxOptions{})
		if err == nil {
			err = tx.Rollback(ctx)
		}
		return err
	},
	"BeginWith": func(ctx context.Context, r *Router) error {
		tx, err := r.BeginWith(ctx, providers.TxOptions{}, providers.Statement{SQL: "select 1"})
		if err == nil {
			err = tx.Rollback(ctx)
		}
		return err
	},
	"SendBatch": func(ctx context.Context, r *Router) error {
		b := &pgx.Batch{}
		b.Queue("select 1")
		return r.SendBatch(ctx, b).Close()
	},
	"RunBatch": func(ctx context.Context, r *Router) error {
		done := false
		return r.RunBatch(ctx, &providers.BatchCall{Group: 1, MaxStatements: 1, MaxBytes: 1, Next: func() (*pgx.QueuedQuery, error) {
			if done {
				return nil, nil
			}
			done = true
			return &pgx.QueuedQuery{SQL: "select 1"}, nil
		}})
	},
	"CopyFrom": func(ctx context.Context, r *Router) error {
		_, err := r.CopyFrom(ctx, pgx.Identifier{"notes"}, []string{"tenant", "n"}, pgx.CopyFromRows([][]any{{"x", 1}}))
		return err
	},
	"CopyFromReader": func(ctx context.Context, r *Router) error {
		_, err := r.CopyFromReader(ctx, strings.NewReader("x\t1\n"), "copy notes from stdin")
		return err
	},
	"CopyToWriter": func(ctx context.Context, r *Router) error {
		_, err := r.CopyToWriter(ctx, &bytes.Buffer{}, "copy notes to stdout")
		return err
	},
	"PoolFor": func(ctx context.Context, r *Router) error {
		_, release, err := r.PoolFor(ctx)
		if err == nil {
			release()
			release()
		}
		return err
	},
}

// Who has no tenant, or one that cannot be, gets nowhere, on any path.
func TestContextsThatAreRefused(t *testing.T) {
	w := newWorld()
	r := openRouterWith(t, fakeTowns(1, 1), providers.Config{}, w.Open)
	for name, tc := range map[string]struct {
		ctx  context.Context
		err  error
		text string
	}{
		"no tenant":     {t.Context(), ErrNoTenant, ""},
		"empty tenant":  {as(t.Context(), ""), ErrNoTenant, ""},
		"unknown":       {as(t.Context(), "x"), ErrUnknownTenant, `"x"`},
		"NUL":           {as(t.Context(), "t0\x00"), nil, "NUL"},
		"long":          {as(t.Context(), strings.Repeat("x", 256)), nil, "256 bytes"},
		"bypass":        {Bypass(as(t.Context(), "t0"), "test"), errNoAdmin, "AdminDSN"},
		"bypass of all": {Bypass(as(t.Context(), "t0"), " "), nil, "reason"},
	} {
		for path, do := range paths {
			err := do(tc.ctx, r)
			if err == nil || !errors.Is(err, tc.err) && tc.err != nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s, %s: %v", name, path, err)
			}
			if providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Errorf("%s, %s: outcome %s", name, path, providers.OutcomeOf(err))
			}
		}
	}
	if w.opened != 0 {
		t.Errorf("%d pools were opened", w.opened)
	}
	if err := r.Ping(Bypass(t.Context(), "test")); !errors.Is(err, errNoAdmin) {
		t.Error(err)
	}
	if err := r.Ping(t.Context()); err != nil {
		t.Errorf("nothing is open, so nothing is down: %v", err)
	}
}

func TestCapabilitiesThatTheProviderLacks(t *testing.T) {
	r := openRouterWith(t, fakeTowns(1, 1), providers.Config{}, newWorld().Open)
	for _, path := range []string{"BeginWith", "SendBatch", "RunBatch", "CopyFrom", "CopyFromReader", "CopyToWriter"} {
		err := paths[path](as(t.Context(), "t0"), r)
		if !errors.Is(err, errors.ErrUnsupported) || providers.OutcomeOf(err) != providers.OutcomeNotSent || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{"Query", "QueryRow", "Exec", "Run", "Acquire", "PoolFor"} {
		if err := paths[path](as(t.Context(), "t0"), r); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestBypassHasADatabaseIfItIsNamed(t *testing.T) {
	w := newWorld()
	r := openRouterWith(t, fakeTowns(1, 1), providers.Config{}, w.Open, AdminDSN("host=admin"))
	admin := Bypass(as(t.Context(), "t0"), "test")
	for ctx, want := range map[context.Context]string{admin: "host=admin", as(t.Context(), "t0"): dsnOf(0)} {
		if tag, err := r.Exec(ctx, ""); tag.String() != want || err != nil {
			t.Errorf("%v, %v", tag, err)
		}
	}
	if err := errors.Join(r.Ping(admin), r.Ping(t.Context()), r.Ping(as(t.Context(), "t0"))); err != nil {
		t.Error(err)
	}
	if err := r.Ping(as(t.Context(), "x")); !errors.Is(err, ErrUnknownTenant) {
		t.Error(err)
	}
}

func TestPingOfAllNamesWhatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(3, 3), sized(1), w.Open, AdminDSN("host=admin"))
		for i := range 3 {
			hold(t, r, fmt.Sprint("t", i), 1)()
		}
		for _, dsn := range []string{dsnOf(1), "host=admin"} {
			if err := r.Ping(Bypass(t.Context(), "test")); err != nil {
				t.Fatal(err)
			}
			w.pool(dsn).set(func(p *fakePool) { p.down = errors.New("refused") })
		}
		r.Reset()
		err := r.Ping(t.Context())
		if err == nil || !strings.Contains(err.Error(), "AdminDSN") {
			t.Error(err)
		}
		if !errors.Is(err, providers.ErrUnreachable) || !strings.Contains(err.Error(), `"t1"`) || strings.Contains(err.Error(), `"t0"`) {
			t.Error(err)
		}
	})
}

// What was taken for one tenant refuses a context of another, also where both have
// the same database.
func TestScopesOfADatabase(t *testing.T) {
	w := newWorld()
	r := openRouterWith(t, fakeTowns(4, 2), providers.Config{}, w.Open, AdminDSN(dsnOf(0)))
	for i := range 4 {
		hold(t, r, fmt.Sprint("t", i), 1)()
	}
	if err := paths["Exec"](Bypass(t.Context(), "test"), r); err != nil {
		t.Fatal(err)
	}
	scope := w.pool(dsnOf(0)).cfg.Scope
	for tenant, want := range map[string]string{"t0": "[]", "t2": "[{pgkeel.tenant t2}]"} {
		got, err := scope(as(t.Context(), tenant))
		if fmt.Sprint(got.Settings) != want || got.Gate == nil || err != nil {
			t.Errorf("%s: %v, %v", tenant, got, err)
		}
	}
	if got, err := scope(Bypass(t.Context(), "test")); fmt.Sprint(got.Settings) != "[{pgkeel.tenant }]" || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := scope(as(t.Context(), "t1")); !errors.Is(err, errOtherTenant) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("a tenant of another database: %v", err)
	}
	if _, err := scope(t.Context()); !errors.Is(err, ErrNoTenant) {
		t.Errorf("no tenant: %v", err)
	}
}

func TestConfigurationOfEachPool(t *testing.T) {
	w := newWorld()
	hooks := &providers.HookManager{}
	r := openRouterWith(t, fakeTowns(1, 1), providers.Config{ConnectTimeout: 7, Hooks: hooks}, w.Open, MaxConnections(3))
	hold(t, r, "t0", 1)()
	cfg := w.configs[0]
	if cfg.DSN != dsnOf(0) || cfg.Pool.MaxSize != 3 || cfg.Pool.MaxIdleTime != DefaultPoolIdleTime || cfg.ConnectTimeout != 7 || cfg.Hooks != hooks {
		t.Errorf("%+v", cfg)
	}
	r = openRouterWith(t, fakeTowns(1, 1), providers.Config{
		Profile: providers.ProfileServerless, Pool: providers.PoolStrategy{MaxIdleTime: providers.Off},
	}, w.Open)
	hold(t, r, "t0", 1)()
	if cfg := w.configs[1]; cfg.Pool.MaxSize != DefaultPoolSize || cfg.Pool.MaxIdleTime != providers.Off || r.first != 30*time.Second {
		t.Errorf("%+v", cfg)
	}
}

func TestAPoolThatCannotBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		bad := &providers.ConfigError{Field: "DSN", Problem: "password geheim"}
		w.refuse = func(dsn string) error {
			if dsn == dsnOf(0) {
				return bad
			}
			return nil
		}
		r := openRouterWith(t, fakeTowns(2, 2), providers.Config{}, w.Open)
		for range 2 {
			_, err := r.Exec(as(t.Context(), "t0"), "")
			if !errors.Is(err, bad) || strings.Contains(err.Error(), "geheim") || providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Errorf("%v", err)
			}
		}
		if err := paths["Exec"](as(t.Context(), "t1"), r); err != nil {
			t.Errorf("another tenant: %v", err)
		}
		if s := r.DatabaseStats(); s.Pools != 1 || s.Opened != 1 {
			t.Errorf("%+v", s)
		}
		w.refuse = nil
		if err := paths["Exec"](as(t.Context(), "t0"), r); err != nil {
			t.Errorf("it can be opened now: %v", err)
		}
	})
}

// One slow opening holds up nobody but those who need it.
func TestASlowOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		blocked := make(chan struct{})
		r := openRouterWith(t, fakeTowns(2, 2), providers.Config{}, func(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
			if cfg.DSN == dsnOf(0) {
				select {
				case <-blocked:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return w.Open(ctx, cfg)
		})
		ctx, cancel := context.WithTimeout(as(t.Context(), "t0"), time.Second)
		defer cancel()
		if err := paths["Exec"](ctx, r); !errors.Is(err, context.DeadlineExceeded) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Error(err)
		}
		if err := errors.Join(paths["Exec"](as(t.Context(), "t1"), r), r.Ping(t.Context())); err != nil {
			t.Error(err)
		}
		if s := r.Stats(); s.Open != 1 {
			t.Errorf("%+v", s)
		}
		r.Reset()
		if s := r.Stats(); s.Open != 0 {
			t.Errorf("%+v", s)
		}
		waiting := make(chan error, 1)
		go func() { waiting <- paths["Exec"](as(t.Context(), "t0"), r) }()
		synctest.Wait()
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-waiting; !errors.Is(err, providers.ErrPoolClosed) {
			t.Error(err)
		}
	})
}

func TestStatsAreSums(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := openRouterWith(t, fakeTowns(3, 3), sized(2), w.Open, MaxPools(2), MaxConnections(9))
		for i := range 3 {
			hold(t, r, fmt.Sprint("t", i), 1)()
			<-time.After(time.Second)
		}
		release := hold(t, r, "t2", 1)
		s := r.Stats()
		// The fake counts one acquire for each pool.
		if s.MaxSize != 9 || s.Open != 2 || s.InUse != 1 || s.Idle != 1 || s.Acquires != 3 || s.HookPanics != 7 {
			t.Errorf("%+v", s)
		}
		ctx, cancel := context.WithCancel(as(t.Context(), "t2"))
		defer hold(t, r, "t2", 1)()
		waiting := make(chan error, 1)
		go func() { waiting <- paths["Exec"](ctx, r) }()
		<-time.After(3 * time.Second)
		if s := r.Stats(); s.Waiters != 1 || s.OldestWait != 3*time.Second {
			t.Errorf("%d wait, the first for %s", s.Waiters, s.OldestWait)
		}
		cancel()
		<-waiting
		release()
	})
}

// A tenant that moved is followed: what is under way goes on where it is, what is
// new goes to the new database, also what waited, and the old pool is closed.
func TestATenantMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		d := fakeTowns(1, 1)
		r := openRouterWith(t, d, sized(1), w.Open)
		conn, err := r.Acquire(as(t.Context(), "t0"))
		if err != nil {
			t.Fatal(err)
		}
		waited := make(chan string, 1)
		go func() {
			tag, err := r.Exec(as(t.Context(), "t0"), "")
			waited <- fmt.Sprintln(tag, err)
		}()
		synctest.Wait()
		d.set("t0", dsnOf(1))
		<-time.After(2 * DefaultDirectoryTTL)
		if tag, err := r.Exec(as(t.Context(), "t0"), ""); tag.String() != dsnOf(1) || err != nil {
			t.Errorf("new work: %v, %v", tag, err)
		}
		if _, err := w.pool(dsnOf(0)).cfg.Scope(as(t.Context(), "t0")); err != nil {
			t.Errorf("what is under way is refused: %v", err)
		}
		if s := r.DatabaseStats(); s.Closing != 1 || s.Pools != 1 || s.TenantMoves != 1 {
			t.Errorf("%+v", s)
		}
		conn.Release()
		if got := <-waited; got != fmt.Sprintln(dsnOf(1), nil) {
			t.Errorf("what waited: %s", got)
		}
		synctest.Wait()
		if s := r.DatabaseStats(); s.Closing != 0 || s.Closed != 1 || s.Permits != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// What a tenant that moved leaves under way has DrainTimeout to end.
func TestDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := newWorld()
		d := fakeTowns(1, 1)
		r := openRouterWith(t, d, providers.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, w.Open,
			DirectoryTTL(time.Second), DirectoryTimeout(time.Second), DrainTimeout(10*time.Second))
		release := hold(t, r, "t0", 1)
		d.set("t0", dsnOf(1))
		<-time.After(2 * time.Second)
		if tag, err := r.Exec(as(t.Context(), "t0"), ""); tag.String() != dsnOf(1) || err != nil {
			t.Errorf("%v, %v", tag, err)
		}
		<-time.After(9 * time.Second)
		if s := r.DatabaseStats(); s.Closing != 1 {
			t.Errorf("%+v", s)
		}
		<-time.After(2 * time.Second)
		if s := r.DatabaseStats(); s.Closing != 0 || s.Closed != 1 {
			t.Errorf("%+v", s)
		}
		if !strings.Contains(log.String(), "closed by force") || strings.Contains(log.String(), "geheim") {
			t.Errorf("log: %s", log.String())
		}
		release()
	})
}

func TestDatabaseOptionsAreChecked(t *testing.T) {
	d := fakeTowns(1, 1)
	for name, tc := range map[string]struct {
		mode Mode
		cfg  providers.Config
		want string
	}{
		"nothing":       {Database(d), providers.Config{}, ""},
		"all":           {Database(d, MaxConnections(8), MaxPools(1), DirectoryTTL(1), DirectoryTimeout(1), DrainTimeout(1), AdminDSN("host=a")), sized(8), ""},
		"no directory":  {Database(nil), providers.Config{}, "Tenancy.Directory"},
		"nil function":  {Database(DirectoryFunc(nil)), providers.Config{}, "Tenancy.Directory"},
		"nil option":    {Database(d, nil), providers.Config{}, "Tenancy.Database"},
		"no connection": {Database(d, MaxConnections(0)), providers.Config{}, "Tenancy.MaxConnections"},
		"too many":      {Database(d, MaxConnections(1<<40)), providers.Config{}, "Tenancy.MaxConnections"},
		"no pools":      {Database(d, MaxPools(-1)), providers.Config{}, "Tenancy.MaxPools"},
		"no TTL":        {Database(d, DirectoryTTL(-1)), providers.Config{}, "Tenancy.DirectoryTTL"},
		"no time":       {Database(d, DirectoryTimeout(0)), providers.Config{}, "Tenancy.DirectoryTimeout"},
		"no drain":      {Database(d, DrainTimeout(-5)), providers.Config{}, "Tenancy.DrainTimeout"},
		"bad admin":     {Database(d, AdminDSN("postgres://a:geheim@h:port/")), providers.Config{}, "Tenancy.AdminDSN"},
		"empty admin":   {Database(d, AdminDSN("")), providers.Config{}, "Tenancy.AdminDSN"},
		"no places":     {Database(d, TenantConcurrency(0)), providers.Config{}, "Tenancy.TenantConcurrency"},
		"no usage":      {Database(d, TenantUsage(nil)), providers.Config{}, "Tenancy.TenantUsage"},
		"no statement":  {Database(d, TenantStatementTimeout(0)), providers.Config{}, "Tenancy.TenantStatementTimeout"},
		"DSN":           {Database(d), providers.Config{DSN: "host=h password=geheim"}, "DSN"},
		"scope":         {Database(d), providers.Config{Scope: func(context.Context) (providers.Scope, error) { return providers.Scope{}, nil }}, "Scope"},
		"pipelining":    {Database(d), providers.Config{Pipelining: &providers.Pipelining{}}, "Pipelining"},
		"kept":          {Database(d), providers.Config{Pool: providers.PoolStrategy{MinSize: 1}}, "Pool.MinSize"},
		"initial":       {Database(d), providers.Config{Pool: providers.PoolStrategy{InitialSize: 1}}, "Pool.InitialSize"},
		"over":          {Database(d, MaxConnections(7)), sized(8), "Pool.MaxSize"},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // as often as one likes
				pool, err := tc.mode.Open(t.Context(), tc.cfg, newWorld().Open)
				if tc.want == "" {
					if err != nil {
						t.Fatal(err)
					}
					_ = pool.Close(t.Context())
					continue
				}
				var fault *providers.ConfigError
				if !errors.As(err, &fault) || fault.Field != tc.want || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "%!") {
					t.Errorf("%v, want a fault of %s", err, tc.want)
				}
			}
		})
	}
}
