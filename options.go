package pgkeel

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/chain"
	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/resilience/timeout"
	"github.com/pgkeel/pgkeel/tenancy"
)

// Option changes how [Open] opens a handle.
type Option func(*settings)

// WithConfig replaces the whole configuration but for the DSN, which it only
// replaces when it has one itself. Options after it change it further; those
// before it that have no field in [Config] stay.
func WithConfig(config Config) Option {
	return func(s *settings) {
		if config.DSN == "" {
			config.DSN = s.config.DSN
		}
		s.config, s.panics = config, nil
	}
}

// WithProvider chooses the provider by the name under which it was registered.
// Default: "pgx".
func WithProvider(name string) Option {
	return func(s *settings) { s.provider, s.opener = name, nil }
}

// WithOpener chooses a provider that needs no name, such as one over a *sql.DB
// that is open already: stdsql.Provider{DB: sqlDB}.
func WithOpener(provider providers.Provider) Option {
	return func(s *settings) {
		if provider == nil {
			s.fault("options", "WithOpener got a nil provider; leave it out")
		}
		s.opener = provider
	}
}

// WithPool sets the size and life of the pool. See [PoolStrategy] for the
// defaults.
func WithPool(strategy PoolStrategy) Option { return func(s *settings) { s.config.Pool = strategy } }

// WithTenancy keeps tenants apart: what is done with a context reaches the data
// of its tenant ([WithTenantID]) only. See package tenancy for the ways to do it.
func WithTenancy(mode tenancy.Mode) Option {
	return func(s *settings) {
		if mode == nil {
			s.fault("options", "WithTenancy got a nil mode; leave it out")
		}
		s.tenancy = mode
	}
}

// WithProfile fits the handle to what stands between it and PostgreSQL.
// Default: [ProfileDirect].
func WithProfile(profile Profile) Option { return func(s *settings) { s.config.Profile = profile } }

// WithAcquireTimeout bounds the wait for a connection. Default: 30 seconds.
// [Off]: only the context bounds it.
func WithAcquireTimeout(d time.Duration) Option {
	return func(s *settings) { s.config.AcquireTimeout = d }
}

// WithConnectTimeout bounds one attempt to connect. Default: 5 seconds.
func WithConnectTimeout(d time.Duration) Option {
	return func(s *settings) { s.config.ConnectTimeout = d }
}

// WithPingTimeout bounds the check of a connection that was idle for a second.
// Default: 1 second.
func WithPingTimeout(d time.Duration) Option {
	return func(s *settings) { s.config.PingTimeout = d }
}

// WithStatementTimeout sets the server's own limit for every statement, the
// backstop for a client that vanished. Default: the server's setting.
func WithStatementTimeout(d time.Duration) Option {
	return func(s *settings) { s.config.StatementTimeout = d }
}

// WithDeadlinePropagation sends what is left of a context's deadline to the
// server with each statement, in the same flush, so that the server stops by
// itself. A statement with a deadline then runs over the extended protocol, also
// without arguments, so it cannot hold several statements, and VACUUM, CREATE
// DATABASE and the like fail with SQLSTATE 25001: run those with a context that
// has no deadline.
func WithDeadlinePropagation() Option {
	return func(s *settings) { s.add(timeout.Layer()) }
}

// add puts a layer into the chain, once however often its option is given.
func (s *settings) add(layer chain.Layer) {
	same := func(other chain.Layer) bool { return other.Order == layer.Order }
	s.layers = append(slices.DeleteFunc(s.layers, same), layer)
}

// WithKeepAlive sets TCP keepalive's idle time and interval. Default: 15
// seconds. [Off]: none.
func WithKeepAlive(d time.Duration) Option { return func(s *settings) { s.config.KeepAlive = d } }

// WithTCPUserTimeout sets how long sent data may stay unacknowledged (Linux).
// Default: 20 seconds. [Off]: the system's.
func WithTCPUserTimeout(d time.Duration) Option {
	return func(s *settings) { s.config.TCPUserTimeout = d }
}

// WithMaxDials bounds how many connections are being made at a time. Default: 8.
func WithMaxDials(n int32) Option { return func(s *settings) { s.config.MaxDials = n } }

// WithSessionReset says when session state is reset on its way back to the
// pool. Default: [ResetDirty].
func WithSessionReset(policy SessionReset) Option {
	return func(s *settings) { s.config.SessionReset = policy }
}

// WithLeakDetection reports who has held a connection for so long, with the
// stack that took it. Default: off.
func WithLeakDetection(after time.Duration) Option {
	return func(s *settings) { s.config.LeakAfter = after }
}

// WithAfterConnect runs a function on each new connection: the place to
// register types.
func WithAfterConnect(fn func(ctx context.Context, conn *pgx.Conn) error) Option {
	return func(s *settings) { s.config.AfterConnect = fn }
}

// WithTracer adds a pgx tracer, which sees everything that pgx and pgxpool
// trace, besides what pgkeel does.
func WithTracer(tracer pgx.QueryTracer) Option { return func(s *settings) { s.config.Tracer = tracer } }

// WithHooks registers hooks, in this order. More can come later through
// [DB.Hooks].
func WithHooks(hooks ...Hook) Option {
	return func(s *settings) { s.hooks = append(s.hooks, hooks...) }
}

// WithHookPanics says what becomes of a panic in a hook. Default:
// [RecoverPanics].
func WithHookPanics(policy PanicPolicy) Option {
	return func(s *settings) { s.panics = &policy }
}

// WithLogger sets who hears of background failures, leaks and panics of hooks. A
// [HookManager] of your own has a Logger of its own. Default: slog.Default.
func WithLogger(logger *slog.Logger) Option { return func(s *settings) { s.config.Logger = logger } }
