package pgx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	// serverlessConnectTimeout leaves a suspended database the time to start.
	serverlessConnectTimeout = 30 * time.Second
	// serverlessMaxIdleTime lets a serverless database fall asleep.
	serverlessMaxIdleTime = time.Minute
	// forEver stands for "no limit" where pgxpool knows none. It is short
	// enough to be added to a time without overflow.
	forEver = 100 * 365 * 24 * time.Hour
)

// newPoolConfig turns a configuration, which must be valid, into pgxpool's.
// What pgxpool does itself is set here; what pgkeel supervises is in settings.
func newPoolConfig(c providers.Config) (*pgxpool.Config, error) {
	pc, err := pgxpool.ParseConfig(c.DSN)
	if err != nil {
		return nil, &providers.ConfigError{Field: "DSN", Problem: providers.Redact(err.Error(), c.DSN)}
	}
	named, err := pgx.ParseConfig(c.DSN) // leaves the pool's parameters where pgxpool takes them out
	if err != nil {
		return nil, err // not after the above
	}
	applySizes(pc, c.Pool)
	applyLifetimes(pc, c, named.RuntimeParams)
	applyTimeouts(pc, c, named.RuntimeParams)
	applyProfile(pc, c.Profile)
	watchReplication(pc.ConnConfig)
	return pc, nil
}

func applySizes(pc *pgxpool.Config, s providers.PoolStrategy) {
	pc.MaxConns = cmp.Or(s.MaxSize, pc.MaxConns)
	pc.MinConns = cmp.Or(s.MinSize, pc.MinConns)
}

// applyLifetimes sets the lifetimes: those of the strategy, else those that the
// DSN names, else the defaults.
func applyLifetimes(pc *pgxpool.Config, c providers.Config, named map[string]string) {
	life, idle, interval := providers.DefaultMaxLifetime, providers.DefaultMaxIdleTime, providers.DefaultHealthCheckInterval
	if c.Profile == providers.ProfileServerless {
		idle = serverlessMaxIdleTime
	}
	life = inDSN(named, "pool_max_conn_lifetime", pc.MaxConnLifetime, life)
	idle = inDSN(named, "pool_max_conn_idle_time", pc.MaxConnIdleTime, idle)
	interval = inDSN(named, "pool_health_check_period", pc.HealthCheckPeriod, interval)
	// The jitter is a tenth of the lifetime, so that connections made together
	// do not end together. Lifetimes of 0 were read as "expired" by some
	// releases of pgxpool, so none is ever passed through.
	pc.MaxConnLifetime = providers.OrDefault(c.Pool.MaxLifetime, life, forEver)
	pc.MaxConnLifetimeJitter = inDSN(named, "pool_max_conn_lifetime_jitter", pc.MaxConnLifetimeJitter,
		min(pc.MaxConnLifetime/10, time.Hour))
	pc.MaxConnIdleTime = providers.OrDefault(c.Pool.MaxIdleTime, idle, forEver)
	pc.HealthCheckPeriod = cmp.Or(c.Pool.HealthCheckInterval, interval)
}

// inDSN is a duration of the DSN if it names one, else def. What libpq's and
// pgxpool's users write as 0 is no limit.
func inDSN(named map[string]string, name string, parsed, def time.Duration) time.Duration {
	switch _, ok := named[name]; {
	case !ok:
		return def
	case parsed <= 0:
		return forEver
	default:
		return parsed
	}
}

func applyTimeouts(pc *pgxpool.Config, c providers.Config, named map[string]string) {
	connect := providers.DefaultConnectTimeout
	if c.Profile == providers.ProfileServerless {
		connect = serverlessConnectTimeout
	}
	cc := pc.ConnConfig
	cc.ConnectTimeout = cmp.Or(c.ConnectTimeout, cc.ConnectTimeout, connect)
	pc.PingTimeout = cmp.Or(c.PingTimeout, inDSN(named, "pool_ping_timeout", pc.PingTimeout, providers.DefaultPingTimeout))
	cc.DialFunc = dialer(cc.ConnectTimeout,
		providers.OrDefault(c.KeepAlive, providers.DefaultKeepAlive, 0),
		providers.OrDefault(c.TCPUserTimeout, providers.DefaultTCPUserTimeout, 0))
	if c.StatementTimeout > 0 {
		cc.RuntimeParams["statement_timeout"] = strconv.FormatInt(providers.Milliseconds(c.StatementTimeout), 10)
	}
	if readsOnly(c) {
		cc.RuntimeParams["default_transaction_read_only"] = "on"
	}
}

// readsOnly reports whether the server itself holds every session to reading. It
// hears of that at start-up, which PgBouncer would reject; each statement and
// transaction says so there.
func readsOnly(c providers.Config) bool { return c.ReadOnly && c.Profile != providers.ProfilePgBouncer }

func applyProfile(pc *pgxpool.Config, profile providers.Profile) {
	cc := pc.ConnConfig
	if profile == providers.ProfilePgBouncer {
		// Transaction pooling hands each transaction another session: no
		// statement may have a name. QueryExecModeExec needs one round trip
		// and no description. A cancel request would reach the balancer, which
		// may pass it on to a server that never saw the statement, so the
		// deadline handler of pgx stays, which closes the connection.
		if cc.DefaultQueryExecMode != pgx.QueryExecModeSimpleProtocol { // which a DSN may ask for, and is as safe
			cc.DefaultQueryExecMode = pgx.QueryExecModeExec
		}
		cc.StatementCacheCapacity, cc.DescriptionCacheCapacity = 0, 0
		return
	}
	cc.BuildContextWatcherHandler = newCanceller
}

// prepareSession readies a new session: the user's function, then the warm-up
// queries. A session reset runs it again.
func (p *Pool) prepareSession(ctx context.Context, conn *pgx.Conn) error {
	if p.cfg.AfterConnect != nil {
		if err := p.cfg.AfterConnect(ctx, conn); err != nil {
			return fmt.Errorf("AfterConnect: %w", wrapPG(err))
		}
	}
	for i, q := range p.cfg.Pool.WarmupQueries {
		if _, err := conn.Exec(ctx, q); err != nil {
			return fmt.Errorf("warm-up query %d: %w", i, wrapPG(err))
		}
	}
	if conn.PgConn().TxStatus() != 'I' {
		return errors.New("AfterConnect or a warm-up query left a transaction open; end it there")
	}
	return nil
}
