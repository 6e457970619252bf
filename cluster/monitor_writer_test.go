package cluster

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The primary becomes a standby, and another one takes over.
func TestSwitchover(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
		w.set(func(at map[string]*fakeNode) { at["p:1"].standby, at["p:1"].started = true, 9 })
		m.trouble(m.view().writer, errors.New("25006"))
		<-time.After(100 * time.Millisecond)
		expect(t, m, "", "a:1 b:1")
		if heard := r.heard(); heard != "lost p:1" {
			t.Error(heard)
		}
		w.set(func(at map[string]*fakeNode) {
			at["p:1"].receiving = true
			for _, s := range at {
				s.timeline, s.position = 2, 2000
			}
			at["a:1"].standby = false
		})
		<-time.After(3 * time.Second)
		expect(t, m, "a:1", "p:1 b:1")
		if heard := r.heard(); heard != "gone a:1" {
			t.Error("the sessions were ended before:", heard)
		}
	})
}

// A primary that starts anew has none of the sessions that it had.
func TestRestart(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
		w.set(func(at map[string]*fakeNode) { at["p:1"].started = 7 })
		<-time.After(2 * time.Second)
		expect(t, m, "p:1", "a:1 b:1")
		if heard := r.heard(); heard != "lost p:1" || m.stats().Epochs != 2 {
			t.Error(heard)
		}
	})
}

// The newest timeline wins, at once, and the former primary is an alarm until it is
// none any more.
func TestTwoWriters(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
		w.set(func(at map[string]*fakeNode) { at["a:1"].standby, at["a:1"].timeline = false, 2 })
		<-time.After(5 * time.Second)
		expect(t, m, "a:1", "")
		if heard := r.heard(); heard != "lost p:1, gone a:1" && heard != "gone a:1, lost p:1" {
			t.Error(heard)
		}
		if m.stats().Alarms != 1 || r.logged("more than one server takes writes") != 1 {
			t.Errorf("%+v", m.stats())
		}
		w.set(func(at map[string]*fakeNode) { at["p:1"].down = errRefused })
		<-time.After(5 * time.Second)
		w.set(func(at map[string]*fakeNode) { at["p:1"].down = nil })
		<-time.After(5 * time.Second)
		if m.stats().Alarms != 2 {
			t.Errorf("%+v", m.stats())
		}
		// The old one is not taken when the newer one is away.
		w.set(func(at map[string]*fakeNode) { at["a:1"].down = errRefused })
		<-time.After(5 * time.Second)
		expect(t, m, "", "")
	})
}

// Of two on one timeline the one in use stays, and none is chosen without.
func TestTwoWritersOnOneTimeline(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, _ *record) {
		w.set(func(at map[string]*fakeNode) { at["a:1"].standby = false })
		<-time.After(5 * time.Second)
		expect(t, m, "p:1", "b:1")
		w.set(func(at map[string]*fakeNode) { at["b:1"].standby = false })
		<-time.After(5 * time.Second)
		expect(t, m, "p:1", "")
		w.set(func(at map[string]*fakeNode) { at["p:1"].down = errRefused })
		<-time.After(5 * time.Second)
		expect(t, m, "", "")
		if s := m.stats(); s.Alarms != 2 { // two of them, and then one more
			t.Errorf("%+v", s)
		}
		w.set(func(at map[string]*fakeNode) { at["b:1"].standby = true })
		<-time.After(5 * time.Second)
		expect(t, m, "a:1", "b:1")
	})
}

// A primary dies and another is promoted between two looks: that is no alarm.
func TestPromotionIsNoAlarm(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
		w.set(func(at map[string]*fakeNode) {
			at["p:1"].hangs = true
			at["a:1"].standby, at["a:1"].timeline, at["b:1"].timeline = false, 2, 2
		})
		<-time.After(10 * time.Second)
		expect(t, m, "a:1", "b:1")
		if m.stats().Alarms != 0 || r.logged("ERROR") != 0 {
			t.Errorf("%+v", m.stats())
		}
	})
}

// A standby that follows a newer primary than any that is seen: the one that is seen
// is an old one.
func TestNewerTimelineElsewhere(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
		w.set(func(at map[string]*fakeNode) { at["b:1"].timeline = 2 })
		<-time.After(5 * time.Second)
		expect(t, m, "", "b:1")
		if heard := r.heard(); heard != "lost p:1" {
			t.Error(heard)
		}
	})
}

// Two names of one server are one server.
func TestTwoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.servers["vip:1"], w.servers["alias:1"] = w.servers["p:1"], w.servers["a:1"]
		m, r := newFakeMonitor(t, w, "host=vip,p,a,alias,b port=1", Options{})
		if err := m.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer m.close()
		<-time.After(5 * time.Second)
		expect(t, m, "vip:1", "a:1 b:1")
		// One of the names leads nowhere: the server is the same.
		w.set(func(at map[string]*fakeNode) {
			gone := *at["vip:1"]
			gone.down = errRefused
			at["vip:1"] = &gone
		})
		<-time.After(5 * time.Second)
		expect(t, m, "p:1", "a:1 b:1")
		if heard := r.heard(); heard != "silent vip:1" || m.stats().Alarms != 0 || m.stats().Epochs != 1 {
			t.Errorf("%s; %+v", heard, m.stats())
		}
	})
}

// A primary that was promoted again without being seen as a standby.
func TestTimelineOfTheWriterChanges(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
		w.set(func(at map[string]*fakeNode) {
			for _, s := range at {
				s.timeline, s.position = 3, 3000
			}
		})
		<-time.After(5 * time.Second)
		expect(t, m, "p:1", "a:1 b:1")
		if v := m.view(); v.timeline != 3 || v.start != 3000 || r.heard() != "" {
			t.Errorf("%+v", v)
		}
	})
}

// Who connects to the new primary is not to be evicted with those of the old one.
func TestTheNewPrimaryIsForThoseWhoComeAfterTheEviction(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, _ *record) {
		var evicted atomic.Bool
		m.onWriterLost = func(*server) {
			<-time.After(time.Second)
			evicted.Store(true)
		}
		w.set(func(at map[string]*fakeNode) {
			at["p:1"].down = errRefused
			*at["b:1"] = fakeNode{timeline: 2, position: 1100, system: "one", started: 2, takes: time.Millisecond}
		})
		m.trouble(m.view().writer, net.ErrClosed)
		if _, err := m.await(t.Context(), func(v *view) bool { return v.timeline == 2 }); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := m.awaitWriter(short); !errors.Is(err, context.DeadlineExceeded) || evicted.Load() {
			t.Errorf("ahead of the eviction: %v", err)
		}
		if s, err := m.awaitWriter(t.Context()); err != nil || s.Host().Address != "b:1" || !evicted.Load() {
			t.Errorf("%v %v, evicted: %v", s, err, evicted.Load())
		}
	})
}
