package providers

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// ConfigError is one fault of a configuration.
type ConfigError struct {
	// Field is the path of the field, such as "Pool.MaxSize".
	Field string
	// Problem says what is wrong with it, and how to mend it. It never
	// contains a secret.
	Problem string
}

func (e *ConfigError) Error() string { return "pgkeel: config: " + e.Field + ": " + e.Problem }

type faults []error

func (f *faults) addf(bad bool, field, format string, args ...any) {
	if bad {
		*f = append(*f, &ConfigError{Field: field, Problem: fmt.Sprintf(format, args...)})
	}
}

// Validate reports every fault of the configuration at once, each as a
// [*ConfigError]; [errors.As] finds the first.
func (c Config) Validate() error {
	var f faults
	f.dsn(c)
	f.pool(c.Pool)
	f.profile(c)
	f.durations(c)
	f.pipelining(c)
	f.addf(c.MaxDials < 0, "MaxDials", "%d is negative; leave it 0 for %d", c.MaxDials, DefaultMaxDials)
	f.addf(c.SessionReset > ResetNever, "SessionReset", "%d is none of ResetDirty, ResetAlways, ResetNever", c.SessionReset)
	return errors.Join(f...)
}

func (f *faults) dsn(c Config) {
	if strings.ContainsRune(c.DSN, 0) {
		f.addf(true, "DSN", "contains a NUL byte")
		return
	}
	parsed, err := pgxpool.ParseConfig(c.DSN)
	if err != nil {
		f.addf(true, "DSN", "cannot be parsed: %s; use postgres://user@host:5432/database or host=… user=… dbname=…", Redact(err.Error(), c.DSN))
		return
	}
	// A size in the DSN and one in the strategy must agree with each other.
	maxSize, minSize := c.Pool.MaxSize, c.Pool.MinSize
	if maxSize == 0 {
		maxSize = parsed.MaxConns
	}
	if minSize == 0 {
		minSize = parsed.MinConns
	}
	f.addf(c.Profile == ProfileServerless && max(parsed.MinConns, parsed.MinIdleConns) > 0, "DSN",
		"pool_min_conns and pool_min_idle_conns would keep a serverless database awake; leave them out, or use ProfileDirect")
	f.addf(maxSize > 0 && minSize > maxSize, "Pool.MinSize", "%d is more than the %d of MaxSize", minSize, maxSize)
	f.addf(maxSize > 0 && c.Pool.InitialSize > maxSize, "Pool.InitialSize", "%d is more than the %d of MaxSize", c.Pool.InitialSize, maxSize)
}

func (f *faults) pool(p PoolStrategy) {
	f.addf(p.MaxSize < 0, "Pool.MaxSize", "%d is negative; leave it 0 for the default", p.MaxSize)
	f.addf(p.MinSize < 0, "Pool.MinSize", "%d is negative; leave it 0 for none", p.MinSize)
	f.addf(p.InitialSize < 0, "Pool.InitialSize", "%d is negative; leave it 0 for MinSize", p.InitialSize)
	f.addf(p.MaxLifetime != Off && p.MaxLifetime != 0 && p.MaxLifetime < time.Second, "Pool.MaxLifetime",
		"%s is under a second, which would replace connections faster than they are of use; use Off for no limit", p.MaxLifetime)
	f.addf(p.MaxIdleTime != Off && p.MaxIdleTime < 0, "Pool.MaxIdleTime", "%s is negative; use Off for no limit", p.MaxIdleTime)
	f.addf(p.HealthCheckInterval < 0, "Pool.HealthCheckInterval", "%s is negative; leave it 0 for %s", p.HealthCheckInterval, DefaultHealthCheckInterval)
	f.addf(p.HealthCheckInterval > 0 && p.HealthCheckInterval < time.Millisecond, "Pool.HealthCheckInterval",
		"%s is under a millisecond, at which the pool would do nothing else; leave it 0 for %s", p.HealthCheckInterval, DefaultHealthCheckInterval)
	for i, q := range p.WarmupQueries {
		field := fmt.Sprintf("Pool.WarmupQueries[%d]", i)
		f.addf(strings.TrimSpace(q) == "", field, "is empty; leave it out")
		f.addf(strings.ContainsRune(q, 0), field, "contains a NUL byte")
	}
	f.addf(p.PreferPrimary, "Pool.PreferPrimary", "has no effect without replicas; leave it out")
}

