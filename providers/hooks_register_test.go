package providers_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

func TestRegisterRefusesHooksThatHookNothing(t *testing.T) {
	for name, h := range map[string]providers.Hook{
		"no name":                   {Before: before},
		"a blank name":              {Name: " \n", Before: before},
		"nothing to call":           {Name: "h"},
		"nothing to call, events":   {Name: "h", Events: []providers.HookEvent{providers.EventQuery}},
		"an event that is not":      {Name: "h", Before: before, Events: []providers.HookEvent{providers.EventCustom + 1}},
		"an event that is not, 2nd": {Name: "h", Before: before, Events: []providers.HookEvent{providers.EventQuery, 255}},
		"a before of an error":      {Name: "h", Before: before, Events: []providers.HookEvent{providers.EventError}},
		"a before of what has none": {Name: "h", Before: before, Events: []providers.HookEvent{providers.EventNotification, providers.EventError}},
		"a custom event":            {Name: "h", Before: before, Events: []providers.HookEvent{providers.EventQuery, providers.EventCustom}},
	} {
		t.Run(name, func(t *testing.T) {
			m := manager(t)
			if err := m.Register(h); !errors.Is(err, providers.ErrInvalidHook) {
				t.Errorf("Register: %v", err)
			}
			if m.Unregister(h.Name) {
				t.Error("it was registered all the same")
			}
			if m, err := providers.NewHookManager(providers.Hook{Name: "fine", After: after}, h); m != nil || !errors.Is(err, providers.ErrInvalidHook) {
				t.Errorf("NewHookManager = %v, %v", m, err)
			}
		})
	}
}

func TestRegisterCustomRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		operation string
		hook      providers.Hook
		want      error
	}{
		"no operation":    {"", providers.Hook{Name: "h", After: after}, providers.ErrInvalidHook},
		"blank operation": {"\t", providers.Hook{Name: "h", After: after}, providers.ErrInvalidHook},
		"events": {
			"op",
			providers.Hook{Name: "h", After: after, Events: []providers.HookEvent{providers.EventCustom}},
			providers.ErrInvalidHook,
		},
		"nothing to call": {"op", providers.Hook{Name: "h"}, providers.ErrInvalidHook},
		"no name":         {"op", providers.Hook{After: after}, providers.ErrInvalidHook},
		"taken":           {"op", providers.Hook{Name: "taken", After: after}, providers.ErrDuplicateHook},
	} {
		m := manager(t, providers.Hook{Name: "taken", After: after})
		if err := m.RegisterCustom(tc.operation, tc.hook); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

func TestHookNamesAreUnique(t *testing.T) {
	m := manager(t, providers.Hook{Name: "h", After: after})
	other := providers.Hook{Name: "h", Before: before}
	if err := m.Register(other); !errors.Is(err, providers.ErrDuplicateHook) {
		t.Errorf("a second hook of that name: %v", err)
	}
	if !m.Unregister("h") || m.Unregister("h") || m.Unregister("") {
		t.Error("Unregister does not say whether the hook was there")
	}
	if err := m.Register(other); err != nil {
		t.Errorf("the name stays taken: %v", err)
	}
}

// The slice of events belongs to the caller, who may use it again.
func TestRegisterCopiesTheEvents(t *testing.T) {
	var j journal
	events := []providers.HookEvent{providers.EventQuery}
	m := manager(t, j.hook("h", events...))
	events[0] = providers.EventCustom + 1
	if err := m.Register(j.hook("other", providers.EventExec)); err != nil { // makes the table anew
		t.Fatal(err)
	}
	run(m, providers.HookInfo{Event: providers.EventQuery}, nil)
	j.want(t, "before h query", "after h query")

	reused := slices.Repeat([]providers.HookEvent{providers.EventCommit}, 20)
	if err := m.Register(j.hook("all", reused[:0]...)); err != nil {
		t.Fatal(err)
	}
	if want := slices.Repeat([]providers.HookEvent{providers.EventCommit}, 20); !slices.Equal(reused, want) {
		t.Errorf("Register wrote into the caller's slice: %v", reused)
	}
}

func TestHooksMayChangeTheManager(t *testing.T) {
	var j journal
	m := manager(t)
	once := providers.Hook{Name: "once", Before: func(ctx context.Context, _ *providers.HookInfo) context.Context {
		j.addf("once %v", m.Unregister("once"))
		if err := m.Register(j.hook("next")); err != nil {
			t.Error(err)
		}
		return ctx
	}}
	if err := m.Register(once); err != nil {
		t.Fatal(err)
	}
	run(m, providers.HookInfo{Event: providers.EventQuery}, nil)
	run(m, providers.HookInfo{Event: providers.EventQuery}, nil)
	j.want(t, "once true", "before next query", "after next query")
}

func TestHooksConcurrently(t *testing.T) {
	var fired atomic.Int64
	count := providers.Hook{
		Name:   "count",
		Before: func(ctx context.Context, _ *providers.HookInfo) context.Context { fired.Add(1); return ctx },
		After:  func(context.Context, *providers.HookInfo) { fired.Add(-1) },
	}
	m := manager(t, count)
	m.Logger = slog.New(slog.DiscardHandler)
	var wg sync.WaitGroup
	var won atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			if err := m.Register(providers.Hook{Name: "contested", After: after}); err == nil {
				won.Add(1)
			}
			for n := range 50 {
				h := count
				h.Name = fmt.Sprintf("hook %d %d", i, n)
				if n%2 == 0 {
					h.Events = []providers.HookEvent{providers.EventQuery, providers.EventExec}
				}
				if err := m.Register(h); err != nil {
					t.Error(err)
				}
				bad := providers.Hook{Name: h.Name + " bad", After: func(context.Context, *providers.HookInfo) { panic("bad") }}
				if err := m.Register(bad); err != nil {
					t.Error(err)
				}
				m.Unregister(bad.Name)
				if !m.Unregister(h.Name) {
					t.Errorf("%s was lost", h.Name)
				}
			}
		})
		wg.Go(func() {
			quiet := providers.EventSavepoint
			for range 200 {
				run(m, providers.HookInfo{Event: quiet}, nil)
				m.Has(providers.EventError)
				m.RecoveredPanics()
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d registrations of one name succeeded", won.Load())
	}
	if fired.Load() != 0 {
		t.Errorf("%d befores without their after", fired.Load())
	}
}
