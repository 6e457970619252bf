package cluster

import (
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// A discovery of the user's that misbehaves ends neither the program nor the handle,
// and the hosts that are known stay.
func TestDiscoveryThatMisbehaves(t *testing.T) {
	for what, c := range map[string]struct {
		discover func(block <-chan struct{})
		says     string
	}{
		"panics":              {func(<-chan struct{}) { panic("mine") }, "panicked: mine"},
		"panics with nil":     {func(<-chan struct{}) { panic(nil) }, "panicked"},
		"ends its goroutine":  {func(<-chan struct{}) { runtime.Goexit() }, "ended its goroutine"},
		"heeds no context":    {func(block <-chan struct{}) { <-block }, "has not returned"},
		"in the end, at last": {func(<-chan struct{}) { <-time.After(12 * time.Second) }, "has not returned"},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				block := make(chan struct{})
				defer close(block)
				var bad atomic.Bool
				d := Func(func(context.Context, providers.Querier) ([]Host, error) {
					if bad.Load() {
						c.discover(block)
					}
					return []Host{{Address: "a:1"}}, nil
				})
				for _, d := range []Discovery{d, Combine(d, Static("host=b port=1"))} {
					bad.Store(false)
					m, r := newFakeMonitor(t, newWorld(), fakeDSN, Options{Discovery: d})
					if err := m.start(t.Context()); err != nil {
						t.Fatal(err)
					}
					before := len(m.view().replicas)
					bad.Store(true)
					<-time.After(time.Minute)
					if got := len(m.view().replicas); got != before {
						t.Errorf("%d replicas instead of %d", got, before)
					}
					m.mu.Lock()
					last := m.discovery
					m.mu.Unlock()
					if r.logged("discovery failed") == 0 || last != nil && !strings.Contains(last.Error(), c.says) {
						t.Errorf("%d lines, %v", r.logged("discovery failed"), last)
					}
					begun := time.Now()
					m.close()
					if took := time.Since(begun); took > time.Second {
						t.Errorf("close took %s", took)
					}
					<-time.After(12 * time.Second) // what still runs is the user's
				}
			})
		})
	}
}

// The other parts are heard while one hangs.
func TestCombineWithOneThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		defer close(block)
		var calls atomic.Int64
		hangs := Func(func(context.Context, providers.Querier) ([]Host, error) {
			calls.Add(1)
			<-block
			return nil, nil
		})
		d := Combine(hangs, Static("host=b port=1"))
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			hosts, err := d.Discover(ctx, nil)
			if len(hosts) != 1 || err == nil || ctx.Err() != nil {
				t.Errorf("%v, %v, %v", hosts, err, ctx.Err())
			}
			cancel()
		}
		if calls.Load() != 1 {
			t.Errorf("%d calls at the same time", calls.Load())
		}
	})
}
