package timeout_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/pgkeel/pgkeel/chain"
	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/resilience/timeout"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scopeOf is what the layer writes on a call.
func scopeOf(t *testing.T, ctx context.Context, before ...providers.Setting) []providers.Setting {
	t.Helper()
	mine := errors.New("mine")
	call := &providers.Call{Scope: before}
	run := chain.Build(func(context.Context, *providers.Call) error { return mine }, timeout.Layer())
	if err := run(ctx, call); !errors.Is(err, mine) {
		t.Errorf("not the error of what it wraps: %v", err)
	}
	return call.Scope
}

func TestWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for left, want := range map[time.Duration]string{
			time.Second:                        "1000",
			time.Millisecond:                   "1",
			time.Millisecond + time.Nanosecond: "2", // rounded up
			time.Nanosecond:                    "1", // 0 would be no limit
			0:                                  "1",
			-time.Hour:                         "1",
			25 * 24 * time.Hour:                "2147483647", // the most that it takes
			1<<63 - 1:                          "2147483647",
		} {
			ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(left))
			defer cancel()
			if got := scopeOf(t, ctx); len(got) != 1 || got[0] != (providers.Setting{Name: "statement_timeout", Value: want}) {
				t.Errorf("%s left: %v, not %s", left, got, want)
			}
		}
	})
}

func TestWithoutADeadline(t *testing.T) {
	if got := scopeOf(t, context.Background()); got != nil {
		t.Errorf("%v", got)
	}
}

// What other layers wrote stays.
func TestScopeOfOthers(t *testing.T) {
	tenant := providers.Setting{Name: "app.tenant_id", Value: "acme"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	got := scopeOf(t, ctx, tenant)
	if len(got) != 2 || !slices.Contains(got, tenant) {
		t.Errorf("%v", got)
	}
}

func TestPlace(t *testing.T) {
	if got := timeout.Layer().Order; got != chain.Timeout {
		t.Error(got)
	}
}
