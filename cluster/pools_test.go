package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// A replica's pool is opened by the first read, holds its sessions to reading, and
// keeps no connections of its own accord.
func TestReadPools(t *testing.T) {
	s := newStage(t, Options{}, "a", "b")
	s.cfg.Pool = providers.PoolStrategy{MaxSize: 7, MinSize: 3, InitialSize: 2}
	var told int
	s.cfg.OnTrouble = func(error) { told++ }
	if len(s.pools) != 1 {
		t.Errorf("%d pools are open", len(s.pools))
	}
	ctx := providers.WithReadOnly(t.Context())
	for range 4 {
		if _, err := read(ctx, s, "select 1"); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.pools) != 3 {
		t.Errorf("%d pools are open", len(s.pools))
	}
	cfg := s.pools["a"].cfg
	if !cfg.ReadOnly || cfg.Pool.MaxSize != 7 || cfg.Pool.MinSize != 0 || cfg.Pool.InitialSize != 0 || cfg.ConnectTimeout != DefaultProbeTimeout {
		t.Errorf("%+v", cfg)
	}
	cfg.OnTrouble(errLost)
	if len(s.troubles) != 1 || told != 1 {
		t.Errorf("%q, and the user was told %d times", s.troubles, told)
	}
	if n := s.Stats().Acquires; n != 3 {
		t.Errorf("statistics of %d pools", n)
	}
	s.Reset()
	for name, p := range s.pools {
		if p.resets != 1 {
			t.Errorf("%s: %d resets", name, p.resets)
		}
	}
}

// Trouble of the primary is told of the primary, and what is known is no news.
func TestTroubleOfThePrimary(t *testing.T) {
	s := newStage(t, Options{})
	var told int
	s.cfg.OnTrouble = func(error) { told++ }
	trouble := s.pools[primaryName].cfg.OnTrouble
	trouble(errLost)
	trouble(&providers.UnreachableError{Err: &NoPrimaryError{Err: context.DeadlineExceeded}})
	if len(s.troubles) != 1 || told != 2 {
		t.Errorf("%q, and the user was told %d times", s.troubles, told)
	}
	s.evict()
	s.forget()
	if p := s.pools[primaryName]; p.evicted != 1 || p.resets != 1 {
		t.Errorf("%d evictions, %d resets", p.evicted, p.resets)
	}
}

// Connections go to whichever server is the primary, and wait while there is none.
func TestRouteOfThePrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, Options{})
		route := s.pools[primaryName].cfg.Route
		if dsn, err := route(t.Context()); err != nil || dsn != primaryName {
			t.Errorf("%s: %v", dsn, err)
		}
		s.replace(func(v *view) { v.writer = nil })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := route(ctx)
		var none *NoPrimaryError
		if !errors.As(err, &none) || none.Waited != time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		go func() {
			<-time.After(time.Minute)
			s.replace(func(v *view) { v.writer = fakeServer("new") })
		}()
		if dsn, err := route(t.Context()); err != nil || dsn != "new" {
			t.Errorf("%s: %v", dsn, err)
		}
	})
}

// A server that is gone is drained, one that is silent is not waited for, and what
// read there goes on elsewhere.
func TestDroppedPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, Options{}, "a", "b")
		gone, pool := s.view().replicas[0], s.pool("a")
		pool.block = make(chan struct{})
		stale := s.view()
		s.replace(func(v *view) { v.replicas = v.replicas[1:] })
		s.drop(gone, drainTimeout)
		s.drop(gone, drainTimeout) // nothing is left to drop
		synctest.Wait()
		if !pool.closed || s.poolOf(gone) != nil {
			t.Error("it can still be read from")
		}
		if n := s.Stats().Acquires; n != 2 {
			t.Errorf("statistics of %d pools", n)
		}
		begun := time.Now()
		s.background.Wait()
		if took := time.Since(begun); took != drainTimeout {
			t.Errorf("it was drained for %s", took)
		}
		if n := s.Stats().Acquires; n != 2 {
			t.Errorf("statistics of %d pools", n)
		}
		// One who still has the old view.
		trip := trip{cluster: s.Cluster, ctx: t.Context(), reads: true, view: stale}
		if _, to, err := trip.place(); err != nil || to != s.pools["b"] {
			t.Errorf("%v: %v", to, err)
		}
		trip.leave()

		silent, pool := s.view().replicas[0], s.pool("b")
		pool.block = make(chan struct{})
		begun = time.Now()
		s.drop(silent, 0)
		s.background.Wait()
		if !pool.closed || time.Since(begun) != 0 {
			t.Errorf("it was closed %v after %s", pool.closed, time.Since(begun))
		}
		// It is fit again, and gets another pool.
		if from, err := read(providers.WithReadOnly(t.Context()), s, "select 1"); err != nil || from != "b" || s.pools["b"] == pool {
			t.Errorf("%s: %v", from, err)
		}
	})
}

// Close waits for what is drained, no longer than its context says.
func TestCloseWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, Options{}, "a", "b")
		s.pool("a").block = make(chan struct{})
		s.pool("b").block = make(chan struct{})
		s.drop(s.view().replicas[0], time.Hour)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		begun := time.Now()
		var forced *providers.CloseError
		if err := s.Close(ctx); !errors.As(err, &forced) || time.Since(begun) != time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		s.closeErr = nil                // the test's own end asks again
		s.drop(s.view().replicas[1], 0) // there is nothing left to drop
	})
}
