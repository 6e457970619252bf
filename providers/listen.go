package providers

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"
)

// Listener is a pool that opens connections for LISTEN.
type Listener interface {
	// Listen opens a connection of its own: outside of the pool, never given
	// to it, and made with the pool's configuration. It goes to a primary,
	// since a standby cannot LISTEN, and resolves names afresh. A server that
	// cannot be reached is an [*UnreachableError], a closed pool
	// [ErrPoolClosed].
	//
	// The caller closes it. Closing the pool ends it as well.
	Listen(ctx context.Context, opts ListenOptions) (ListenConn, error)
}

// ListenOptions say where a connection for LISTEN goes.
type ListenOptions struct {
	// DSN is the server's own address where the pool's leads to a pooler such
	// as PgBouncer in transaction mode, through which LISTEN does not work.
	// Default: the pool's.
	DSN string
}

// ListenConn is a connection for LISTEN. It belongs to one goroutine at a time.
type ListenConn interface {
	// Exec runs statements without arguments, such as LISTEN and UNLISTEN, as
	// one transaction. A context that ends closes the connection.
	Exec(ctx context.Context, sql string) error
	// WaitForNotification waits for the next notification. A context that ends
	// only ends the wait: the connection stays usable and nothing is lost.
	WaitForNotification(ctx context.Context) (*pgconn.Notification, error)
	// Ping makes one round trip. Notifications that arrive meanwhile are kept.
	// A context that ends closes the connection.
	Ping(ctx context.Context) error
	// PID is the server's process.
	PID() uint32
	// Close ends the connection. A context that ends cuts it. It may be called
	// twice.
	Close(ctx context.Context) error
}
