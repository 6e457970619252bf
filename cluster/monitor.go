package cluster

import (
	"context"
	"sync/atomic"

	"github.com/pgkeel/pgkeel/providers"
)

// monitor knows who is what: it looks at each server, and publishes what it knows
// as a view. The functions are set before start, are called without a lock held,
// after the view that they belong to was published, and have to return soon.
type monitor struct {
	// onWriterLost hears once per epoch that what runs on old cannot end well any
	// more: another server is the primary, or old was demoted. Its connections are
	// to be ended (Evict).
	onWriterLost func(old *server)
	// onWriterSilent hears that old does not answer any more, while no other primary
	// is known. What runs there may yet end well, but its idle connections are of no
	// use (Reset).
	onWriterSilent func(old *server)
	// onServerGone hears that s is no host, or no standby any more: its read pool is
	// to be drained and closed.
	onServerGone func(s *server)

	published atomic.Pointer[view]
}

// newMonitor checks the hosts of the DSN. It connects to nothing.
func newMonitor(cfg providers.Config, opts Options, open Opener) (*monitor, error) {
	return &monitor{}, nil
}

// start looks at all hosts, and goes on looking until close. It returns when there
// is a primary, or with an error after the connect timeout, or when ctx ends.
func (m *monitor) start(ctx context.Context) error { return nil }

// view is what is known now. It is never nil.
func (m *monitor) view() *view { return m.published.Load() }

// awaitWriter waits for a primary that is not in doubt.
func (m *monitor) awaitWriter(ctx context.Context) (*server, error) { return nil, nil }

// awaitNewer waits for a view other than v whose primary is not in doubt. A doubt
// that ends well makes one as well.
func (m *monitor) awaitNewer(ctx context.Context, v *view) error { return nil }

// trouble puts a server in doubt, because of an error that its user had. It is
// looked at at once; a standby is out until it has answered well twice. A nil
// server is a primary that nobody knows. It is quick, and may be called from
// everywhere.
func (m *monitor) trouble(s *server, err error) {}

// close ends all looks. It may be called twice, and without start.
func (m *monitor) close() {}
