package providers_test

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// fields returns the fields that err complains about, each once, sorted.
func fields(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T is no list of faults", err)
	}
	var got []string
	for _, e := range joined.Unwrap() {
		var fault *providers.ConfigError
		if !errors.As(e, &fault) {
			t.Fatalf("%v is no *ConfigError", e)
		}
		if fault.Problem == "" || strings.Contains(fault.Problem, "%!") {
			t.Errorf("%s: %q", fault.Field, fault.Problem)
		}
		got = append(got, fault.Field)
	}
	slices.Sort(got)
	return slices.Compact(got)
}

func TestConfigValidate(t *testing.T) {
	type (
		config = providers.Config
		pool   = providers.PoolStrategy
	)
	const dsn = "host=localhost user=app"
	for name, tc := range map[string]struct {
		config config
		want   []string
	}{
		"zero":                     {config{}, nil},
		"URL":                      {config{DSN: "postgres://app:pw@localhost:5432/db?sslmode=disable"}, nil},
		"keywords":                 {config{DSN: dsn}, nil},
		"NUL":                      {config{DSN: "host=local\x00host"}, []string{"DSN"}},
		"no DSN at all":            {config{DSN: "localhost"}, []string{"DSN"}},
		"bad port":                 {config{DSN: "postgres://localhost:port/db"}, []string{"DSN"}},
		"bad pool size in the DSN": {config{DSN: "host=localhost pool_max_conns=many"}, []string{"DSN"}},
		"huge":                     {config{DSN: strings.Repeat("x", 1<<20)}, []string{"DSN"}},

		"sizes":                    {config{Pool: pool{MaxSize: 5, MinSize: 5, InitialSize: 5}}, nil},
		"largest":                  {config{Pool: pool{MaxSize: math.MaxInt32, MinSize: math.MaxInt32, InitialSize: math.MaxInt32}}, nil},
		"negative sizes":           {config{Pool: pool{MaxSize: -1, MinSize: -1, InitialSize: -1}}, []string{"Pool.InitialSize", "Pool.MaxSize", "Pool.MinSize"}},
		"smallest":                 {config{Pool: pool{MaxSize: math.MinInt32, MinSize: 1}}, []string{"Pool.MaxSize"}},
		"minimum over maximum":     {config{Pool: pool{MaxSize: 5, MinSize: 6}}, []string{"Pool.MinSize"}},
		"initial over maximum":     {config{Pool: pool{MaxSize: 5, InitialSize: 6}}, []string{"Pool.InitialSize"}},
		"initial over minimum":     {config{Pool: pool{MaxSize: 5, MinSize: 1, InitialSize: 3}}, nil},
		"minimum over DSN's":       {config{DSN: dsn + " pool_max_conns=3", Pool: pool{MinSize: 4}}, []string{"Pool.MinSize"}},
		"initial over DSN's":       {config{DSN: dsn + " pool_max_conns=3", Pool: pool{InitialSize: 4}}, []string{"Pool.InitialSize"}},
		"DSN's minimum over":       {config{DSN: dsn + " pool_min_conns=9", Pool: pool{MaxSize: 5}}, []string{"Pool.MinSize"}},
		"strategy goes before DSN": {config{DSN: dsn + " pool_max_conns=3", Pool: pool{MaxSize: 10, MinSize: 4}}, nil},

		"lifetimes off":        {config{Pool: pool{MaxLifetime: providers.Off, MaxIdleTime: providers.Off}}, nil},
		"lifetime of a second": {config{Pool: pool{MaxLifetime: time.Second, MaxIdleTime: 1, HealthCheckInterval: time.Millisecond}}, nil},
		"lifetime too short":   {config{Pool: pool{MaxLifetime: time.Second - 1}}, []string{"Pool.MaxLifetime"}},
		"lifetime negative":    {config{Pool: pool{MaxLifetime: -2}}, []string{"Pool.MaxLifetime"}},
		"idle time negative":   {config{Pool: pool{MaxIdleTime: -time.Second}}, []string{"Pool.MaxIdleTime"}},
		"nothing but checks":   {config{Pool: pool{HealthCheckInterval: 15}}, []string{"Pool.HealthCheckInterval"}},
		"no health checks":     {config{Pool: pool{HealthCheckInterval: providers.Off}}, []string{"Pool.HealthCheckInterval"}},

		"warm-up": {config{Pool: pool{WarmupQueries: []string{"select 1", "select ';'"}}}, nil},
		"warm-up with faults": {
			config{Pool: pool{WarmupQueries: []string{"", "select 1", " \n", "select '\x00'"}}},
			[]string{"Pool.WarmupQueries[0]", "Pool.WarmupQueries[2]", "Pool.WarmupQueries[3]"},
		},
		"a preference without replicas": {config{Pool: pool{PreferPrimary: true}}, []string{"Pool.PreferPrimary"}},

		"profiles":                       {config{Profile: providers.ProfilePgBouncer}, nil},
		"no such profile":                {config{Profile: providers.ProfileServerless + 1}, []string{"Profile"}},
		"no such reset":                  {config{SessionReset: providers.ResetNever + 1}, []string{"SessionReset"}},
		"PgBouncer, reset":               {config{Profile: providers.ProfilePgBouncer, SessionReset: providers.ResetAlways}, []string{"SessionReset"}},
		"PgBouncer, limit":               {config{Profile: providers.ProfilePgBouncer, StatementTimeout: time.Second}, []string{"StatementTimeout"}},
		"serverless":                     {config{Profile: providers.ProfileServerless, Pool: pool{InitialSize: 2}}, nil},
		"serverless, awake":              {config{Profile: providers.ProfileServerless, Pool: pool{MinSize: 1}}, []string{"Pool.MinSize"}},
		"serverless, awake by DSN":       {config{DSN: dsn + " pool_min_conns=1", Profile: providers.ProfileServerless}, []string{"DSN"}},
		"serverless, awake by DSN, idle": {config{DSN: dsn + " pool_min_idle_conns=1", Profile: providers.ProfileServerless}, []string{"DSN"}},
		"direct, minimum by DSN":         {config{DSN: dsn + " pool_min_conns=1"}, nil},

		"off where it may be": {config{AcquireTimeout: providers.Off, KeepAlive: providers.Off, TCPUserTimeout: providers.Off}, nil},
		"off where it may not": {
			config{ConnectTimeout: providers.Off, PingTimeout: providers.Off, StatementTimeout: providers.Off, LeakAfter: providers.Off},
			[]string{"ConnectTimeout", "LeakAfter", "PingTimeout", "StatementTimeout"},
		},
		"negative": {
			config{AcquireTimeout: -2, KeepAlive: -2, TCPUserTimeout: -2, ConnectTimeout: math.MinInt64},
			[]string{"AcquireTimeout", "ConnectTimeout", "KeepAlive", "TCPUserTimeout"},
		},
		"longest": {
			config{
				AcquireTimeout: math.MaxInt64, ConnectTimeout: math.MaxInt64, PingTimeout: math.MaxInt64, LeakAfter: math.MaxInt64,
				StatementTimeout: math.MaxInt32 * time.Millisecond, KeepAlive: math.MaxInt32 * time.Second, TCPUserTimeout: math.MaxInt32 * time.Millisecond,
			},
			nil,
		},
		"more than fits": {
			config{
				StatementTimeout: math.MaxInt32*time.Millisecond + 1, KeepAlive: math.MaxInt32*time.Second + 1,
				TCPUserTimeout: math.MaxInt64,
			},
			[]string{"KeepAlive", "StatementTimeout", "TCPUserTimeout"},
		},
		"a limit of no limit": {config{StatementTimeout: time.Millisecond - 1}, []string{"StatementTimeout"}},
		"shortest limit":      {config{StatementTimeout: time.Millisecond}, nil},
		"dials":               {config{MaxDials: -1}, []string{"MaxDials"}},

		"every fault at once": {
			config{
				DSN: "nonsense", Profile: 9, SessionReset: 9, MaxDials: -1, LeakAfter: -5,
				Pool: pool{MaxSize: -1, MaxLifetime: 1, WarmupQueries: []string{""}},
			},
			[]string{"DSN", "LeakAfter", "MaxDials", "Pool.MaxLifetime", "Pool.MaxSize", "Pool.WarmupQueries[0]", "Profile", "SessionReset"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.config.Validate()
			if got := fields(t, err); !slices.Equal(got, tc.want) {
				t.Errorf("faults in %q, want %q: %.500v", got, tc.want, err)
			}
			var fault *providers.ConfigError
			if found := errors.As(err, &fault); found != (tc.want != nil) {
				t.Errorf("errors.As finds a *ConfigError: %v", found)
			}
		})
	}
}

