package pgkeel_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/providers"
)

// capturing is a provider that keeps what it was opened with, and fails.
type capturing struct{ config providers.Config }

var errCaptured = errors.New("captured")

func (c *capturing) Open(_ context.Context, config providers.Config) (providers.Pool, error) {
	c.config = config
	return nil, errCaptured
}

// configOf is the configuration that options make.
func configOf(t *testing.T, dsn string, options ...pgkeel.Option) providers.Config {
	t.Helper()
	var p capturing
	_, err := pgkeel.Open(t.Context(), dsn, append(options, pgkeel.WithProvider(register(t, &p)))...)
	if !errors.Is(err, errCaptured) {
		t.Fatal(err)
	}
	return p.config
}

func TestOpenReportsEveryFaultAtOnce(t *testing.T) {
	observe := func(context.Context, *pgkeel.HookInfo) {}
	db, err := pgkeel.Open(t.Context(), "host=h sslmode=perhaps password=sesame",
		nil,
		pgkeel.WithProvider("none"),
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: -1, MaxLifetime: time.Millisecond, WarmupQueries: []string{" "}}),
		pgkeel.WithProfile(9),
		pgkeel.WithAcquireTimeout(-5),
		pgkeel.WithMaxDials(-1),
		pgkeel.WithHookPanics(7),
		pgkeel.WithHooks(pgkeel.Hook{Name: "idle"}, pgkeel.Hook{Name: "twice", After: observe}, pgkeel.Hook{Name: "twice", After: observe}),
		nil,
	)
	if db != nil {
		t.Error("a handle besides an error")
	}
	mustSay(t, err, pgkeel.ErrUnknownProvider, `"none"`, `"pgx"`)
	mustSay(t, err, pgkeel.ErrInvalidHook, `"idle"`)
	mustSay(t, err, pgkeel.ErrDuplicateHook, `"twice"`)
	fixes := map[string]string{
		"options": "leave it out", "Hooks.Panics": "PropagatePanics", "DSN": "use postgres://",
		"Pool.MaxSize": "leave it 0", "Pool.MaxLifetime": "use Off", "Pool.WarmupQueries[0]": "leave it out",
		"Profile": "ProfileDirect", "AcquireTimeout": "leave it 0", "MaxDials": "leave it 0",
	}
	seen := map[string]int{}
	for _, fault := range faultsOf(err) {
		seen[fault.Field]++
		if fix, known := fixes[fault.Field]; !known || !strings.Contains(fault.Problem, fix) {
			t.Errorf("unexpected: %v", fault)
		}
	}
	if len(seen) != len(fixes) || seen["options"] != 2 {
		t.Errorf("not every fault once, and the nil options twice: %v", seen)
	}
	if strings.Contains(err.Error(), "sesame") {
		t.Errorf("the password is in it: %v", err)
	}
}

// faultsOf are all the configuration's faults in an error.
func faultsOf(err error) (all []*pgkeel.ConfigError) {
	var joined interface{ Unwrap() []error }
	if fault, ok := err.(*pgkeel.ConfigError); ok { //nolint:errorlint // this very one, the tree is walked here
		return append(all, fault)
	}
	if errors.As(err, &joined) {
		for _, err := range joined.Unwrap() {
			all = append(all, faultsOf(err)...)
		}
	}
	return all
}

// An Open that fails leaves no trace in a manager that goes on.
func TestFailedOpenTakesItsHooksBack(t *testing.T) {
	var m pgkeel.HookManager
	hook := pgkeel.Hook{Name: "mine", After: func(context.Context, *pgkeel.HookInfo) {}}
	for range 2 {
		_, err := pgkeel.Open(t.Context(), "", pgkeel.WithConfig(pgkeel.Config{Hooks: &m}), pgkeel.WithHooks(hook), pgkeel.WithMaxDials(-1))
		mustSay(t, err, nil, "MaxDials")
		if errors.Is(err, pgkeel.ErrDuplicateHook) || m.Has(pgkeel.EventQuery) {
			t.Error("the hook stayed")
		}
	}
}

func TestOptionsFillTheConfiguration(t *testing.T) {
	var m pgkeel.HookManager
	whole := pgkeel.Config{
		DSN: "host=whole", Pool: pgkeel.PoolStrategy{MaxSize: 9}, AcquireTimeout: time.Minute, MaxDials: 3, Hooks: &m,
	}
	for name, tc := range map[string]struct {
		options []pgkeel.Option
		check   func(got providers.Config) bool
	}{
		"none": {nil, func(got providers.Config) bool {
			hooks := got.Hooks
			got.Hooks = nil
			return hooks != nil && reflect.DeepEqual(got, providers.Config{DSN: "host=given"})
		}},
		"all at once": {[]pgkeel.Option{pgkeel.WithConfig(whole)}, func(got providers.Config) bool { return reflect.DeepEqual(got, whole) }},
		"no DSN of its own": {
			[]pgkeel.Option{pgkeel.WithConfig(pgkeel.Config{MaxDials: 2})},
			func(got providers.Config) bool { return got.DSN == "host=given" && got.MaxDials == 2 },
		},
		"changed further": {
			[]pgkeel.Option{pgkeel.WithConfig(whole), pgkeel.WithMaxDials(4)},
			func(got providers.Config) bool { return got.MaxDials == 4 && got.AcquireTimeout == time.Minute },
		},
		"what came before is replaced": {
			[]pgkeel.Option{pgkeel.WithMaxDials(4), pgkeel.WithHookPanics(pgkeel.PropagatePanics), pgkeel.WithConfig(pgkeel.Config{})},
			func(got providers.Config) bool {
				return got.MaxDials == 0 && got.Hooks.Panics == pgkeel.RecoverPanics
			},
		},
		"the last of two counts": {
			[]pgkeel.Option{pgkeel.WithMaxDials(4), pgkeel.WithMaxDials(5)},
			func(got providers.Config) bool { return got.MaxDials == 5 },
		},
		"panics in a manager of one's own": {
			[]pgkeel.Option{pgkeel.WithConfig(whole), pgkeel.WithHookPanics(pgkeel.PropagatePanics)},
			func(got providers.Config) bool { return got.Hooks == &m && m.Panics == pgkeel.PropagatePanics },
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := configOf(t, "host=given", tc.options...); !tc.check(got) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestOpenUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // so nobody listens there now
	dsn := (&url.URL{Scheme: "postgres", User: url.UserPassword("u", "sesame"), Host: l.Addr().String()}).String()
	db, err := pgkeel.Open(t.Context(), dsn, one())
	mustSay(t, err, pgkeel.ErrUnreachable, "refused")
	mustBe(t, err, pgkeel.OutcomeNotSent)
	if db != nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("%v, %v", db, err)
	}
	// Without a size to begin with it is found at first use.
	lazy := openDSN(t, dsn)
	mustSay(t, lazy.Ping(t.Context()), pgkeel.ErrUnreachable, "refused")
}
