//go:build !linux

package bench

import "time"

// alarm waits as exactly as the runtime's timers do.
type alarm struct{}

func newAlarm() (*alarm, error)      { return &alarm{}, nil }
func (*alarm) sleep(d time.Duration) { time.Sleep(d) }
func (*alarm) close()                {}
