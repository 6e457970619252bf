// Package chain is the waist of pgkeel: whatever a user asks passes it once, as
// a [providers.Call], on its way from the handle to the provider.
//
// A layer is a [Middleware]. It may refuse a call, wait, try again, answer by
// itself, or write on the call what it needs sent along; it never makes a
// round trip of its own. [Order] is the fixed order of the layers, outermost
// first. A layer that is not configured is not in the chain, and a handle
// without layers has no chain at all.
package chain

import (
	"cmp"
	"context"
	"slices"

	"github.com/pgkeel/pgkeel/providers"
)

// Handler executes a call and puts the result into it.
type Handler func(ctx context.Context, call *providers.Call) error

// Middleware wraps a handler.
type Middleware func(next Handler) Handler

// Order is a layer's place in the chain.
type Order uint8

// The places that are in use, outermost first. docs/architecture.md explains
// the order.
const (
	// Timeout writes what is left of the deadline on the call.
	Timeout Order = iota
)

// Layer is a middleware and its place.
type Layer struct {
	Order Order
	Wrap  Middleware
}

// Build puts the layers around the handler that executes. Layers of the same
// place keep the order in which they were given. Without layers it returns
// execute.
func Build(execute Handler, layers ...Layer) Handler {
	sorted := slices.SortedStableFunc(slices.Values(layers), func(a, b Layer) int { return cmp.Compare(a.Order, b.Order) })
	for _, l := range slices.Backward(sorted) {
		execute = l.Wrap(execute)
	}
	return execute
}