// A fault must lead to its field: every path is one of the structs', so that it
// does not go stale when a field is renamed.
func TestConfigErrorFieldsExist(t *testing.T) {
	err := providers.Config{
		DSN: "nonsense", Profile: 9, SessionReset: 9, MaxDials: -1, AcquireTimeout: -2, ConnectTimeout: -2, PingTimeout: -2,
		StatementTimeout: -2, KeepAlive: -2, TCPUserTimeout: -2, LeakAfter: -2,
		Pool: providers.PoolStrategy{
			MaxSize: -1, MinSize: -1, InitialSize: -1, MaxLifetime: 1, MaxIdleTime: -2, HealthCheckInterval: -2,
			WarmupQueries: []string{""}, PreferPrimary: true,
		},
	}.Validate()
	got := fields(t, err)
	if len(got) != 19 {
		t.Errorf("%d fields have faults: %q", len(got), got)
	}
	for _, path := range got {
		typ := reflect.TypeFor[providers.Config]()
		for name := range strings.SplitSeq(path, ".") {
			name, _, _ = strings.Cut(name, "[")
			f, ok := typ.FieldByName(name)
			if !ok {
				t.Errorf("there is no field %s", path)
				break
			}
			typ = f.Type
		}
	}
}

func TestConfigErrorText(t *testing.T) {
	err := providers.Config{MaxDials: -3, Pool: providers.PoolStrategy{MinSize: -1}}.Validate()
	want := "pgkeel: config: Pool.MinSize: -1 is negative; leave it 0 for none\n" +
		"pgkeel: config: MaxDials: -3 is negative; leave it 0 for 8"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestConfigReadsTheEnvironment(t *testing.T) {
	t.Setenv("PGPORT", "not a port")
	if got := fields(t, providers.Config{}.Validate()); !slices.Equal(got, []string{"DSN"}) {
		t.Errorf("faults in %q", got)
	}
	if err := (providers.Config{DSN: "port=5433"}).Validate(); err != nil {
		t.Errorf("the DSN goes before the environment: %v", err)
	}
}

func TestTxOptionsValidate(t *testing.T) {
	type options = providers.TxOptions
	for name, tc := range map[string]struct {
		options options
		want    []string
	}{
		"zero": {options{}, nil},
		"all": {options{
			Isolation: providers.Serializable, Access: providers.ReadOnly, Deferrable: true,
			Timeout: math.MaxInt64, MaxAttempts: math.MaxInt, RetryBudget: math.MaxInt64,
		}, nil},
		"read committed":               {options{Isolation: providers.ReadCommitted, Access: providers.ReadWrite}, nil},
		"repeatable read":              {options{Isolation: providers.RepeatableRead, MaxAttempts: 1}, nil},
		"unknown isolation":            {options{Isolation: "read uncommitted"}, []string{"TxOptions.Isolation"}},
		"isolation in capitals":        {options{Isolation: "SERIALIZABLE"}, []string{"TxOptions.Isolation"}},
		"injection":                    {options{Isolation: "serializable; drop table users", Access: "read only; --"}, []string{"TxOptions.Access", "TxOptions.Isolation"}},
		"NUL":                          {options{Access: "read only\x00"}, []string{"TxOptions.Access"}},
		"deferrable alone":             {options{Deferrable: true}, []string{"TxOptions.Deferrable"}},
		"deferrable, writes":           {options{Deferrable: true, Isolation: providers.Serializable}, []string{"TxOptions.Deferrable"}},
		"deferrable, not serializable": {options{Deferrable: true, Access: providers.ReadOnly}, []string{"TxOptions.Deferrable"}},
		"exactly once":                 {options{ExactlyOnce: true, Access: providers.ReadWrite}, nil},
		"exactly once, reads":          {options{ExactlyOnce: true, Access: providers.ReadOnly}, []string{"TxOptions.ExactlyOnce"}},
		"every fault at once": {
			options{Isolation: "x", Access: "y", Deferrable: true, Timeout: -1, MaxAttempts: -1, RetryBudget: -1},
			[]string{
				"TxOptions.Access", "TxOptions.Deferrable", "TxOptions.Isolation", "TxOptions.MaxAttempts",
				"TxOptions.RetryBudget", "TxOptions.Timeout",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fields(t, tc.options.Validate()); !slices.Equal(got, tc.want) {
				t.Errorf("faults in %q, want %q", got, tc.want)
			}
		})
	}
}
