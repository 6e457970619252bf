package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := Host{Address: "a:1", Zone: "z"}
		r := newReplica(h)
		near := func(want time.Duration) {
			t.Helper()
			if got := r.Latency(); got < want*99/100 || got > want*101/100 {
				t.Errorf("latency %s, want about %s", got, want)
			}
		}
		read := func(took time.Duration) {
			r.begin()
			<-time.After(took)
			r.end(took)
		}
		if r.Host() != h || r.Latency() != 0 || r.InUse() != 0 || r.Lag() != 0 {
			t.Errorf("%+v", r)
		}
		read(10 * time.Millisecond)
		near(10 * time.Millisecond)
		// One that was slow moves it a little, many move it there.
		for range 5 {
			read(20 * time.Millisecond)
		}
		if got := r.Latency(); got < 10*time.Millisecond || got > 12*time.Millisecond {
			t.Errorf("after 100 ms of another latency: %s", got)
		}
		for range 500 {
			read(20 * time.Millisecond)
		}
		near(20 * time.Millisecond)
		// A read that failed has no latency.
		r.begin()
		if r.InUse() != 1 {
			t.Error(r.InUse())
		}
		r.end(0)
		near(20 * time.Millisecond)
		// Without reads it fades, and the next one is all that counts.
		<-time.After(10 * time.Second)
		near(20 * time.Millisecond * 368 / 1000)
		read(3 * time.Millisecond)
		near(3 * time.Millisecond)
		<-time.After(24 * time.Hour)
		if got := r.Latency(); got != 0 {
			t.Errorf("a day later: %s", got)
		}
		if r.InUse() != 0 {
			t.Error(r.InUse())
		}
	})
}

func BenchmarkReplica(b *testing.B) {
	r := newReplica(Host{})
	b.ReportAllocs()
	for b.Loop() {
		r.begin()
		r.end(time.Millisecond)
	}
}
