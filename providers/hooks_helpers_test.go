package providers_test

import (
	"context"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

// allEvents are the events that exist, without EventCustom.
func allEvents() []providers.HookEvent {
	var events []providers.HookEvent
	for e := range providers.EventCustom {
		events = append(events, e)
	}
	return events
}

// journal writes down what hooks see.
type journal struct{ lines []string }

func manager(t testing.TB, hooks ...providers.Hook) *providers.HookManager {
	t.Helper()
	m, err := providers.NewHookManager(hooks...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func run(m *providers.HookManager, info providers.HookInfo, err error) {
	_, f := m.Start(context.Background(), info)
	f.End(0, err)
}

func before(ctx context.Context, _ *providers.HookInfo) context.Context { return ctx }
func after(context.Context, *providers.HookInfo)                        {}
