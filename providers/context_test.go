package providers_test

import (
	"context"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

type idHelpers struct {
	with func(context.Context, string) context.Context
	get  func(context.Context) (string, bool)
	key  any
}

func helpers() map[string]idHelpers {
	return map[string]idHelpers{
		"tenant":      {providers.WithTenantID, providers.GetTenantID, providers.TenantIDKey},
		"correlation": {providers.WithCorrelationID, providers.GetCorrelationID, providers.CorrelationIDKey},
		"user":        {providers.WithUserID, providers.GetUserID, providers.UserIDKey},
	}
}

func TestIDsInContext(t *testing.T) {
	for name, h := range helpers() {
		t.Run(name, func(t *testing.T) {
			bg := context.Background()
			want := func(ctx context.Context, id string, there bool) {
				t.Helper()
				if got, ok := h.get(ctx); got != id || ok != there {
					t.Errorf("got %.20q, %v; want %.20q, %v", got, ok, id, there)
				}
			}
			want(bg, "", false)
			want(h.with(bg, "a"), "a", true)
			want(h.with(h.with(bg, "a"), "b"), "b", true)
			want(h.with(h.with(bg, "a"), ""), "", false) // an empty id takes the outer one away
			want(h.with(bg, "a\x00b"), "a\x00b", true)
			want(h.with(bg, strings.Repeat("x", 1<<20)), strings.Repeat("x", 1<<20), true)
			want(context.WithValue(bg, h.key, 7), "", false)   // not a string
			want(context.WithValue(bg, h.key, nil), "", false) // nor anything

			//nolint:staticcheck // a key of a plain string is the point
			want(context.WithValue(bg, name+"_id", "other"), "", false)
			cancelled, cancel := context.WithCancel(h.with(bg, "a"))
			cancel()
			want(cancelled, "a", true)
		})
	}
}

func TestIDsDoNotMix(t *testing.T) {
	for name, h := range helpers() {
		ctx := h.with(context.Background(), "id")
		for other, o := range helpers() {
			if id, ok := o.get(ctx); ok != (other == name) {
				t.Errorf("With of %s: Get of %s is %q, %v", name, other, id, ok)
			}
		}
	}
}

type namedPool struct {
	providers.Pool
	name string
}

func TestHeldCountsPerPool(t *testing.T) {
	a, b := &namedPool{name: "a"}, &namedPool{name: "b"}
	bg := context.Background()
	one := providers.WithHeld(bg, a)
	two := providers.WithHeld(one, a)
	both := providers.WithHeld(two, b)
	for _, tc := range []struct {
		ctx  context.Context
		pool providers.Pool
		want int
	}{
		{bg, a, 0},
		{one, a, 1},
		{two, a, 2},
		{one, b, 0},
		{both, a, 2},
		{both, b, 1},
		{both, nil, 0},
		{providers.WithoutHeld(both), a, 0},
		{providers.WithHeld(providers.WithoutHeld(both), a), a, 1},
		{providers.WithHeld(bg, nil), nil, 1},
	} {
		if got := providers.Held(tc.ctx, tc.pool); got != tc.want {
			t.Errorf("Held(%v) = %d, want %d", tc.pool, got, tc.want)
		}
	}
}

// What a context says otherwise is not lost with what it holds.
func TestWithoutHeldKeepsTheRest(t *testing.T) {
	ctx := providers.WithHeld(providers.WithTenantID(context.Background(), "acme"), nil)
	if id, ok := providers.GetTenantID(providers.WithoutHeld(ctx)); id != "acme" || !ok {
		t.Errorf("%q, %v", id, ok)
	}
}
