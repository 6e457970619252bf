package providers

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
)

// The defaults of [Config], in the one place where they stand.
const (
	// DefaultMaxLifetime ends a connection an hour after it was made.
	DefaultMaxLifetime = time.Hour
	// DefaultMaxIdleTime ends a connection that nobody used for half an hour.
	DefaultMaxIdleTime = 30 * time.Minute
	// DefaultHealthCheckInterval is how often the pool looks after itself.
	DefaultHealthCheckInterval = 15 * time.Second
	// DefaultAcquireTimeout bounds the wait for a connection.
	DefaultAcquireTimeout = 30 * time.Second
	// DefaultConnectTimeout bounds one attempt to connect to one address.
	DefaultConnectTimeout = 5 * time.Second
	// DefaultPingTimeout bounds the ping of a connection that was idle.
	DefaultPingTimeout = time.Second
	// DefaultKeepAlive is TCP's keepalive idle time and interval.
	DefaultKeepAlive = 15 * time.Second
	// DefaultTCPUserTimeout is how long sent data may stay unacknowledged.
	DefaultTCPUserTimeout = 20 * time.Second
	// DefaultMaxDials is how many connections are being made at a time.
	DefaultMaxDials = 8
)

// Off turns off what a duration of zero would leave at its default.
const Off time.Duration = -1

// OrDefault resolves a duration: zero to the default, and [Off] to what stands for no
// limit.
func OrDefault(d, def, off time.Duration) time.Duration {
	switch d {
	case 0:
		return def
	case Off:
		return off
	default:
		return d
	}
}

// Profile fits the provider to what stands between it and PostgreSQL.
type Profile uint8

// The profiles.
const (
	// ProfileDirect is for a connection straight to PostgreSQL, or through a
	// proxy that keeps sessions apart.
	ProfileDirect Profile = iota
	// ProfilePgBouncer is for PgBouncer in transaction mode, of any version:
	// no statement is prepared under a name, no parameter is sent at start-up
	// that PgBouncer would reject, a context that ends closes its connection
	// rather than send a cancel request that a balancer could misdirect, and
	// no session state is reset, as there is no session.
	ProfilePgBouncer
	// ProfileServerless is for databases that suspend when idle (Neon, Aurora
	// Serverless): no connection is kept open for its own sake, idle ones end
	// after a minute, and an attempt to connect may take 30 seconds because
	// the server may have to start.
	ProfileServerless
)

// String returns the profile's name.
func (p Profile) String() string {
	switch p {
	case ProfileDirect:
		return "direct"
	case ProfilePgBouncer:
		return "pgbouncer"
	case ProfileServerless:
		return "serverless"
	default:
		return "invalid"
	}
}

// SessionReset says when a connection's session state is reset on its way back
// to the pool: settings, role, advisory locks, LISTEN, temporary tables and
// cursors. A reset is one round trip.
type SessionReset uint8

// The policies of session reset.
const (
	// ResetDirty resets connections on which a statement ran whose text says
	// that it changes the session (SET, LISTEN, set_config, advisory locks,
	// temporary tables, PREPARE, cursors WITH HOLD, DO, CALL). What a function
	// does inside, pgkeel cannot see.
	ResetDirty SessionReset = iota
	// ResetAlways resets every connection that comes back.
	ResetAlways
	// ResetNever leaves session state to the application.
	ResetNever
)

// PoolStrategy says how many connections there are and how long they live.
// Zero is the default for every field.
type PoolStrategy struct {
	// InitialSize is how many connections Open makes before it returns.
	// Default: MinSize.
	InitialSize int32
	// MaxSize is the most connections. Default: pool_max_conns of the DSN,
	// else the larger of 4 and the number of CPUs.
	MaxSize int32
	// MinSize is how many connections are kept, and restored at once after a
	// loss. Default: pool_min_conns of the DSN, else 0.
	MinSize int32
	// MaxLifetime ends a connection that old, spread by up to a tenth.
	// Default: an hour. Off: never. At least a second.
	MaxLifetime time.Duration
	// MaxIdleTime ends a connection that was idle for so long. Default: 30
	// minutes (a minute when serverless). Off: never.
	MaxIdleTime time.Duration
	// HealthCheckInterval is how often lifetimes, idle times, MinSize and
	// leaks are looked after. Default: 15 seconds. At least a millisecond.
	HealthCheckInterval time.Duration
	// WarmupQueries run on every new connection before its first use. An
	// error fails the connection.
	WarmupQueries []string
	// PreferPrimary sends reads to the primary while it is healthy. It needs
	// replicas.
	PreferPrimary bool
}

