package pipeline

import (
	"sync/atomic"
	"testing"
	"time"
)

// A stall of the machine does not make a statement one that waits; waiting does.
func TestWhatIsUsual(t *testing.T) {
	var usual atomic.Int64
	for range 100 {
		for range 9 {
			approach(&usual, 15*time.Microsecond)
		}
		approach(&usual, 50*time.Millisecond)
	}
	if got := time.Duration(usual.Load()); got > 30*time.Microsecond {
		t.Errorf("with one stall in ten: %s", got)
	}
	for range 60 {
		approach(&usual, time.Millisecond)
	}
	if got := time.Duration(usual.Load()); got < 800*time.Microsecond || got > 1200*time.Microsecond {
		t.Errorf("once it waits: %s", got)
	}
	for range 60 {
		approach(&usual, 0)
	}
	if got := time.Duration(usual.Load()); got > 10*time.Microsecond {
		t.Errorf("and no longer: %s", got)
	}
}

func TestWhatIsBetterBeside(t *testing.T) {
	for name, tc := range map[string]struct {
		usual, roundTrip, waited time.Duration
		load                     int32
		room                     int
		want                     bool
	}{
		"unknown":                             {load: 9, room: 9},
		"short":                               {usual: 400 * time.Microsecond, load: 9, room: 9},
		"waits, on an idle connection":        {usual: time.Millisecond, room: 9},
		"waits, behind another":               {usual: time.Millisecond, load: 1, room: 1, want: true},
		"waits, and all would wait elsewhere": {usual: time.Millisecond, load: 3, waited: 2 * time.Millisecond, want: true},
		"waits, and would for longer":         {usual: time.Millisecond, load: 3, waited: 4 * time.Millisecond},
		"far, and others are under way":       {usual: time.Millisecond, roundTrip: 2 * time.Millisecond, load: 2, room: 9},
		"far, and the server would be idle":   {usual: time.Millisecond, roundTrip: 2 * time.Millisecond, load: 1, room: 9},
		"far, and the server is busy":         {usual: time.Millisecond, roundTrip: 2 * time.Millisecond, load: 3, room: 9, want: true},
		"far, by less than round trips vary":  {usual: 900 * time.Microsecond, roundTrip: 2 * time.Millisecond, load: 9, room: 9},
		"short, however many":                 {usual: 100 * time.Microsecond, roundTrip: 10 * time.Microsecond, load: 200, room: 9},
	} {
		e := &Engine{opts: Options{Room: func() int { return tc.room }, Waited: func() time.Duration { return tc.waited }}}
		c, s := &conn{engine: e}, &statement{}
		c.load.Store(tc.load)
		c.roundTrip.Store(int64(tc.roundTrip))
		s.usual.Store(int64(tc.usual))
		if got := e.isBetterBeside(s, c); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
