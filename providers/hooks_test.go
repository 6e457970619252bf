package providers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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

func TestHookEventString(t *testing.T) {
	want := []string{
		"connect", "acquire", "release", "query", "exec", "batch", "copy", "begin", "commit", "rollback",
		"savepoint", "notification", "error",
	}
	for i, e := range allEvents() {
		if e.String() != want[i] {
			t.Errorf("HookEvent(%d).String() = %q, want %q", e, e, want[i])
		}
	}
	for e, want := range map[providers.HookEvent]string{
		providers.EventCustom: "custom", providers.EventCustom + 1: "invalid", 255: "invalid",
	} {
		if e.String() != want {
			t.Errorf("HookEvent(%d).String() = %q, want %q", e, e, want)
		}
	}
}

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

func TestHooksRunInOrderAndUnwindInReverse(t *testing.T) {
	var j journal
	m := manager(t, j.hook("a"), j.hook("b", providers.EventQuery), j.hook("c", providers.EventExec), j.hook("d"))
	run(m, providers.HookInfo{Event: providers.EventQuery}, nil)
	j.want(t, "before a query", "before b query", "before d query", "after d query", "after b query", "after a query")

	run(m, providers.HookInfo{Event: providers.EventQuery}, io.EOF)
	j.want(t, "before a query", "before b query", "before d query", "after d query", "after b query", "after a query",
		"after d error", "after a error")

	m.Unregister("a")
	if err := m.Register(j.hook("a")); err != nil { // now the last one
		t.Fatal(err)
	}
	run(m, providers.HookInfo{Event: providers.EventExec}, nil)
	j.want(t, "before c exec", "before d exec", "before a exec", "after a exec", "after d exec", "after c exec")
}

func TestHookSeesItsEventsOnly(t *testing.T) {
	for _, e := range allEvents() {
		if e == providers.EventNotification || e == providers.EventError {
			continue
		}
		var j journal
		m := manager(t, j.hook("h", e))
		for _, other := range append(allEvents(), providers.EventCustom) {
			if m.Has(other) != (other == e) {
				t.Errorf("hook of %s: Has(%s) is %v", e, other, other != e)
			}
			if other != e {
				run(m, providers.HookInfo{Event: other}, io.EOF)
			}
		}
		j.want(t)
		run(m, providers.HookInfo{Event: e}, io.EOF)
		j.want(t, "before h "+e.String(), "after h "+e.String())
	}
}

func TestHookWithoutEventsSeesAllButCustom(t *testing.T) {
	var j journal
	for name, events := range map[string][]providers.HookEvent{"nil": nil, "empty": {}} {
		m := manager(t, j.hook("h", events...))
		for _, e := range allEvents() {
			if !m.Has(e) {
				t.Errorf("%s: misses %s", name, e)
			}
		}
		if m.Has(providers.EventCustom) {
			t.Errorf("%s: sees custom operations", name)
		}
	}
}

func TestHookEventNamedTwiceFiresOnce(t *testing.T) {
	var j journal
	m := manager(t, j.hook("h", providers.EventQuery, providers.EventExec, providers.EventQuery))
	run(m, providers.HookInfo{Event: providers.EventQuery}, nil)
	j.want(t, "before h query", "after h query")
}

