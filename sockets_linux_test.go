package pgkeel_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
)

const tcpUserTimeout = 18 // TCP_USER_TIMEOUT, which package syscall does not name

func init() {
	optionEffects["WithKeepAlive"] = func(t *testing.T) {
		for want, options := range map[int][]pgkeel.Option{15: nil, 7: {pgkeel.WithKeepAlive(7 * time.Second)}} {
			db := openDB(t, options...)
			if got := socketOption(t, db, syscall.TCP_KEEPIDLE); got != want {
				t.Errorf("%d seconds, not %d", got, want)
			}
		}
	}
	optionEffects["WithTCPUserTimeout"] = func(t *testing.T) {
		for want, options := range map[int][]pgkeel.Option{20_000: nil, 7_000: {pgkeel.WithTCPUserTimeout(7 * time.Second)}, 0: {pgkeel.WithTCPUserTimeout(pgkeel.Off)}} {
			db := openDB(t, options...)
			if got := socketOption(t, db, tcpUserTimeout); got != want {
				t.Errorf("%d milliseconds, not %d", got, want)
			}
		}
	}
}

func socketOption(t *testing.T, db *pgkeel.DB, option int) (value int) {
	t.Helper()
	conn := acquire(t, db)
	defer conn.Release()
	raw, err := conn.Unwrap().PgConn().Conn().(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { value, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return value
}
