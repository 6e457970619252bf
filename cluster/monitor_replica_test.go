package cluster

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What makes a standby unfit takes two looks, and so does its return.
func TestHysteresis(t *testing.T) {
	for name, tc := range map[string]struct {
		bad, good func(s *fakeNode)
		problem   string
		looks     int
	}{
		"away":      {func(s *fakeNode) { s.down = errRefused }, func(s *fakeNode) { s.down = nil }, "refused", 2},
		"hangs":     {func(s *fakeNode) { s.hangs = true }, func(s *fakeNode) { s.hangs = false }, "answer", 2},
		"cut off":   {func(s *fakeNode) { s.receiving = false }, func(s *fakeNode) { s.receiving = true }, "receives nothing", 2},
		"timeline":  {func(s *fakeNode) { s.timeline, s.started = 0, 77 }, func(s *fakeNode) { s.timeline = 1 }, "timeline 0", 1},
		"stranger":  {func(s *fakeNode) { s.system = "other" }, func(s *fakeNode) { s.system = "one" }, "another cluster", 1},
		"no rights": {func(s *fakeNode) { s.down = errSlots }, func(s *fakeNode) { s.down = nil }, "too many clients", 2},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
				<-time.After(10 * time.Second)
				looks := w.looksAt("a:1")
				w.set(func(at map[string]*fakeNode) { tc.bad(at["a:1"]) })
				for len(m.view().replicas) == 2 {
					<-time.After(time.Millisecond)
				}
				if n := w.looksAt("a:1") - looks; n < tc.looks || n > tc.looks+1 {
					t.Errorf("out after %d looks", n)
				}
				expect(t, m, "p:1", "b:1")
				if s := m.stats().Servers[1]; s.Fit || !strings.Contains(s.Problem, tc.problem) || r.logged(tc.problem) == 0 {
					t.Errorf("%+v", s)
				}
				<-time.After(10 * time.Second)
				w.set(func(at map[string]*fakeNode) { tc.good(at["a:1"]) })
				looks = w.looksAt("a:1")
				for len(m.view().replicas) == 1 {
					<-time.After(time.Millisecond)
				}
				if n := w.looksAt("a:1") - looks; n < tc.looks || n > tc.looks+1 {
					t.Errorf("back after %d looks", n)
				}
				expect(t, m, "p:1", "a:1 b:1")
				if r.logged("replica is not read from") != 1 || r.logged("replica is read from") != 3 {
					t.Error("not logged once each")
				}
			})
		})
	}
}

// Traffic that has trouble takes a replica out at once.
func TestTroubleOfAReplica(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, r *record) {
		a := m.view().replicas[0]
		m.trouble(a, errRefused)
		m.trouble(a, errRefused)
		expect(t, m, "p:1", "b:1")
		if m.view().doubted {
			t.Error("the primary is in doubt")
		}
		<-time.After(500 * time.Millisecond)
		expect(t, m, "p:1", "b:1") // one good look is not enough
		<-time.After(1500 * time.Millisecond)
		expect(t, m, "p:1", "a:1 b:1")
		if heard := r.heard(); heard != "" || r.logged("replica is not read from") != 1 {
			t.Error(heard)
		}
	})
}

// TRAPS 37: lag is the age of the newest position of the primary that a standby has
// reached, and it grows while the primary cannot be seen.
func TestTrap37Lag(t *testing.T) {
	inWorld(t, Options{MaxLag: 5 * time.Second}, func(t *testing.T, w *world, m *monitor, _ *record) {
		write := func() { // 20 MB a second; b is cut off
			w.set(func(at map[string]*fakeNode) {
				at["p:1"].position += 2 << 20
				at["a:1"].position = at["p:1"].position
			})
		}
		start := time.Now()
		for time.Since(start) < 4*time.Second {
			write()
			<-time.After(100 * time.Millisecond)
		}
		s := m.stats().Servers
		if s[1].Lag > 1500*time.Millisecond || s[1].LagBytes > 25<<20 {
			t.Errorf("%+v", s[1])
		}
		if s[2].Lag < 4*time.Second || s[2].Lag > 6*time.Second || s[2].LagBytes < 60<<20 {
			t.Errorf("%+v", s[2])
		}
		if lag := m.view().replicas[1].lagNow(); lag != s[2].Lag || m.view().replicas[1].Lag() > lag || m.view().replicas[1].Lag() < lag-1200*time.Millisecond {
			t.Errorf("%s, and %s for strategies", lag, m.view().replicas[1].Lag())
		}
		for time.Since(start) < 9*time.Second {
			write()
			<-time.After(100 * time.Millisecond)
		}
		expect(t, m, "p:1", "a:1")
		w.set(func(at map[string]*fakeNode) { at["b:1"].position = at["p:1"].position })
		<-time.After(4 * time.Second)
		expect(t, m, "p:1", "a:1 b:1")
		// Nothing is written: who has replayed all of it is not behind.
		<-time.After(time.Minute)
		expect(t, m, "p:1", "a:1 b:1")
		w.set(func(at map[string]*fakeNode) { at["p:1"].down = errRefused })
		<-time.After(4 * time.Second)
		expect(t, m, "", "a:1 b:1")
		<-time.After(4 * time.Second)
		expect(t, m, "", "")
	})
}

// A standby that was behind before anybody looked is behind by nobody knows how much.
func TestUnknownLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.servers["a:1"].position = 10
		m, _ := newFakeMonitor(t, w, fakeDSN, Options{MaxLag: time.Hour})
		if err := m.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer m.close()
		<-time.After(10 * time.Second)
		expect(t, m, "p:1", "b:1")
		if s := m.stats().Servers[1]; s.Lag != UnknownLag || s.LagBytes != 990 {
			t.Errorf("%+v", s)
		}
	})
}

// What reads find out of a position counts until the server starts anew: it may then
// be behind where it was.
func TestPositionOfAStandby(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, _ *record) {
		a := m.view().replicas[0]
		raise(a, 5000)
		<-time.After(3 * time.Second)
		if p := a.position.Load(); p != 5000 {
			t.Error(p)
		}
		w.set(func(at map[string]*fakeNode) { at["a:1"].started = 55 })
		<-time.After(3 * time.Second)
		if p := a.position.Load(); p != 1000 {
			t.Error(p)
		}
	})
}

// A host that is only to become the primary is not read from.
func TestPrimaryOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		m, _ := newFakeMonitor(t, w, fakeDSN, Options{Discovery: &found{hosts: []Host{{Address: "a:1", PrimaryOnly: true}}}})
		if err := m.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer m.close()
		<-time.After(5 * time.Second)
		expect(t, m, "p:1", "b:1")
		w.set(func(at map[string]*fakeNode) {
			at["p:1"].down, at["a:1"].standby, at["a:1"].timeline = errRefused, false, 2
		})
		<-time.After(5 * time.Second)
		expect(t, m, "a:1", "")
	})
}
