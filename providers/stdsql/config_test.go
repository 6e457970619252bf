package stdsql

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// someTracer is a tracer that is not nil.
type someTracer struct{}

func (someTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (someTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Every field of the configuration either has an effect or is refused: whoever
// adds one must decide.
func TestEveryFieldHasAnEffectOrIsRefused(t *testing.T) {
	set := map[string]func(*providers.Config){
		"DSN":                      func(c *providers.Config) { c.DSN = "host=x" },
		"Pool.InitialSize":         func(c *providers.Config) { c.Pool.InitialSize = 1 },
		"Pool.MaxSize":             func(c *providers.Config) { c.Pool.MaxSize = 1 },
		"Pool.MinSize":             func(c *providers.Config) { c.Pool.MinSize = 1 },
		"Pool.MaxLifetime":         func(c *providers.Config) { c.Pool.MaxLifetime = time.Hour },
		"Pool.MaxIdleTime":         func(c *providers.Config) { c.Pool.MaxIdleTime = time.Hour },
		"Pool.HealthCheckInterval": func(c *providers.Config) { c.Pool.HealthCheckInterval = time.Hour },
		"Pool.WarmupQueries":       func(c *providers.Config) { c.Pool.WarmupQueries = []string{"select 1"} },
		"Profile":                  func(c *providers.Config) { c.Profile = providers.ProfilePgBouncer },
		"AcquireTimeout":           func(c *providers.Config) { c.AcquireTimeout = time.Hour },
		"ConnectTimeout":           func(c *providers.Config) { c.ConnectTimeout = time.Hour },
		"PingTimeout":              func(c *providers.Config) { c.PingTimeout = time.Hour },
		"StatementTimeout":         func(c *providers.Config) { c.StatementTimeout = time.Hour },
		"KeepAlive":                func(c *providers.Config) { c.KeepAlive = time.Hour },
		"TCPUserTimeout":           func(c *providers.Config) { c.TCPUserTimeout = time.Hour },
		"MaxDials":                 func(c *providers.Config) { c.MaxDials = 1 },
		"SessionReset":             func(c *providers.Config) { c.SessionReset = providers.ResetAlways },
		"LeakAfter":                func(c *providers.Config) { c.LeakAfter = time.Hour },
		"AfterConnect":             func(c *providers.Config) { c.AfterConnect = func(context.Context, *pgx.Conn) error { return nil } },
		"Tracer":                   func(c *providers.Config) { c.Tracer = someTracer{} },
		"Hooks":                    func(c *providers.Config) { c.Hooks = &providers.HookManager{} },
		"Logger":                   func(c *providers.Config) { c.Logger = slog.Default() },
		"Pipelining":               func(c *providers.Config) { c.Pipelining = &providers.Pipelining{} },
		"Scope": func(c *providers.Config) {
			c.Scope = func(context.Context) (providers.Scope, error) { return providers.Scope{}, nil }
		},
		"Route":     func(c *providers.Config) { c.Route = func(context.Context) (string, error) { return "", nil } },
		"OnTrouble": func(c *providers.Config) { c.OnTrouble = func(error) {} },
		"ReadOnly":  func(c *providers.Config) { c.ReadOnly = true },
	}
	effective := []string{
		"Pool.InitialSize", "Pool.MaxSize", "Pool.MaxLifetime", "Pool.MaxIdleTime", "AcquireTimeout", "PingTimeout", "SessionReset", "Hooks", "Scope",
	}
	effectiveWhenMaking := []string{"DSN", "Pool.WarmupQueries", "ConnectTimeout", "StatementTimeout"}
	for _, field := range configFields() {
		if field == "Pool.PreferPrimary" { // refused by every provider
			continue
		}
		apply := set[field]
		if apply == nil {
			t.Errorf("Config.%s: decide whether it has an effect over database/sql, and say so in withoutEffect", field)
			continue
		}
		var c providers.Config
		apply(&c)
		for _, makes := range []bool{true, false} {
			ok := slices.Contains(effective, field) || makes && slices.Contains(effectiveWhenMaking, field)
			var bad *providers.ConfigError
			err := withoutEffect(c, makes)
			if refused := errors.As(err, &bad) && bad.Field == field; refused == ok || (err != nil) == ok {
				t.Errorf("%s, making connections %v: %v", field, makes, err)
			}
		}
	}
}

func configFields() []string {
	var fields []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[providers.Config]()) {
		if f.Name != "Pool" {
			fields = append(fields, f.Name)
			continue
		}
		for _, inner := range reflect.VisibleFields(f.Type) {
			fields = append(fields, "Pool."+inner.Name)
		}
	}
	return fields
}

func TestServerless(t *testing.T) {
	c := withDefaults(providers.Config{Profile: providers.ProfileServerless})
	if c.ConnectTimeout != serverlessConnectTimeout || c.Pool.MaxIdleTime != serverlessMaxIdleTime {
		t.Errorf("%+v", c)
	}
	if err := withoutEffect(providers.Config{Profile: providers.ProfileServerless}, false); err == nil {
		t.Error("the limits of an open *sql.DB are the caller's")
	}
}

func TestDefaults(t *testing.T) {
	c := withDefaults(providers.Config{DSN: "host=x connect_timeout=7"})
	if c.ConnectTimeout != 7*time.Second || c.Pool.MaxSize < 4 || c.Pool.MaxLifetime != providers.DefaultMaxLifetime || c.Pool.MaxIdleTime != providers.DefaultMaxIdleTime {
		t.Errorf("%+v", c)
	}
}

func TestConnectDSN(t *testing.T) {
	for _, tc := range []struct{ dsn, want string }{
		{"", "connect_timeout=2 statement_timeout=1"},
		{"host=x", "host=x connect_timeout=2 statement_timeout=1"},
		{"postgres://u:p@h/d", "postgres://u:p@h/d?connect_timeout=2&statement_timeout=1"},
		{"postgresql://h/d?connect_timeout=9&sslmode=disable", "postgresql://h/d?connect_timeout=2&sslmode=disable&statement_timeout=1"},
		{"postgres://%zz", "postgres://%zz connect_timeout=2 statement_timeout=1"}, // the driver complains
	} {
		c := providers.Config{DSN: tc.dsn, ConnectTimeout: 1001 * time.Millisecond, StatementTimeout: time.Microsecond}
		if got := connectDSN(c); got != tc.want {
			t.Errorf("%q became %q, want %q", tc.dsn, got, tc.want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	db := sql.OpenDB(dsnConnector{})
	defer db.Close()
	for what, open := range map[string]func() (providers.Pool, error){
		"neither": func() (providers.Pool, error) { return Provider{}.Open(t.Context(), providers.Config{}) },
		"both": func() (providers.Pool, error) {
			return Provider{DB: db, Driver: "pgx"}.Open(t.Context(), providers.Config{})
		},
		"unknown driver": func() (providers.Pool, error) { return Provider{Driver: "none"}.Open(t.Context(), providers.Config{}) },
		"a DSN as well": func() (providers.Pool, error) {
			return Provider{DB: db}.Open(t.Context(), providers.Config{DSN: "host=x"})
		},
		"a bad DSN": func() (providers.Pool, error) {
			return Provider{Driver: "pgx"}.Open(t.Context(), providers.Config{DSN: "x"})
		},
		"pgxpool's parameter": func() (providers.Pool, error) {
			return Provider{Driver: "pgx"}.Open(t.Context(), providers.Config{DSN: "host=x pool_max_conns=3"})
		},
	} {
		if p, err := open(); err == nil || p != nil {
			t.Errorf("%s: opened", what)
		} else if !strings.HasPrefix(err.Error(), "pgkeel: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
