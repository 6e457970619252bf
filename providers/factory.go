package providers

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// The errors of the registry.
var (
	// ErrUnknownProvider means that no provider of that name is registered.
	ErrUnknownProvider = errors.New("pgkeel: unknown provider")
	// ErrDuplicateProvider means that the name is taken.
	ErrDuplicateProvider = errors.New("pgkeel: provider registered twice")
	// ErrInvalidProvider means that the provider is nil or its name is empty.
	ErrInvalidProvider = errors.New("pgkeel: invalid provider")
)

var registry = struct {
	sync.RWMutex
	byName map[string]Provider
}{byName: map[string]Provider{}}

// Register makes a provider known under a name, usually from the init function
// of the provider's package. It fails with [ErrInvalidProvider] for an empty
// name or a nil provider and with [ErrDuplicateProvider] for a name in use.
func Register(name string, p Provider) error {
	if strings.TrimSpace(name) == "" {
		return fmt.Errorf("%w: its name is empty", ErrInvalidProvider)
	}
	if isNil(p) {
		return fmt.Errorf("%w: %q is nil", ErrInvalidProvider, name)
	}
	registry.Lock()
	defer registry.Unlock()
	if _, taken := registry.byName[name]; taken {
		return fmt.Errorf("%w: %q", ErrDuplicateProvider, name)
	}
	registry.byName[name] = p
	return nil
}

// isNil also finds the nil pointer inside an interface, which would fail at its
// first use only, far from the mistake.
func isNil(p Provider) bool {
	switch v := reflect.ValueOf(p); v.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Func, reflect.Map, reflect.Chan, reflect.Slice:
		return v.IsNil()
	default:
		return false
	}
}

// Open opens a pool through the provider of that name. A name that nobody
// registered is [ErrUnknownProvider], and the error lists those there are.
func Open(ctx context.Context, name string, cfg Config) (Pool, error) {
	registry.RLock()
	p, ok := registry.byName[name]
	registry.RUnlock()
	if !ok {
		return nil, fmt.Errorf("%w %q: registered are %q (import the provider's package)", ErrUnknownProvider, name, Names())
	}
	return OpenWith(ctx, p, cfg)
}

// OpenWith opens a pool through a provider that needs no name. One that is nil, or
// returns neither a pool nor an error, is [ErrInvalidProvider].
func OpenWith(ctx context.Context, p Provider, cfg Config) (Pool, error) {
	if isNil(p) {
		return nil, fmt.Errorf("%w: %T is nil", ErrInvalidProvider, p)
	}
	pool, err := p.Open(ctx, cfg)
	if pool == nil && err == nil {
		return nil, fmt.Errorf("%w: it returned neither a pool nor an error", ErrInvalidProvider)
	}
	return pool, err
}

// Names lists the registered providers in alphabetical order.
func Names() []string {
	registry.RLock()
	defer registry.RUnlock()
	names := make([]string, 0, len(registry.byName))
	for name := range registry.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
