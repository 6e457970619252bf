package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// discoveryGrace is how long a discovery may take to return when its context has ended.
const discoveryGrace = 100 * time.Millisecond

// What can be wrong with a discovery that is the user's.
var (
	errAsking = errors.New("pgkeel: cluster: the discovery has not returned from its last call, though the context of that has ended")
	errEnded  = errors.New("pgkeel: cluster: the discovery ended its goroutine")
)

// asker asks a discovery, one call at a time. One that does not heed its context keeps
// nobody waiting, and is not asked again before it has returned; one that panics has
// failed, as nobody else could recover from that.
type asker struct {
	discovery Discovery
	// asked is where the answer comes to that is waited for; nil if none is.
	asked chan answer
}

type answer struct {
	hosts []Host
	err   error
}

func (a *asker) ask(ctx context.Context, primary providers.Querier) ([]Host, error) {
	if a.asked == nil {
		a.asked = make(chan answer, 1)
		go a.answer(ctx, primary, a.asked)
	}
	select {
	case got := <-a.asked:
		return a.take(got)
	case <-ctx.Done():
	}
	grace := time.NewTimer(discoveryGrace)
	defer grace.Stop()
	select {
	case got := <-a.asked: // it heeds its context, and tells what it waited for
		return a.take(got)
	case <-grace.C:
		return nil, errors.Join(errAsking, context.Cause(ctx))
	}
}

func (a *asker) take(got answer) ([]Host, error) {
	a.asked = nil
	return got.hosts, got.err
}

func (a *asker) answer(ctx context.Context, primary providers.Querier, to chan<- answer) {
	got := answer{err: errEnded}
	defer func() {
		if panicked := recover(); panicked != nil {
			got = answer{err: fmt.Errorf("pgkeel: cluster: the discovery panicked: %v", panicked)}
		}
		to <- got
	}()
	got.hosts, got.err = a.discovery.Discover(ctx, primary)
}
