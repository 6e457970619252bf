package pgx

import (
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h.
const tcpUserTimeout = 0x12

func controlUserTimeout(timeout time.Duration) func(network, address string, c syscall.RawConn) error {
	if timeout <= 0 {
		return nil
	}
	return func(network, _ string, c syscall.RawConn) error {
		if !strings.HasPrefix(network, "tcp") {
			return nil
		}
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(providers.Milliseconds(timeout)))
		})
		if err != nil {
			return err
		}
		return failed
	}
}

// readable reports whether there is something to read from a socket, its end
// included. It takes nothing out of it and does not wait, so it is safe while
// somebody uses the connection.
func readable(conn net.Conn) bool {
	if tls, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = tls.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	found := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		found = err != syscall.EAGAIN && err != syscall.EINTR
	})
	return err == nil && found
}
