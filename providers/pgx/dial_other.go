//go:build !linux

package pgx

import (
	"net"
	"syscall"
	"time"
)

// controlUserTimeout does nothing: the option is Linux's. Keepalive still
// finds a dead peer here.
func controlUserTimeout(time.Duration) func(network, address string, c syscall.RawConn) error {
	return nil
}

// readable cannot tell here. A connection that the server ended is found when
// it is acquired.
func readable(net.Conn) bool { return false }
