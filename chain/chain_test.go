package chain_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/pgkeel/pgkeel/chain"
	"github.com/pgkeel/pgkeel/providers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOrder(t *testing.T) {
	var passed []string
	note := func(order chain.Order, name string) chain.Layer {
		return chain.Layer{Order: order, Wrap: func(next chain.Handler) chain.Handler {
			return func(ctx context.Context, call *providers.Call) error {
				passed = append(passed, name)
				err := next(ctx, call)
				passed = append(passed, "back in "+name)
				return err
			}
		}}
	}
	mine := errors.New("mine")
	execute := func(_ context.Context, call *providers.Call) error {
		passed = append(passed, call.SQL)
		return mine
	}
	call := &providers.Call{SQL: "execute"}
	for name, tc := range map[string]struct {
		layers []chain.Layer
		want   []string
	}{
		"none": {nil, []string{"execute"}},
		"one":  {[]chain.Layer{note(1, "a")}, []string{"a", "execute", "back in a"}},
		"by place, not as given": {
			[]chain.Layer{note(9, "c"), note(1, "a"), note(5, "b")},
			[]string{"a", "b", "c", "execute", "back in c", "back in b", "back in a"},
		},
		"as given in one place": {
			[]chain.Layer{note(2, "b"), note(1, "first"), note(2, "a")},
			[]string{"first", "b", "a", "execute", "back in a", "back in b", "back in first"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			passed = nil
			given := slices.Clone(tc.layers)
			if err := chain.Build(execute, tc.layers...)(t.Context(), call); !errors.Is(err, mine) {
				t.Error(err)
			}
			if !slices.Equal(passed, tc.want) {
				t.Errorf("%q, not %q", passed, tc.want)
			}
			for i := range given {
				if given[i].Order != tc.layers[i].Order {
					t.Error("the caller's layers were sorted")
				}
			}
		})
	}
}

// A layer may answer by itself, and what is further in never hears of it.
func TestLayerThatRefuses(t *testing.T) {
	refused := errors.New("refused")
	refuse := chain.Layer{Wrap: func(chain.Handler) chain.Handler {
		return func(context.Context, *providers.Call) error { return refused }
	}}
	run := chain.Build(func(context.Context, *providers.Call) error {
		t.Error("it was executed")
		return nil
	}, refuse)
	if err := run(t.Context(), &providers.Call{}); !errors.Is(err, refused) {
		t.Error(err)
	}
}
