package pgx_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	provider "github.com/pgkeel/pgkeel/providers/pgx"
)

func TestServerlessLetsTheDatabaseSleep(t *testing.T) {
	dsn := pgtest.NewDB(t)
	defaults := openProfile(t, providers.Config{DSN: dsn, Profile: providers.ProfileServerless}).Unwrap().Config()
	if defaults.MaxConnIdleTime != time.Minute || defaults.MinConns != 0 || defaults.MinIdleConns != 0 {
		t.Errorf("idle connections end after %s, down to %d and %d", defaults.MaxConnIdleTime, defaults.MinConns, defaults.MinIdleConns)
	}
	pool := openProfile(t, providers.Config{
		DSN: dsn, Profile: providers.ProfileServerless,
		Pool: providers.PoolStrategy{InitialSize: 3, MaxIdleTime: time.Millisecond, HealthCheckInterval: 5 * time.Millisecond},
	})
	admin, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	until(t, "the last connection to end", func() bool {
		return scalar[int](t, admin, `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`) == 0
	})
	if got := scalar[int](t, pool, `select 1`); got != 1 { // and it comes back
		t.Error(got)
	}
	var fault *providers.ConfigError
	_, err = provider.Open(t.Context(), providers.Config{
		DSN: dsn, Profile: providers.ProfileServerless, Pool: providers.PoolStrategy{MinSize: 1},
	})
	if !errors.As(err, &fault) || fault.Field != "Pool.MinSize" {
		t.Errorf("a MinSize would keep it awake: %v", err)
	}
}

func TestServerlessWaitsForADatabaseThatStarts(t *testing.T) {
	for name, tc := range map[string]struct {
		profile providers.Profile
		dsn     string
		own     time.Duration
		want    time.Duration
	}{
		"direct":         {want: providers.DefaultConnectTimeout},
		"serverless":     {profile: providers.ProfileServerless, want: 30 * time.Second},
		"by the DSN":     {profile: providers.ProfileServerless, dsn: "connect_timeout=7", want: 7 * time.Second},
		"by the setting": {profile: providers.ProfileServerless, dsn: "connect_timeout=7", own: time.Second, want: time.Second},
	} {
		pool := openProfile(t, providers.Config{DSN: "host=127.0.0.1 " + tc.dsn, Profile: tc.profile, ConnectTimeout: tc.own})
		if got := pool.Unwrap().Config().ConnConfig.ConnectTimeout; got != tc.want {
			t.Errorf("%s: an attempt to connect may take %s, want %s", name, got, tc.want)
		}
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connects, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	pool := openProfile(t, providers.Config{
		DSN:     fmt.Sprintf("host=127.0.0.1 port=%d sslmode=disable", silent.Addr().(*net.TCPAddr).Port),
		Profile: providers.ProfileServerless, ConnectTimeout: 50 * time.Millisecond,
	})
	if err := pool.Ping(t.Context()); !errors.Is(err, providers.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a database that does not wake up: %v", err)
	}
}
