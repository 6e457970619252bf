package providers_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

type openFunc func(ctx context.Context, cfg providers.Config) (providers.Pool, error)

func (f openFunc) Open(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
	return f(ctx, cfg)
}

type pointerProvider struct{ pool providers.Pool }

func (p *pointerProvider) Open(context.Context, providers.Config) (providers.Pool, error) {
	return p.pool, nil
}

// opens is a provider whose pool does nothing.
func opens() *pointerProvider { return &pointerProvider{struct{ providers.Pool }{}} }

type mapProvider map[string]providers.Pool

func (m mapProvider) Open(_ context.Context, cfg providers.Config) (providers.Pool, error) {
	return m[cfg.DSN], nil
}

var names atomic.Int64

// newName returns a name that no test has used, as the registry forgets none.
func newName() string { return fmt.Sprintf("test-%06d", names.Add(1)) }

func TestRegisterRefuses(t *testing.T) {
	taken := newName()
	if err := providers.Register(taken, &pointerProvider{}); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		name     string
		provider providers.Provider
		want     error
	}{
		"an empty name":                  {"", &pointerProvider{}, providers.ErrInvalidProvider},
		"a blank name":                   {" \t\n", &pointerProvider{}, providers.ErrInvalidProvider},
		"nil":                            {newName(), nil, providers.ErrInvalidProvider},
		"a nil pointer":                  {newName(), (*pointerProvider)(nil), providers.ErrInvalidProvider},
		"a nil func":                     {newName(), openFunc(nil), providers.ErrInvalidProvider},
		"a nil map":                      {newName(), mapProvider(nil), providers.ErrInvalidProvider},
		"a name that is taken":           {taken, &pointerProvider{}, providers.ErrDuplicateProvider},
		"nil under a name that is taken": {taken, nil, providers.ErrInvalidProvider},
	} {
		t.Run(name, func(t *testing.T) {
			before := providers.Names()
			if err := providers.Register(tc.name, tc.provider); !errors.Is(err, tc.want) {
				t.Errorf("Register: %v, want %v", err, tc.want)
			}
			if after := providers.Names(); !slices.Equal(before, after) {
				t.Errorf("the registry changed from %q to %q", before, after)
			}
		})
	}
}

func TestRegisterTakesAnyNameAndKind(t *testing.T) {
	for name, p := range map[string]providers.Provider{
		"pointer": &pointerProvider{},
		"struct":  struct{ *pointerProvider }{&pointerProvider{}},
		"func":    openFunc(func(context.Context, providers.Config) (providers.Pool, error) { return nil, nil }),
		"map":     mapProvider{},
	} {
		for _, suffix := range []string{"", "ü\x00\n", strings.Repeat("x", 1<<16)} {
			if err := providers.Register(newName()+suffix, p); err != nil {
				t.Errorf("%s: %.80v", name, err)
			}
		}
	}
}

func TestOpenCallsTheProviderOfThatName(t *testing.T) {
	type key struct{}
	failed := errors.New("failed")
	want := &namedPool{name: "opened"}
	name := newName()
	err := providers.Register(name, openFunc(func(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
		if ctx.Value(key{}) != "value" || cfg.DSN != "host=there" {
			t.Errorf("context or configuration did not arrive: %+v", cfg)
		}
		return want, failed
	}))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithValue(context.Background(), key{}, "value")
	got, err := providers.Open(ctx, name, providers.Config{DSN: "host=there"})
	if got != want || err != failed { //nolint:errorlint // it must come back as it is
		t.Errorf("Open = %v, %v", got, err)
	}
}

func TestOpenUnknown(t *testing.T) {
	known := newName()
	if err := providers.Register(known, &pointerProvider{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "nobody", strings.ToUpper(known), known + " ", known + "\x00"} {
		pool, err := providers.Open(context.Background(), name, providers.Config{DSN: "password=hunter2hunter2"})
		if pool != nil || !errors.Is(err, providers.ErrUnknownProvider) {
			t.Errorf("Open(%q) = %v, %v", name, pool, err)
			continue
		}
		if text := err.Error(); !strings.Contains(text, fmt.Sprintf("%q", known)) || strings.Contains(text, "hunter2") {
			t.Errorf("the error should list what there is, without the DSN: %s", text)
		}
	}
}

func TestNamesIsSortedAndACopy(t *testing.T) {
	b, a := newName()+"b", newName()+"a"
	for _, name := range []string{b, a} {
		if err := providers.Register(name, &pointerProvider{}); err != nil {
			t.Fatal(err)
		}
	}
	got := providers.Names()
	if !slices.IsSorted(got) || !slices.Contains(got, a) || !slices.Contains(got, b) {
		t.Errorf("Names() = %q", got)
	}
	clear(got)
	if !slices.Contains(providers.Names(), a) {
		t.Error("writing to the list changed the registry")
	}
}

func TestRegisterConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	var won atomic.Int64
	name := newName()
	for range 32 {
		wg.Go(func() {
			switch err := providers.Register(name, opens()); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, providers.ErrDuplicateProvider):
				t.Error(err)
			}
			if _, err := providers.Open(context.Background(), name, providers.Config{}); err != nil {
				t.Error(err)
			}
			_ = providers.Names()
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d registrations of one name succeeded", won.Load())
	}
}

// A provider may register or open others while it opens.
func TestOpenHoldsNoLock(t *testing.T) {
	outer, inner := newName(), newName()
	err := providers.Register(outer, openFunc(func(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
		if err := providers.Register(inner, opens()); err != nil {
			return nil, err
		}
		return providers.Open(ctx, inner, cfg)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := providers.Open(context.Background(), outer, providers.Config{}); err != nil {
		t.Error(err)
	}
}
