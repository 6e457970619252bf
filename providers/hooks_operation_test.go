package providers_test

import (
	"context"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

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
