package providers_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

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