// Config is what a pool is opened with. The zero Config is valid: it connects
// as libpq would from the PG* environment.
type Config struct {
	// DSN is a URL (postgres://…) or keywords and values (host=… user=…).
	// What it leaves out comes from the PG* environment, the password file
	// and the service file, as in libpq.
	DSN string
	// Pool is the size and life of the pool.
	Pool PoolStrategy
	// Profile fits what stands between the pool and the server.
	Profile Profile

	// AcquireTimeout bounds the wait for a connection, the time to make one
	// included. Default: 30 s. Off: only the context bounds it.
	AcquireTimeout time.Duration
	// ConnectTimeout bounds one attempt to connect. Default: connect_timeout
	// of the DSN, else 5 s (30 s when serverless).
	ConnectTimeout time.Duration
	// PingTimeout bounds the check of a connection that was idle for a
	// second or more. Default: 1 s.
	PingTimeout time.Duration
	// StatementTimeout is the server's own limit for every statement: the
	// backstop for a client that vanished. Default: the server's setting.
	StatementTimeout time.Duration
	// KeepAlive is TCP keepalive's idle time and interval. Default: 15 s.
	// Off: none.
	KeepAlive time.Duration
	// TCPUserTimeout is how long sent data may stay unacknowledged before the
	// connection counts as dead (Linux). Default: 20 s. Off: the system's.
	TCPUserTimeout time.Duration
	// MaxDials is how many connections are being made at a time, so that a
	// server that comes back is not stormed. Default: 8.
	MaxDials int32

	// SessionReset says when session state is reset. Default: ResetDirty.
	SessionReset SessionReset
	// LeakAfter reports who has held a connection for so long, with the stack
	// that took it. Recording stacks costs about a microsecond for each
	// acquired connection or transaction. Default: off.
	LeakAfter time.Duration

	// Pipelining has concurrent callers share connections. Default: off.
	Pipelining *Pipelining

	// Scope confines what is done with a context, on every path. Default: nothing.
	Scope ScopeFunc

	// Route says where an attempt to connect goes: a DSN, of which the host, port,
	// TLS, user, password and database count. It is asked before each attempt, and
	// may wait until its context ends, such as while there is no primary. Not every
	// provider can. Default: always DSN.
	Route func(ctx context.Context) (dsn string, err error)
	// OnTrouble hears of each error that puts the server in doubt: an attempt to
	// connect that failed, a connection that was lost, and a write that was refused
	// on a session that may write (SQLSTATE 25006). It has to be quick, and safe for
	// concurrent use. Not every provider can. Default: nobody.
	OnTrouble func(err error)
	// ReadOnly has the server hold every session to reading, from its start
	// (default_transaction_read_only), so that a statement declared to only read
	// needs nothing more. Behind PgBouncer, which rejects such a parameter, each
	// statement and transaction says so instead; a batch or COPY outside of one
	// does not. Not every provider can. Default: sessions may write.
	ReadOnly bool

	// AfterConnect runs on each new connection, before the warm-up queries:
	// the place to register types.
	AfterConnect func(ctx context.Context, conn *pgx.Conn) error
	// Tracer is a pgx tracer of your own. It is called besides pgkeel's, for
	// every interface of pgx and pgxpool that it implements.
	Tracer pgx.QueryTracer
	// Hooks observe what happens. Default: none.
	Hooks *HookManager
	// Logger hears of background failures and leaks. Default: slog.Default.
	Logger *slog.Logger
}

// AccessMode says what a transaction may do.
type AccessMode string

// The access modes. The empty one leaves it to the server: an explicit
// READ WRITE fails on a standby.
const (
	AccessDefault AccessMode = ""
	ReadOnly      AccessMode = "read only"
	ReadWrite     AccessMode = "read write"
)

// IsolationLevel is a transaction's isolation.
type IsolationLevel string

// The isolation levels. The empty one is the server's default.
const (
	IsolationDefault IsolationLevel = ""
	ReadCommitted    IsolationLevel = "read committed"
	RepeatableRead   IsolationLevel = "repeatable read"
	Serializable     IsolationLevel = "serializable"
)

// TxOptions say how a transaction runs. The zero value is the server's default.
type TxOptions struct {
	// Isolation level.
	Isolation IsolationLevel
	// Access mode.
	Access AccessMode
	// Deferrable waits for a snapshot that cannot fail. It has an effect on a
	// read-only serializable transaction only and is an error elsewhere.
	Deferrable bool
	// Timeout bounds the whole transaction, from begin to commit. When it
	// fires, the transaction is rolled back. Default: none.
	Timeout time.Duration
	// MaxAttempts is how often RunTx tries the closure when it conflicts with
	// other transactions (40001, 40P01), or the connection was lost before COMMIT
	// was sent. Default: 5. 1 never retries.
	MaxAttempts int
	// RetryBudget is how long after the first attempt a retry may still
	// start. Default: 10 s.
	RetryBudget time.Duration
	// ExactlyOnce has RunTx find out what became of a COMMIT whose answer was
	// lost, by a row that the transaction leaves in a table. Only RunTx can, and
	// only in transactions that may write. Default: off, and such a commit is
	// unknown.
	ExactlyOnce bool
}
