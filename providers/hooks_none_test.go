package providers_test

import (
	"context"
	"io"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

func TestNilAndZeroManagersHaveNoHooks(t *testing.T) {
	var never *providers.HookManager
	for name, m := range map[string]*providers.HookManager{"nil": never, "zero": {}} {
		ctx := context.Background()
		for _, e := range append(allEvents(), providers.EventCustom, 255) {
			got, f := m.Start(ctx, providers.HookInfo{Event: e})
			if m.Has(e) || got != ctx || f != nil {
				t.Errorf("%s: observes %s", name, e)
			}
			m.Notify(ctx, providers.HookInfo{Event: e})
			f.SetPID(1)
			f.End(0, io.EOF)
		}
		if m.RecoveredPanics() != 0 || m.Unregister("h") {
			t.Errorf("%s: has hooks", name)
		}
	}
}

// An event that does not exist has no hooks; it does not bring the process down.
func TestEventsThatDoNotExist(t *testing.T) {
	var j journal
	m := manager(t, j.hook("h", providers.EventQuery))
	for _, e := range []providers.HookEvent{providers.EventCustom + 1, 255} {
		if m.Has(e) {
			t.Errorf("Has(%d)", e)
		}
		run(m, providers.HookInfo{Event: e}, nil)
		m.Notify(context.Background(), providers.HookInfo{Event: e})
	}
	j.want(t)
}

func TestHooksThatNobodyRegisteredCostNothing(t *testing.T) {
	ctx := providers.WithTenantID(context.Background(), "acme")
	info := providers.HookInfo{Event: providers.EventQuery, SQL: "select 1", PID: 7}
	fn := func(context.Context) error { return nil }
	emptied := manager(t, providers.Hook{Name: "h", After: after})
	emptied.Unregister("h")
	for name, m := range map[string]*providers.HookManager{
		"nil": nil, "zero": {}, "emptied": emptied,
		"of another event": manager(t, providers.Hook{Name: "h", After: after, Events: []providers.HookEvent{providers.EventCopy}}),
	} {
		for what, call := range map[string]func(){
			"Start, SetPID, End": func() {
				_, f := m.Start(ctx, info)
				f.SetPID(1)
				f.End(1, io.EOF)
			},
			"Notify": func() { m.Notify(ctx, info) },
			"Has":    func() { m.Has(providers.EventQuery) },
			"Run":    func() { _ = m.Run(ctx, "op", fn) },
		} {
			if n := testing.AllocsPerRun(100, call); n != 0 {
				t.Errorf("%s manager: %s allocates %v times", name, what, n)
			}
		}
	}
}
