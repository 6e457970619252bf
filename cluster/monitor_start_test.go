package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

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
