package pgx

import (
	"context"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// dialer makes sockets that notice a dead peer: keepalive for the idle ones,
// the TCP user timeout for those with data under way.
func dialer(connectTimeout, keepAlive, userTimeout time.Duration) pgconn.DialFunc {
	d := &net.Dialer{
		Timeout:         connectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: keepAlive > 0, Idle: keepAlive, Interval: keepAlive, Count: 3},
		Control:         controlUserTimeout(userTimeout),
	}
	if keepAlive <= 0 {
		d.KeepAlive = -1
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		return d.DialContext(ctx, network, addr)
	}
}
