//go:build !linux

package pgx

import (
	"syscall"
	"time"
)

// controlUserTimeout does nothing: the option is Linux's. Keepalive still
// finds a dead peer here.
func controlUserTimeout(time.Duration) func(network, address string, c syscall.RawConn) error {
	return nil
}
