package cluster

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A primary dies, and a standby is promoted a while later.
func TestFailover(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
		before := m.view()
		w.set(func(at map[string]*fakeNode) { at["p:1"].down = errRefused })
		m.trouble(before.writer, net.ErrClosed)
		if v := m.view(); !v.doubted || v.writer != before.writer {
			t.Errorf("%+v", v)
		}
		<-time.After(100 * time.Millisecond)
		expect(t, m, "", "a:1 b:1")
		if v := m.view(); v.timeline != 1 || v.start != before.start || v.doubted {
			t.Errorf("%+v", v)
		}
		if heard := r.heard(); heard != "silent p:1" {
			t.Error(heard)
		}

		<-time.After(30 * time.Second)
		took := make(chan time.Duration)
		promoted := time.Now()
		go func() {
			_, err := m.awaitWriter(t.Context())
			if err != nil {
				t.Error(err)
			}
			took <- time.Since(promoted)
		}()
		w.set(func(at map[string]*fakeNode) {
			*at["b:1"] = fakeNode{timeline: 2, position: 1100, system: "one", started: 2, takes: time.Millisecond}
			at["a:1"].receiving = false
		})
		if d := <-took; d > searchPause+5*time.Millisecond {
			t.Errorf("it took %s", d)
		}
		synctest.Wait()
		if v := m.view(); v.timeline != 2 || v.start != 1100 {
			t.Errorf("%+v", v)
		}
		if heard := r.heard(); heard != "lost p:1, gone b:1" {
			t.Error(heard)
		}
		expect(t, m, "b:1", "") // the other one is still on timeline 1
		w.set(func(at map[string]*fakeNode) {
			at["a:1"].timeline, at["a:1"].receiving, at["a:1"].position = 2, true, 1200
		})
		<-time.After(3 * time.Second)
		expect(t, m, "b:1", "a:1")
		if s := m.stats(); s.Epochs != 2 || s.Alarms != 0 || s.Writer != "b:1" || s.Timeline != 2 {
			t.Errorf("%+v", s)
		}
		if r.logged("primary is lost") != 1 || r.logged("primary found") != 2 {
			t.Error("not logged once each")
		}
	})
}

// Without any traffic the heartbeat finds out.
func TestTrap36HeartbeatFindsOut(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, _ *record) {
		w.set(func(at map[string]*fakeNode) { at["p:1"].down, at["a:1"].down = errRefused, errRefused })
		<-time.After(DefaultHeartbeat + 200*time.Millisecond)
		expect(t, m, "", "b:1")
	})
}

// One look that fails loses nothing, whatever it is that fails.
func TestOneLookThatFails(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
		for _, name := range []string{"p:1", "a:1"} {
			w.set(func(at map[string]*fakeNode) { at[name].down = errRefused })
			looks := w.looksAt(name)
			for w.looksAt(name) == looks {
				<-time.After(time.Millisecond)
			}
			<-time.After(2 * time.Millisecond)
			w.set(func(at map[string]*fakeNode) { at[name].down = nil })
			<-time.After(5 * time.Second)
		}
		expect(t, m, "p:1", "a:1 b:1")
		if heard := r.heard(); heard != "" || r.logged("WARN") != 0 {
			t.Error(heard)
		}
	})
}

// Whoever ends all sessions of a server ends the one that looks at it as well, and
// the server is there nevertheless.
func TestEndedSessions(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
		v := m.view()
		w.set(func(at map[string]*fakeNode) { at["p:1"].drops, at["a:1"].drops = 1, 1 })
		m.trouble(v.writer, net.ErrClosed)
		<-time.After(5 * time.Second)
		expect(t, m, "p:1", "a:1 b:1")
		if heard := r.heard(); heard != "" || r.logged("WARN") != 0 || m.view().doubted {
			t.Error(heard)
		}
	})
}

// A server that answers with an error is there: it stays the primary, whatever the
// reason is that it cannot be looked at, but cannot become it.
func TestAServerThatOnlyAnswers(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, _ *record) {
		w.set(func(at map[string]*fakeNode) { at["p:1"].down = errSlots })
		<-time.After(time.Minute)
		expect(t, m, "p:1", "a:1 b:1")
		m.trouble(m.view().writer, net.ErrClosed)
		<-time.After(100 * time.Millisecond)
		if v := m.view(); v.doubted {
			t.Error("still in doubt")
		}
		expect(t, m, "p:1", "a:1 b:1")
		w.set(func(at map[string]*fakeNode) { at["p:1"].down = errStarts })
		<-time.After(3 * time.Second)
		expect(t, m, "", "a:1 b:1")
		w.set(func(at map[string]*fakeNode) { at["p:1"].down = errSlots })
		<-time.After(3 * time.Second)
		expect(t, m, "", "a:1 b:1")
		w.set(func(at map[string]*fakeNode) { at["p:1"].down = nil })
		<-time.After(3 * time.Second)
		expect(t, m, "p:1", "a:1 b:1")
	})
}

