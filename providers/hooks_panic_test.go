package providers_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

func panicking(name string, j *journal) providers.Hook {
	return providers.Hook{
		Name: name,
		Before: func(_ context.Context, info *providers.HookInfo) context.Context {
			j.addf("before %s %s", name, info.Event)
			panic("password=hunter2hunter2")
		},
		After: func(_ context.Context, info *providers.HookInfo) {
			j.addf("after %s %s", name, info.Event)
			panic(fmt.Errorf("password=hunter2hunter2"))
		},
	}
}

func TestPanickingHooksHarmNothing(t *testing.T) {
	var j journal
	var log bytes.Buffer
	m := manager(t, j.hook("first"), panicking("bad", &j), j.hook("last"))
	m.Logger = slog.New(slog.NewTextHandler(&log, nil))
	ctx := providers.WithTenantID(context.Background(), "acme")
	got, f := m.Start(ctx, providers.HookInfo{Event: providers.EventQuery})
	if id, _ := providers.GetTenantID(got); id != "acme" {
		t.Error("the context is lost")
	}
	f.End(0, io.EOF)
	j.want(t, "before first query", "before bad query", "before last query",
		"after last query", "after bad query", "after first query",
		"after last error", "after bad error", "after first error")
	if m.RecoveredPanics() != 3 {
		t.Errorf("RecoveredPanics() = %d, want 3", m.RecoveredPanics())
	}
	text := log.String()
	if strings.Contains(text, "hunter2") {
		t.Errorf("a panic's value is in the log:\n%s", text)
	}
	if strings.Count(text, "hook=bad") != 3 || !strings.Contains(text, "panic_type=string") || !strings.Contains(text, "panic_type=*fmt") && !strings.Contains(text, "panic_type=*errors") {
		t.Errorf("the log does not say which hook panicked with what:\n%s", text)
	}
}

func TestPanickingHookOfNil(t *testing.T) {
	m := manager(t, providers.Hook{Name: "nil", After: func(context.Context, *providers.HookInfo) { panic(nil) }})
	m.Logger = slog.New(slog.DiscardHandler)
	run(m, providers.HookInfo{Event: providers.EventQuery}, nil)
	m.Notify(context.Background(), providers.HookInfo{Event: providers.EventNotification})
	if m.RecoveredPanics() != 2 {
		t.Errorf("RecoveredPanics() = %d, want 2", m.RecoveredPanics())
	}
}

func TestPanicsGoToTheDefaultLogger(t *testing.T) {
	var log bytes.Buffer
	old := slog.Default()
	t.Cleanup(func() { slog.SetDefault(old) })
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	m := manager(t, panicking("bad", &journal{}))
	run(m, providers.HookInfo{Event: providers.EventQuery}, nil)
	if !strings.Contains(log.String(), "hook=bad") {
		t.Errorf("the default logger heard: %s", &log)
	}
}

func TestPropagatePanics(t *testing.T) {
	m := manager(t, panicking("bad", &journal{}))
	m.Panics = providers.PropagatePanics
	defer func() {
		if r := recover(); r != "password=hunter2hunter2" {
			t.Errorf("recovered %v", r)
		}
		if m.RecoveredPanics() != 0 {
			t.Error("counted a panic that was not recovered")
		}
	}()
	m.Start(context.Background(), providers.HookInfo{Event: providers.EventQuery})
	t.Error("the panic was swallowed")
}
