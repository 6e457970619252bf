package cluster

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
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

func TestStartWithoutAPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.servers["p:1"].down, w.servers["b:1"].hangs = errRefused, true
		m, _ := newFakeMonitor(t, w, fakeDSN+"?connect_timeout=7", Options{})
		begun := time.Now()
		err := m.start(t.Context())
		var none *NoPrimaryError
		if !errors.As(err, &none) || !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 7*time.Second || strings.Contains(err.Error(), "geheim") {
			t.Fatal(err, time.Since(begun))
		}
		for _, want := range []string{"p:1: connection refused", "a:1: standby", "b:1: no answer in time"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in: %v", want, err)
			}
		}
		if _, err := m.awaitWriter(t.Context()); !errors.Is(err, providers.ErrPoolClosed) {
			t.Error(err)
		}
		if w.open != 0 {
			t.Errorf("%d pools are open", w.open)
		}
	})
}

// The primary that start waits for appears while it waits.
func TestStartWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.servers["p:1"].down = errStarts
		m, _ := newFakeMonitor(t, w, fakeDSN, Options{})
		defer m.close()
		time.AfterFunc(3*time.Second, func() { w.set(func(at map[string]*fakeNode) { at["p:1"].down = nil }) })
		if err := m.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect(t, m, "p:1", "a:1 b:1")
	})
}

// A host that lets everybody wait does not keep start from its end.
func TestStartDoesNotWaitForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.servers["b:1"].hangs = true
		m, _ := newFakeMonitor(t, w, fakeDSN, Options{ProbeTimeout: time.Minute})
		defer m.close()
		begun := time.Now()
		if err := m.start(t.Context()); err != nil || time.Since(begun) > 3*time.Second {
			t.Fatal(err, time.Since(begun))
		}
		expect(t, m, "p:1", "a:1")
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

func TestStartWithAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.servers["b:1"].system, w.servers["a:1"].system, w.servers["a:1"].standby = "two", "two", false
		m, _ := newFakeMonitor(t, w, fakeDSN, Options{})
		err := m.start(t.Context())
		var fault *providers.ConfigError
		if !errors.As(err, &fault) || fault.Field != "Cluster.Discovery" {
			t.Fatal(err)
		}
		for _, want := range []string{"a:1 belongs", "b:1 belongs"} {
			if !strings.Contains(err.Error(), want) {
				t.Error(err)
			}
		}
		if w.open != 0 {
			t.Errorf("%d pools are open", w.open)
		}
	})
}

func TestAwaitEnds(t *testing.T) {
	inWorld(t, Options{}, func(t *testing.T, w *world, m *monitor, _ *record) {
		w.set(func(at map[string]*fakeNode) { at["p:1"].down = errRefused })
		<-time.After(5 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.awaitWriter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := m.awaitNewer(ctx, m.view()); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- m.awaitNewer(t.Context(), m.view()) }()
		synctest.Wait()
		m.close()
		if err := <-ended; !errors.Is(err, providers.ErrPoolClosed) {
			t.Error(err)
		}
	})
}

// found is a discovery whose answer changes.
type found struct {
	mu    sync.Mutex
	hosts []Host
	err   error
	on    []providers.Querier // what it was asked with
}

func (f *found) Discover(_ context.Context, primary providers.Querier) ([]Host, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on = append(f.on, primary)
	return f.hosts, f.err
}

func (f *found) answer(err error, hosts ...Host) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hosts, f.err = hosts, err
}

func (f *found) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.on)
}

// Hosts come and go while the handle is open; a discovery that fails changes nothing.
func TestTrap42Discovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		d := &found{hosts: []Host{{Address: "a:1", Zone: "east"}}}
		m, r := newFakeMonitor(t, w, "host=p port=1", Options{Discovery: d})
		if err := m.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer m.close()
		expect(t, m, "p:1", "a:1")
		if d.asked() != 1 || d.on[0] == nil {
			t.Error("the primary could not be asked")
		}
		a := m.view().replicas[0]

		d.answer(nil, Host{Address: "a:1", Zone: "east"}, Host{Address: "b"})
		<-time.After(6 * time.Second)
		expect(t, m, "p:1", "a:1 b:1")
		d.answer(errors.New("lookup: no such host"))
		<-time.After(20 * time.Second)
		expect(t, m, "p:1", "a:1 b:1")
		if r.logged("discovery failed") != 1 {
			t.Error("not logged once")
		}
		d.answer(nil, Host{Address: "a:1", Zone: "west"}, Host{Address: "b:no port"})
		<-time.After(6 * time.Second)
		expect(t, m, "p:1", "a:1")
		if now := m.view().replicas[0]; now == a || now.Host().Zone != "west" || now.lagNow() > 2*time.Second || m.stats().Servers[1].Zone != "west" {
			t.Errorf("%+v", now.Host())
		}
		if heard := r.heard(); heard != "gone a:1, gone b:1" || w.open != 2 || r.logged("discovery works again") != 0 {
			t.Errorf("%s; %d open", heard, w.open)
		}
		d.answer(nil)
		<-time.After(6 * time.Second)
		expect(t, m, "p:1", "")
		if r.logged("discovery works again") != 1 || w.open != 1 {
			t.Errorf("%d open", w.open)
		}
	})
}