// A doubt that ends well is news for who waits, though nothing else is new.
func TestDoubtEndsWell(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
		before := m.view()
		told := make(chan error, 1)
		go func() { told <- m.awaitNewer(t.Context(), before) }()
		synctest.Wait()
		start := time.Now()
		m.trouble(before.writer, net.ErrClosed)
		if err := <-told; err != nil || time.Since(start) > 60*time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		expect(t, m, "p:1", "a:1 b:1")
		if heard := r.heard(); heard != "" || m.view().doubted {
			t.Error(heard)
		}
		// Whoever gave up is not the server's fault, nor is one that is none any more.
		m.trouble(before.writer, context.Canceled)
		m.trouble(nil, net.ErrClosed)
		m.trouble(&server{Replica: newReplica(Host{})}, net.ErrClosed)
		if m.view().doubted {
			t.Error("in doubt")
		}
	})
}

// A storm of troubles does not become a storm of looks.
func TestTroubleIsCheap(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
		v := m.view()
		before := w.looksAt("p:1")
		for range 1000 {
			m.trouble(v.writer, net.ErrClosed)
			m.trouble(v.replicas[0], net.ErrClosed)
			<-time.After(time.Millisecond)
		}
		if n := w.looksAt("p:1") - before; n < 10 || n > 60 {
			t.Errorf("%d looks in a second", n)
		}
		// The same goes for a long search.
		w.set(func(at map[string]*fakeNode) { at["p:1"].down = errRefused })
		<-time.After(3 * time.Second)
		dead, alive := w.looksAt("p:1"), w.looksAt("b:1")
		<-time.After(10 * time.Second)
		if n := w.looksAt("p:1") - dead; n < 40 || n > 60 {
			t.Errorf("%d attempts to connect in ten seconds", n)
		}
		if n := w.looksAt("b:1") - alive; n < 180 || n > 230 {
			t.Errorf("%d looks in ten seconds", n)
		}
		w.set(func(at map[string]*fakeNode) {
			if n := at["b:1"].resets; n < 18 {
				t.Errorf("%d fresh connections: a name that moved goes unnoticed", n)
			}
		})
		if r.logged("primary is lost") != 1 {
			t.Error("not logged once")
		}
	})
}

// A host that swallows everything is looked at like the others, and delays none.
func TestBlackHoleDelaysNobody(t *testing.T) {
	inWorld(t, Options{Heartbeat: 100 * time.Millisecond, ProbeTimeout: 10 * time.Second}, func(t *testing.T, w *world, m *monitor, _ *record) {
		w.set(func(at map[string]*fakeNode) { at["a:1"].hangs = true })
		hung, before := w.looksAt("a:1"), w.looksAt("b:1")
		<-time.After(5 * time.Second)
		expect(t, m, "p:1", "b:1") // a has not answered for some heartbeats
		if n := w.looksAt("b:1") - before; n < 45 {
			t.Errorf("%d looks at the other one", n)
		}
		if n := w.looksAt("a:1") - hung; n > 1 {
			t.Errorf("%d looks at the one that hangs", n)
		}
	})
}

// What an error says of the servers.
func TestWords(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, _ *record) {
		for _, tc := range []struct {
			want   string
			change func(s *fakeNode)
		}{
			{"b:1: standby", func(*fakeNode) {}},
			{"b:1: standby, receives nothing", func(s *fakeNode) { s.receiving = false }},
			{"b:1: belongs to another cluster", func(s *fakeNode) { s.system = "two" }},
			{"b:1: no answer in time", func(s *fakeNode) { s.hangs = true }},
			{"b:1: FATAL: sorry, too many clients", func(s *fakeNode) { s.down = errSlots }},
			{"b:1: primary on timeline 1", func(s *fakeNode) { s.standby = false }},
			{"p:1: primary on timeline 1, which is not used because 2 is known", func(s *fakeNode) { s.timeline = 2 }},
		} {
			w.set(func(at map[string]*fakeNode) {
				*at["b:1"] = fakeNode{standby: true, timeline: 1, position: 1000, receiving: true, system: "one", started: 2, takes: time.Millisecond}
				tc.change(at["b:1"])
			})
			<-time.After(5 * time.Second)
			if known := strings.Join(m.known(), "; "); !strings.Contains(known, tc.want) {
				t.Errorf("%q is not in %q", tc.want, known)
			}
		}
	})
}