func TestHookWithOneSideOnly(t *testing.T) {
	var j journal
	first, second := j.hook("first", providers.EventQuery), j.hook("second", providers.EventQuery, providers.EventError)
	first.After, second.Before = nil, nil
	m := manager(t, first, second)
	run(m, providers.HookInfo{Event: providers.EventQuery}, io.EOF)
	j.want(t, "before first query", "after second query", "after second error")
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

func TestHookContext(t *testing.T) {
	type key string
	var seen []string
	note := func(at string, ctx context.Context) {
		seen = append(seen, fmt.Sprintf("%s %v %v", at, ctx.Value(key("a")), ctx.Value(key("b"))))
	}
	with := func(k key) providers.Hook {
		return providers.Hook{
			Name: string(k),
			Before: func(ctx context.Context, _ *providers.HookInfo) context.Context {
				note("before "+string(k), ctx)
				return context.WithValue(ctx, k, "set")
			},
			After: func(ctx context.Context, info *providers.HookInfo) {
				note("after "+string(k)+" "+info.Event.String(), ctx)
			},
		}
	}
	returnsNil := providers.Hook{
		Name:   "nil",
		Before: func(context.Context, *providers.HookInfo) context.Context { return nil },
	}
	m := manager(t, with("a"), returnsNil, with("b"))
	ctx, f := m.Start(context.Background(), providers.HookInfo{Event: providers.EventQuery})
	note("operation", ctx)
	f.End(1, io.EOF)
	want := []string{
		"before a <nil> <nil>", "before b set <nil>", "operation set set",
		"after b query set set", "after a query set set", "after b error set set", "after a error set set",
	}
	if !slices.Equal(seen, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(seen, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestHookInfo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var atBefore, atAfter, atError providers.HookInfo
		m := manager(t, providers.Hook{
			Name: "h",
			Before: func(ctx context.Context, info *providers.HookInfo) context.Context {
				atBefore = *info
				return providers.WithTenantID(ctx, "changed by a hook")
			},
			After: func(_ context.Context, info *providers.HookInfo) {
				if info.Event == providers.EventError {
					atError = *info
				} else {
					atAfter = *info
				}
			},
		})
		ctx := providers.WithTenantID(context.Background(), "tenant")
		ctx = providers.WithCorrelationID(ctx, "correlation")
		ctx = providers.WithUserID(ctx, "user")
		start := time.Now()
		_, f := m.Start(ctx, providers.HookInfo{Event: providers.EventCopy, Name: "users", SQL: "copy", TenantID: "forged"})
		f.SetPID(4711)
		<-time.After(3 * time.Second) // the bubble's clock: takes no time
		f.End(12, io.EOF)

		want := providers.HookInfo{
			Event: providers.EventCopy, Name: "users", SQL: "copy",
			TenantID: "tenant", CorrelationID: "correlation", UserID: "user", Start: start,
		}
		if atBefore != want {
			t.Errorf("before: %+v, want %+v", atBefore, want)
		}
		want.PID, want.Duration, want.Rows, want.Err = 4711, 3*time.Second, 12, io.EOF
		if atAfter != want {
			t.Errorf("after: %+v, want %+v", atAfter, want)
		}
		want.Event, want.Operation = providers.EventError, providers.EventCopy
		if atError != want {
			t.Errorf("error: %+v, want %+v", atError, want)
		}
	})
}

func TestErrorHookWithoutAnyOther(t *testing.T) {
	var j journal
	h := j.hook("h", providers.EventError)
	m := manager(t, h)
	run(m, providers.HookInfo{Event: providers.EventCommit}, nil)
	j.want(t)
	run(m, providers.HookInfo{Event: providers.EventCommit}, io.EOF)
	j.want(t, "after h error")
}

func TestOperationEndsWithTheHooksItBeganWith(t *testing.T) {
	var j journal
	m := manager(t, j.hook("old"))
	_, f := m.Start(context.Background(), providers.HookInfo{Event: providers.EventQuery})
	m.Unregister("old")
	if err := m.Register(j.hook("new")); err != nil {
		t.Fatal(err)
	}
	f.End(0, io.EOF)
	j.want(t, "before old query", "after old query", "after old error")
	run(m, providers.HookInfo{Event: providers.EventQuery}, nil)
	j.want(t, "before new query", "after new query")
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

func TestNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []providers.HookInfo
		m := manager(t, providers.Hook{
			Name:   "h",
			Before: func(ctx context.Context, _ *providers.HookInfo) context.Context { t.Error("before"); return ctx },
			After:  func(_ context.Context, info *providers.HookInfo) { got = append(got, *info) },
		})
		ctx := providers.WithCorrelationID(providers.WithTenantID(context.Background(), "tenant"), "correlation")
		m.Notify(providers.WithUserID(ctx, "user"), providers.HookInfo{Event: providers.EventNotification, Name: "jobs", PID: 7})
		want := providers.HookInfo{
			Event: providers.EventNotification, Name: "jobs", PID: 7, Start: time.Now(),
			TenantID: "tenant", CorrelationID: "correlation", UserID: "user",
		}
		if len(got) != 1 || got[0] != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		m.Unregister("h")
		m.Notify(ctx, want)
		if len(got) != 1 {
			t.Error("a hook that is gone was called")
		}
	})
}

