package providers_test

import (
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

func TestProfileString(t *testing.T) {
	for profile, want := range map[providers.Profile]string{
		providers.ProfileDirect:     "direct",
		providers.ProfilePgBouncer:  "pgbouncer",
		providers.ProfileServerless: "serverless",
		providers.Profile(200):      "invalid",
	} {
		if got := profile.String(); got != want {
			t.Errorf("Profile(%d).String() = %q, want %q", profile, got, want)
		}
	}
}

// Users store zero values and mean the defaults, so what zero means may not
// move when a constant is added in front.
func TestZeroValuesAreTheDefaults(t *testing.T) {
	var c providers.Config
	var o providers.TxOptions
	if c.Profile != providers.ProfileDirect || c.SessionReset != providers.ResetDirty ||
		o.Isolation != providers.IsolationDefault || o.Access != providers.AccessDefault {
		t.Error("a zero value is no default any more")
	}
}

// The defaults must pass the validation that users' values have to pass.
func TestDefaultsAreValid(t *testing.T) {
	c := providers.Config{
		DSN: "host=localhost user=app",
		Pool: providers.PoolStrategy{
			MaxLifetime: providers.DefaultMaxLifetime, MaxIdleTime: providers.DefaultMaxIdleTime,
			HealthCheckInterval: providers.DefaultHealthCheckInterval,
		},
		AcquireTimeout: providers.DefaultAcquireTimeout, ConnectTimeout: providers.DefaultConnectTimeout,
		PingTimeout: providers.DefaultPingTimeout, KeepAlive: providers.DefaultKeepAlive,
		TCPUserTimeout: providers.DefaultTCPUserTimeout, MaxDials: providers.DefaultMaxDials,
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if providers.Off >= 0 || providers.Off < -time.Second {
		t.Errorf("Off is %d, which somebody could mean as a duration", providers.Off)
	}
}

func TestOrDefault(t *testing.T) {
	for _, tc := range []struct{ d, want time.Duration }{{0, 5}, {providers.Off, 9}, {3, 3}} {
		if got := providers.OrDefault(tc.d, 5, 9); got != tc.want {
			t.Errorf("OrDefault(%d) = %d, want %d", tc.d, got, tc.want)
		}
	}
}
