package cluster

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// drainTimeout is how long reads may go on on a server that is not to be read from
// any more.
const drainTimeout = 30 * time.Second

// poolOf is the pool for reading from a server, or nil if it is not to be read
// from any more. It is opened when it is first asked for, which connects to nothing.
func (c *Cluster) poolOf(s *server) providers.Pool {
	if p := s.pool.Load(); p != nil {
		return p.Pool
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := s.pool.Load(); p != nil {
		return p.Pool
	}
	if c.closed.Load() || !slices.Contains(c.monitor.view().replicas, s) {
		return nil
	}
	pool, err := c.open(c.life, c.readConfig(s))
	if err != nil {
		c.cfg.Logger.Error("pgkeel: cluster: the pool of a replica cannot be opened",
			"server", s.Host().Address, "error", providers.Redact(err.Error(), s.dsn))
		return nil
	}
	p := &readPool{pool}
	s.pool.Store(p)
	c.pools[s] = p
	return pool
}

// readConfig is the configuration of a replica's pool.
func (c *Cluster) readConfig(s *server) providers.Config {
	cfg := c.cfg
	cfg.DSN, cfg.ReadOnly = c.readDSN, true // what is said there of sessions holds for all
	cfg.Route = func(context.Context) (string, error) { return s.dsn, nil }
	cfg.Pool.MinSize, cfg.Pool.InitialSize = 0, 0
	// A read has other servers to go to than one that does not answer.
	cfg.ConnectTimeout = min(cmp.Or(cfg.ConnectTimeout, c.opts.ProbeTimeout), c.opts.ProbeTimeout)
	cfg.OnTrouble = func(err error) {
		c.monitor.trouble(s, err)
		if c.cfg.OnTrouble != nil {
			c.cfg.OnTrouble(err)
		}
	}
	return cfg
}

// drop closes a replica's pool, once what runs there has ended or the time is over.
func (c *Cluster) drop(s *server, drain time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pools[s]
	if p == nil || c.closed.Load() {
		return
	}
	s.pool.Store(nil)
	delete(c.pools, s)
	c.closing[p] = struct{}{}
	c.background.Go(func() {
		ctx, cancel := context.WithTimeoutCause(c.forced, drain, errors.New("the server is not to be read from any more"))
		defer cancel()
		if err := p.Close(ctx); err != nil && drain > 0 {
			c.cfg.Logger.Warn("pgkeel: cluster: the pool of a former replica was closed by force",
				"server", s.Host().Address, "error", err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.closing, p)
		c.gone.Add(p.Stats())
	})
}

// evict ends the connections to a server that is the primary no more.
func (c *Cluster) evict() {
	c.mu.Lock()
	writer := c.writer
	c.mu.Unlock()
	if e, ok := writer.(providers.Evictor); ok {
		e.Evict()
	}
}

// forget replaces the idle connections to a primary that does not answer.
func (c *Cluster) forget() {
	c.mu.Lock()
	writer := c.writer
	c.mu.Unlock()
	if writer != nil {
		writer.Reset()
	}
}

// Reset replaces every connection of every pool.
func (c *Cluster) Reset() {
	c.writer.Reset()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pools {
		p.Reset()
	}
}

// Stats returns the sums over all pools, those that were closed included. The waits
// are those for a connection of any of them.
func (c *Cluster) Stats() providers.PoolStats {
	all := c.writer.Stats()
	c.mu.Lock()
	defer c.mu.Unlock()
	all.Add(c.gone)
	for _, p := range c.pools {
		all.Add(p.Stats())
	}
	for p := range c.closing {
		all.Add(p.Stats())
	}
	return all
}

// Close stops intake, waits for the work under way until ctx ends, and then ends it
// by force. The error joins those of the pools.
func (c *Cluster) Close(ctx context.Context) error {
	c.closeOnce.Do(func() {
		defer context.AfterFunc(ctx, c.force)()
		c.closeErr = c.close(ctx)
		c.force()
	})
	return c.closeErr
}

func (c *Cluster) close(ctx context.Context) error {
	c.mu.Lock()
	c.closed.Store(true)
	pools := []providers.Pool{c.writer}
	for _, p := range c.pools {
		pools = append(pools, p)
	}
	c.mu.Unlock()
	c.endLife()
	c.monitor.close()
	errs := make([]error, len(pools))
	var all sync.WaitGroup
	for i, p := range pools {
		all.Go(func() { errs[i] = p.Close(ctx) })
	}
	all.Wait()
	c.background.Wait()
	return errors.Join(errs...)
}