func TestRunFiresTheHooksOfItsOperation(t *testing.T) {
	var j journal
	m := manager(t, j.hook("all"))
	for _, op := range []string{"import", "export"} {
		if err := m.RegisterCustom(op, j.hook(op+"-hook")); err != nil {
			t.Fatal(err)
		}
	}
	fn := func(err error) func(context.Context) error {
		return func(context.Context) error { j.addf("run"); return err }
	}
	if err := m.Run(context.Background(), "import", fn(nil)); err != nil {
		t.Error(err)
	}
	j.want(t, "before import-hook custom", "run", "after import-hook custom")

	if err := m.Run(context.Background(), "import", fn(io.EOF)); err != io.EOF { //nolint:errorlint // as it is
		t.Errorf("Run = %v", err)
	}
	j.want(t, "before import-hook custom", "run", "after import-hook custom", "after all error")

	if err := m.Run(context.Background(), "other", fn(io.EOF)); err != io.EOF { //nolint:errorlint // as it is
		t.Errorf("Run = %v", err)
	}
	j.want(t, "run", "after all error")

	// Start is how Run does it, so it must keep operations apart as well.
	run(m, providers.HookInfo{Event: providers.EventCustom, Name: "export"}, nil)
	j.want(t, "before export-hook custom", "after export-hook custom")
}

func TestRunPassesTheContext(t *testing.T) {
	type key struct{}
	var info providers.HookInfo
	m := manager(t)
	err := m.RegisterCustom("op", providers.Hook{
		Name: "h",
		Before: func(ctx context.Context, _ *providers.HookInfo) context.Context {
			return context.WithValue(ctx, key{}, "hook's")
		},
		After: func(_ context.Context, i *providers.HookInfo) { info = *i },
	})
	if err != nil {
		t.Fatal(err)
	}
	err = m.Run(providers.WithTenantID(context.Background(), "acme"), "op", func(ctx context.Context) error {
		if ctx.Value(key{}) != "hook's" {
			t.Error("the hook's context did not arrive")
		}
		return nil
	})
	if err != nil || info.Name != "op" || info.Event != providers.EventCustom || info.TenantID != "acme" || info.Err != nil {
		t.Errorf("%v, %+v", err, info)
	}
}

func TestRunWithoutHooks(t *testing.T) {
	for name, m := range map[string]*providers.HookManager{"nil": nil, "zero": {}, "empty": manager(t)} {
		if err := m.Run(context.Background(), "op", func(context.Context) error { return io.EOF }); err != io.EOF { //nolint:errorlint // as it is
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A panic of the operation is not a hook's: it goes through, and the hooks are
// unwound with an error.
func TestRunThatDoesNotReturn(t *testing.T) {
	for name, leave := range map[string]func(){
		"panic":  func() { panic("boom") },
		"goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			var seen error
			m := manager(t)
			if err := m.RegisterCustom("op", providers.Hook{Name: "h", After: func(_ context.Context, info *providers.HookInfo) { seen = info.Err }}); err != nil {
				t.Fatal(err)
			}
			var recovered any
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { recovered = recover() }()
				_ = m.Run(context.Background(), "op", func(context.Context) error { leave(); return nil })
				t.Error("Run returned")
			}()
			<-done
			if want := map[string]any{"panic": "boom"}[name]; recovered != want {
				t.Errorf("recovered %v, want %v", recovered, want)
			}
			if seen == nil || strings.Contains(seen.Error(), "boom") || !strings.Contains(seen.Error(), `"op"`) {
				t.Errorf("the hook saw %v; want an error that names the operation and no panic value", seen)
			}
			if m.RecoveredPanics() != 0 {
				t.Error("counted as a hook's panic")
			}
		})
	}
}

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
