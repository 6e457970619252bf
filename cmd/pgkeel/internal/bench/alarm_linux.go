package bench

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm waits more exactly than the runtime's timers, which are a third of a
// millisecond late when the process idles: as much as a short line itself.
type alarm struct {
	fd   int
	file *os.File
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	return &alarm{fd: fd, file: os.NewFile(uintptr(fd), "timerfd")}, nil
}

// sleep waits that long, unless the alarm is closed.
func (a *alarm) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	var expirations [8]byte
	if err := unix.TimerfdSettime(a.fd, 0, &at, nil); err == nil {
		_, err = a.file.Read(expirations[:])
		if err == nil {
			return
		}
	}
	time.Sleep(d) // not as exact
}

func (a *alarm) close() { _ = a.file.Close() }