func (f *faults) profile(c Config) {
	f.addf(c.Profile > ProfileServerless, "Profile", "%d is none of ProfileDirect, ProfilePgBouncer, ProfileServerless", c.Profile)
	if c.Profile == ProfilePgBouncer {
		f.addf(c.StatementTimeout > 0, "StatementTimeout",
			"PgBouncer rejects it at start-up; set it with ALTER ROLE … SET statement_timeout instead")
		f.addf(c.SessionReset != ResetDirty, "SessionReset",
			"has no effect behind PgBouncer in transaction mode, where there is no session; leave it out")
	}
	if c.Profile == ProfileServerless {
		f.addf(c.Pool.MinSize > 0, "Pool.MinSize", "%d would keep a serverless database awake; leave it 0, or use ProfileDirect", c.Pool.MinSize)
	}
}

func (f *faults) durations(c Config) {
	for _, d := range []struct {
		field  string
		value  time.Duration
		offOK  bool
		atmost time.Duration
	}{
		{"AcquireTimeout", c.AcquireTimeout, true, math.MaxInt64},
		{"ConnectTimeout", c.ConnectTimeout, false, math.MaxInt64},
		{"PingTimeout", c.PingTimeout, false, math.MaxInt64},
		// PostgreSQL counts it in an int of milliseconds.
		{"StatementTimeout", c.StatementTimeout, false, math.MaxInt32 * time.Millisecond},
		{"KeepAlive", c.KeepAlive, true, math.MaxInt32 * time.Second},
		{"TCPUserTimeout", c.TCPUserTimeout, true, math.MaxInt32 * time.Millisecond},
		{"LeakAfter", c.LeakAfter, false, math.MaxInt64},
	} {
		if d.value == Off && d.offOK {
			continue
		}
		f.addf(d.value < 0, d.field, "%s is negative; leave it 0 for the default", d.value)
		f.addf(d.value > d.atmost, d.field, "%s is more than the %s that fit", d.value, d.atmost)
	}
	f.addf(c.StatementTimeout > 0 && c.StatementTimeout < time.Millisecond, "StatementTimeout",
		"%s is under PostgreSQL's unit of a millisecond, and 0 would mean no limit", c.StatementTimeout)
}

// Validate reports every fault of the options at once, each as a
// [*ConfigError].
func (o TxOptions) Validate() error {
	if o == (TxOptions{}) {
		return nil
	}
	var f faults
	switch o.Isolation {
	case IsolationDefault, ReadCommitted, RepeatableRead, Serializable:
	default:
		f.addf(true, "TxOptions.Isolation", "%q is none of ReadCommitted, RepeatableRead, Serializable", o.Isolation)
	}
	switch o.Access {
	case AccessDefault, ReadOnly, ReadWrite:
	default:
		f.addf(true, "TxOptions.Access", "%q is neither ReadOnly nor ReadWrite", o.Access)
	}
	f.addf(o.Deferrable && (o.Isolation != Serializable || o.Access != ReadOnly), "TxOptions.Deferrable",
		"has an effect on a Serializable and ReadOnly transaction only")
	f.addf(o.Timeout < 0, "TxOptions.Timeout", "%s is negative; leave it 0 for none", o.Timeout)
	f.addf(o.MaxAttempts < 0, "TxOptions.MaxAttempts", "%d is negative; leave it 0 for the default", o.MaxAttempts)
	f.addf(o.RetryBudget < 0, "TxOptions.RetryBudget", "%s is negative; leave it 0 for the default", o.RetryBudget)
	f.addf(o.ExactlyOnce && o.Access == ReadOnly, "TxOptions.ExactlyOnce",
		"has no effect on a ReadOnly transaction, which commits nothing; leave it out")
	return errors.Join(f...)
}
