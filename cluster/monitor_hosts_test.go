package cluster

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

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