// A primary that discovery does not name, since it names replicas only, stays one.
func TestDiscoveryKeepsThePrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		d := &found{hosts: []Host{{Address: "a:1"}, {Address: "b:1"}}}
		m, _ := newFakeMonitor(t, w, "host=p port=1", Options{Discovery: d})
		if err := m.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer m.close()
		asked := d.asked()
		w.set(func(at map[string]*fakeNode) {
			at["p:1"].down = errRefused
			at["a:1"].standby, at["a:1"].timeline, at["b:1"].timeline = false, 2, 2
		})
		d.answer(nil, Host{Address: "b:1"})
		m.trouble(m.view().writer, net.ErrClosed)
		<-time.After(2 * time.Second)
		expect(t, m, "a:1", "b:1")
		if d.asked() == asked {
			t.Error("the hosts were not asked for")
		}
		<-time.After(20 * time.Second)
		expect(t, m, "a:1", "b:1")
	})
}

// A host that makes no sense is a fault at first.
func TestDiscoveryAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, h := range []Host{{Address: "b:no port"}, {DSN: "postgres://u:geheim@b:port/"}, {}} {
			w := newWorld()
			m, _ := newFakeMonitor(t, w, fakeDSN, Options{Discovery: &found{hosts: []Host{h}}})
			err := m.start(t.Context())
			var fault *providers.ConfigError
			if !errors.As(err, &fault) || fault.Field != "Cluster.Discovery" || strings.Contains(err.Error(), "geheim") {
				t.Errorf("%+v: %v", h, err)
			}
		}
		// One that fails is not: the DSN has what is needed.
		m, r := newFakeMonitor(t, newWorld(), fakeDSN, Options{Discovery: &found{err: errors.New("timeout")}})
		if err := m.start(t.Context()); err != nil || r.logged("discovery failed") != 1 {
			t.Error(err)
		}
		m.close()
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

func TestOptionsAreChecked(t *testing.T) {
	d := &found{}
	for name, tc := range map[string]struct {
		opts Options
		want string
	}{
		"nothing": {},
		"all": {Options{
			Heartbeat: 10 * time.Millisecond, ProbeTimeout: 1, MaxLag: 20 * time.Millisecond, Fallback: FallbackError,
			CausalWait: providers.Off, Strategy: Random(), Discovery: d, DiscoverEvery: 1,
		}, ""},
		"heartbeat":         {Options{Heartbeat: time.Millisecond}, "Heartbeat"},
		"negative":          {Options{Heartbeat: -1}, "Heartbeat"},
		"probe":             {Options{ProbeTimeout: -1}, "ProbeTimeout"},
		"lag":               {Options{MaxLag: -1}, "MaxLag"},
		"lag under 2 beats": {Options{MaxLag: 1999 * time.Millisecond}, "MaxLag"},
		"fallback":          {Options{Fallback: 2}, "Fallback"},
		"causal wait":       {Options{CausalWait: -2}, "CausalWait"},
		"every":             {Options{Discovery: d, DiscoverEvery: -1}, "DiscoverEvery"},
		"no discovery":      {Options{DiscoverEvery: 1}, "DiscoverEvery"},
		"no host":           {Options{Discovery: Static()}, "Discovery"},
		"strategy":          {Options{Strategy: NearestZone("", RoundRobin())}, "Strategy"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.opts.Validate()
			var fault *providers.ConfigError
			if tc.want == "" && err != nil || tc.want != "" && (!errors.As(err, &fault) || fault.Field != "Cluster."+tc.want) {
				t.Errorf("%v, want a fault of %q", err, tc.want)
			}
		})
	}
	err := Options{Heartbeat: -1, MaxLag: -1, Fallback: 9}.Validate()
	for _, field := range []string{"Heartbeat", "MaxLag", "Fallback"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not in: %v", field, err)
		}
	}
	for f, want := range map[Fallback]string{FallbackPrimary: "primary", FallbackError: "error", 7: "invalid"} {
		if f.String() != want {
			t.Error(f)
		}
	}
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
