package stdsql

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	// serverlessConnectTimeout leaves a suspended database the time to start.
	serverlessConnectTimeout = 30 * time.Second
	// serverlessMaxIdleTime lets a serverless database fall asleep.
	serverlessMaxIdleTime = time.Minute
)

// withoutEffect reports every option that would do nothing. makes says whether
// the provider makes the connections itself.
func withoutEffect(c providers.Config, makes bool) error {
	var errs []error
	refuse := func(set bool, field, why string) {
		if set {
			errs = append(errs, &providers.ConfigError{Field: field, Problem: "has no effect over database/sql: " + why})
		}
	}
	refuse(c.Pool.MinSize != 0, "Pool.MinSize", "it makes connections when they are needed; use Pool.InitialSize, or the pgx provider")
	refuse(c.Pool.HealthCheckInterval != 0, "Pool.HealthCheckInterval", "it looks after idle connections by itself; leave it out")
	refuse(c.Profile == providers.ProfilePgBouncer, "Profile", "how statements are prepared is the driver's affair; "+
		"use default_query_exec_mode=exec (pgx) or binary_parameters=yes (pq) in the DSN, and SessionReset ResetNever")
	refuse(c.KeepAlive != 0, "KeepAlive", "the driver makes the socket; leave it out")
	refuse(c.TCPUserTimeout != 0, "TCPUserTimeout", "the driver makes the socket; leave it out")
	refuse(c.MaxDials != 0, "MaxDials", "leave it out")
	refuse(c.LeakAfter != 0, "LeakAfter", "leave it out, or use the pgx provider")
	refuse(c.AfterConnect != nil, "AfterConnect", "there is no pgx connection; use Pool.WarmupQueries")
	refuse(c.Tracer != nil, "Tracer", "there is no pgx connection; use Hooks, or a driver that traces")
	refuse(c.Pipelining != nil, "Pipelining", "leave it out, or use the pgx provider")
	refuse(c.Route != nil, "Route", "the driver decides where it connects; use the pgx provider")
	refuse(c.OnTrouble != nil, "OnTrouble", "it tries again before anybody hears of a lost connection; use the pgx provider")
	refuse(c.ReadOnly, "ReadOnly", "the driver starts the session; use the pgx provider, or default_transaction_read_only=on in the DSN")
	refuse(c.Logger != nil && c.Hooks == nil, "Logger", "nothing happens in the background; leave it out")
	if makes {
		errs = append(errs, poolParameters(c.DSN))
		return errors.Join(errs...)
	}
	refuse(c.DSN != "", "DSN", "the *sql.DB is open already; leave it empty")
	refuse(c.Profile == providers.ProfileServerless, "Profile", "the *sql.DB is open already; set its limits instead")
	refuse(c.ConnectTimeout != 0, "ConnectTimeout", "the *sql.DB is open already; use connect_timeout in its DSN")
	refuse(c.StatementTimeout != 0, "StatementTimeout", "the *sql.DB is open already; use statement_timeout in its DSN")
	refuse(len(c.Pool.WarmupQueries) > 0, "Pool.WarmupQueries", "the *sql.DB is open already; use its connector")
	return errors.Join(errs...)
}

// poolParameters refuses those of pgxpool, which a driver would send to the
// server.
func poolParameters(dsn string) error {
	parsed, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil //nolint:nilerr // Validate tells of it
	}
	for name := range parsed.RuntimeParams {
		if strings.HasPrefix(name, "pool_") {
			return &providers.ConfigError{Field: "DSN", Problem: fmt.Sprintf("%s is a parameter of pgxpool; leave it out, and use the fields of Pool", name)}
		}
	}
	return nil
}

// withDefaults fills in what a pool that makes its own connections needs.
func withDefaults(c providers.Config) providers.Config {
	connect, idle := providers.DefaultConnectTimeout, providers.DefaultMaxIdleTime
	if c.Profile == providers.ProfileServerless {
		connect, idle = serverlessConnectTimeout, serverlessMaxIdleTime
	}
	if parsed, err := pgx.ParseConfig(c.DSN); err == nil && parsed.ConnectTimeout > 0 && c.ConnectTimeout == 0 {
		c.ConnectTimeout = parsed.ConnectTimeout
	}
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, connect)
	c.Pool.MaxSize = cmp.Or(c.Pool.MaxSize, int32(max(4, min(runtime.NumCPU(), 1<<16))))
	c.Pool.MaxLifetime = cmp.Or(c.Pool.MaxLifetime, providers.DefaultMaxLifetime)
	c.Pool.MaxIdleTime = cmp.Or(c.Pool.MaxIdleTime, idle)
	return c
}

// applyLimits sets the limits that the configuration names. Off is database/sql's
// "no limit" as well.
func applyLimits(db *sql.DB, c providers.Config) {
	if c.Pool.MaxSize != 0 {
		db.SetMaxOpenConns(int(c.Pool.MaxSize))
	}
	if c.Pool.MaxLifetime != 0 {
		db.SetConnMaxLifetime(c.Pool.MaxLifetime)
	}
	if c.Pool.MaxIdleTime != 0 {
		db.SetConnMaxIdleTime(c.Pool.MaxIdleTime)
	}
}

// connectDSN adds to the DSN what every driver takes from there.
func connectDSN(c providers.Config) string {
	// Not every driver ends an attempt with its context.
	dsn := withParameter(c.DSN, "connect_timeout", strconv.FormatInt((providers.Milliseconds(c.ConnectTimeout)+999)/1000, 10))
	if c.StatementTimeout > 0 {
		dsn = withParameter(dsn, "statement_timeout", strconv.FormatInt(providers.Milliseconds(c.StatementTimeout), 10))
	}
	return dsn
}

// withParameter sets a parameter of a DSN, a URL or keywords and values.
func withParameter(dsn, name, value string) string {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		if u, err := url.Parse(dsn); err == nil {
			q := u.Query()
			q.Set(name, value)
			u.RawQuery = q.Encode()
			return u.String()
		}
	}
	return strings.TrimSpace(dsn + " " + name + "=" + value) // the last one counts
}
