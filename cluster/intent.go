package cluster

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// intent is what a context says about where its reads are to go.
type intent struct {
	place place
	// maxLag is how far behind a replica may be. 0: as far as Options.MaxLag says.
	maxLag time.Duration
}

// place is where reads are to go.
type place uint8

const (
	// anyPlace leaves it to the configuration.
	anyPlace place = iota
	replicaFirst
	primaryFirst
	primaryOnly
)

type intentKey struct{}

// anyIntent says that some context has one, so that nobody searches one for it
// before.
var anyIntent atomic.Bool

func withIntent(ctx context.Context, change func(*intent)) context.Context {
	changed := intentOf(ctx)
	change(&changed)
	if !anyIntent.Load() {
		anyIntent.Store(true)
	}
	return context.WithValue(ctx, intentKey{}, &changed)
}

func intentOf(ctx context.Context) intent {
	if !anyIntent.Load() {
		return intent{}
	}
	if i, _ := ctx.Value(intentKey{}).(*intent); i != nil {
		return *i
	}
	return intent{}
}

// PreferReplica returns a context whose statements and transactions only read, and
// go to a replica when one is fit for it. The server holds them to it: one that
// writes fails with SQLSTATE 25006.
func PreferReplica(ctx context.Context) context.Context {
	return withIntent(providers.WithReadOnly(ctx), func(i *intent) { i.place = replicaFirst })
}

// PreferPrimary returns a context whose reads go to the primary while one is known,
// and to a replica otherwise. It declares nothing to only read.
func PreferPrimary(ctx context.Context) context.Context {
	return withIntent(ctx, func(i *intent) { i.place = primaryFirst })
}

// OnPrimary returns a context of which everything goes to the primary and nowhere
// else, also what is declared to only read.
func OnPrimary(ctx context.Context) context.Context {
	return withIntent(ctx, func(i *intent) { i.place = primaryOnly })
}

// WithMaxLag returns a context whose reads only go to replicas that are at most so
// far behind the primary, as far as is known: see [Options.MaxLag], which it
// narrows. 0 narrows nothing.
func WithMaxLag(ctx context.Context, d time.Duration) context.Context {
	return withIntent(ctx, func(i *intent) { i.maxLag = max(d, 0) })
}
