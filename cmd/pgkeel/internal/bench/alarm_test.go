package bench

import (
	"testing"
	"time"
)

func TestAnAlarmIsNotEarly(t *testing.T) {
	a, err := newAlarm()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []time.Duration{0, -time.Second, time.Nanosecond, 2 * time.Millisecond, time.Millisecond} {
		begun := time.Now()
		a.sleep(d)
		if took := time.Since(begun); took < d {
			t.Errorf("slept %v of %v", took, d)
		}
	}
	a.close()
	begun := time.Now()
	a.sleep(time.Millisecond)
	if took := time.Since(begun); took < time.Millisecond {
		t.Errorf("closed, it slept %v", took)
	}
}
