package providers_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
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

func (j *journal) addf(format string, args ...any) {
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

func (j *journal) hook(name string, events ...providers.HookEvent) providers.Hook {
	return providers.Hook{
		Name: name, Events: events,
		Before: func(ctx context.Context, info *providers.HookInfo) context.Context {
			j.addf("before %s %s", name, info.Event)
			return ctx
		},
		After: func(_ context.Context, info *providers.HookInfo) { j.addf("after %s %s", name, info.Event) },
	}
}

func (j *journal) want(t *testing.T, lines ...string) {
	t.Helper()
	if !slices.Equal(j.lines, lines) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(j.lines, "\n  "), strings.Join(lines, "\n  "))
	}
	j.lines = nil
}

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
