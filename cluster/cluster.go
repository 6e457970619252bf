package cluster

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/pgkeel/pgkeel/providers"
)

// Cluster is a pool of connections to several servers of one database: see the
// package's documentation for what goes where.
type Cluster struct {
	cfg           providers.Config // of the pools for reading, but for what is the server's own
	opts          Options
	open          Opener
	readDSN       string
	monitor       watcher
	preferPrimary bool

	// writer is the pool of the primary, whichever server that is.
	writer providers.Pool
	// known are the replicas of the newest view that was asked for.
	known atomic.Pointer[candidates]

	// life ends when Close begins, forced when its context ends.
	life       context.Context //nolint:containedctx // the cluster's own life
	endLife    context.CancelFunc
	forced     context.Context //nolint:containedctx // the same
	force      context.CancelFunc
	background sync.WaitGroup
	closeOnce  sync.Once
	closeErr   error
	closed     atomic.Bool

	mu      sync.Mutex
	pools   map[*server]*readPool
	closing map[*readPool]struct{}
	gone    providers.PoolStats // of pools that are closed
}

var (
	_ providers.Pool        = (*Cluster)(nil)
	_ providers.Batcher     = (*Cluster)(nil)
	_ providers.BatchRunner = (*Cluster)(nil)
	_ providers.Copier      = (*Cluster)(nil)
	_ providers.RawCopier   = (*Cluster)(nil)
	_ providers.Listener    = (*Cluster)(nil)
	_ providers.Unwrapper   = (*Cluster)(nil)
	_ providers.Starter     = (*Cluster)(nil)
)

// watcher is what is needed of the monitor.
type watcher interface {
	view() *view
	awaitWriter(ctx context.Context) (*server, error)
	awaitNewer(ctx context.Context, v *view) error
	trouble(s *server, err error)
	seek()
	known() []string
	stats() Stats
	close()
}

// Open finds the primary and its replicas among the hosts of cfg.DSN and those that
// opts.Discovery finds, and opens a pool for the primary with open. Those for the
// replicas are opened by the first read. It fails if there is no primary within the
// connect timeout, and with a [*providers.ConfigError] for a host that belongs to
// another cluster than the primary.
//
// The provider that open leads to has to have [providers.Config] with Route,
// OnTrouble and ReadOnly, and pools that are a [providers.Evictor].
func Open(ctx context.Context, cfg providers.Config, opts Options, open Opener) (*Cluster, error) {
	preferPrimary := cfg.Pool.PreferPrimary
	cfg.Pool.PreferPrimary = false
	var routed error
	if cfg.Route != nil {
		routed = &providers.ConfigError{Field: "Route", Problem: "the cluster says itself where the primary is; leave it out"}
	}
	if err := errors.Join(routed, opts.Validate(), cfg.Validate()); err != nil {
		return nil, err
	}
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	opts = opts.withDefaults()
	m, err := newMonitor(cfg, opts, open)
	if err != nil {
		return nil, err
	}
	c := newCluster(cfg, opts, open, m)
	c.preferPrimary = preferPrimary
	if c.readDSN, err = dsnAt(cfg.DSN, m.own[0].Address); err != nil {
		return nil, &providers.ConfigError{Field: "DSN", Problem: err.Error()}
	}
	m.onWriterLost = func(*server) { c.evict() }
	m.onWriterSilent = func(*server) { c.forget() }
	m.onServerGone = func(s *server) { c.drop(s, drainTimeout) }
	m.onServerSilent = func(s *server) { c.drop(s, 0) } // its reads go elsewhere
	if err := m.start(ctx); err != nil {
		m.close()
		return nil, err
	}
	if err := c.openWriter(ctx); err != nil {
		m.close()
		return nil, err
	}
	return c, nil
}

func newCluster(cfg providers.Config, opts Options, open Opener, m watcher) *Cluster {
	c := &Cluster{
		cfg: cfg, opts: opts, open: open, monitor: m,
		pools: map[*server]*readPool{}, closing: map[*readPool]struct{}{},
	}
	c.life, c.endLife = context.WithCancel(context.Background())
	c.forced, c.force = context.WithCancel(context.Background())
	return c
}

// openWriter opens the primary's pool.
func (c *Cluster) openWriter(ctx context.Context) error {
	cfg := c.cfg
	cfg.Route, cfg.OnTrouble = c.route, c.writerTrouble
	before := c.monitor.view().writer
	pool, err := c.open(ctx, cfg)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.writer = pool
	c.mu.Unlock()
	if c.monitor.view().writer != before {
		c.evict() // nobody could be told before
	}
	return nil
}
