package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// shortestDiscovery is the least that is between two questions for hosts, however
// often the primary is in doubt.
const shortestDiscovery = time.Second

// discoverForEver asks for hosts until the monitor is closed.
func (m *monitor) discoverForEver() {
	for {
		if !m.pauseDiscovery() {
			return
		}
		_ = m.discover(m.life, false) // which notes it
	}
}

// pauseDiscovery waits until it is time to ask again.
func (m *monitor) pauseDiscovery() bool {
	least := min(shortestDiscovery, m.opts.DiscoverEvery)
	timer := time.NewTimer(least)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-m.life.Done():
		return false
	}
	timer.Reset(jittered(m.opts.DiscoverEvery) - least)
	select {
	case <-timer.C:
	case <-m.rediscover:
	case <-m.life.Done():
		return false
	}
	return true
}

// askForHosts has the hosts asked for soon.
func (m *monitor) askForHosts() {
	select {
	case m.rediscover <- struct{}{}:
	default: // they will be anyway
	}
}

// discover asks for hosts once. A question that fails changes nothing. A host that
// makes no sense is an error at first, and left out later.
func (m *monitor) discover(ctx context.Context, first bool) error {
	ctx, cancel := context.WithTimeout(ctx, m.opts.DiscoverEvery)
	defer cancel()
	hosts, err := m.hosts.ask(ctx, m.primaryQuerier())
	if m.life.Err() != nil {
		return providers.ErrPoolClosed
	}
	var fault error
	if err == nil || len(hosts) > 0 {
		fault = m.setHosts(hosts)
	}
	if first && fault != nil {
		return fault
	}
	m.noteDiscovery(errors.Join(err, fault))
	return nil
}

// noteDiscovery notes in the log that the hosts cannot be found, and that they can be
// again.
func (m *monitor) noteDiscovery(err error) {
	m.mu.Lock()
	defer m.unlock()
	switch {
	case err != nil && m.discovery == nil:
		m.say(slog.LevelWarn, "discovery failed; the hosts that are known stay",
			"error", providers.Redact(err.Error(), m.cfg.DSN))
	case err == nil && m.discovery != nil:
		m.say(slog.LevelInfo, "discovery works again")
	}
	m.discovery = err
}

// primaryQuerier runs statements on the primary, nil while none is known.
func (m *monitor) primaryQuerier() providers.Querier {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.writer == nil || m.writer.pool == nil {
		return nil
	}
	return m.writer.pool
}

// endpoint is a host with the address and the DSN that it comes to.
type endpoint struct {
	host         Host
	address, dsn string
}

// endpoints are the hosts of the DSN, and then those that were discovered. What is named
// twice is one host, of which a later mention adds what the first leaves open. The
// error joins the faults of those that make no sense.
func (m *monitor) endpoints(discovered []Host) (all []endpoint, err error) {
	var faults []error
	for _, h := range append(slices.Clip(m.own), discovered...) {
		dsn, err := h.dsnFrom(m.cfg.DSN)
		var named []string
		if err == nil {
			named, err = addresses(dsn)
		}
		if err != nil {
			faults = append(faults, &providers.ConfigError{Field: "Cluster.Discovery", Problem: fmt.Sprintf(
				"the host %q: %s", h.Address, providers.Redact(providers.Redact(err.Error(), h.DSN), m.cfg.DSN))})
			continue
		}
		h.Address = named[0]
		i := slices.IndexFunc(all, func(t endpoint) bool { return t.address == named[0] })
		if i < 0 {
			all = append(all, endpoint{h, named[0], dsn})
			continue
		}
		known := &all[i].host
		if known.Zone == "" {
			known.Zone = h.Zone
		}
		if known.Weight == 0 {
			known.Weight = h.Weight
		}
		known.PrimaryOnly = known.PrimaryOnly || h.PrimaryOnly
	}
	return all, errors.Join(faults...)
}

// setHosts begins to watch the hosts that are new, and ends it for those that are
// gone. The primary is kept while it is one: what is asked for replicas may not name
// it.
func (m *monitor) setHosts(discovered []Host) error {
	all, fault := m.endpoints(discovered)
	m.mu.Lock()
	defer m.unlock()
	if m.closed {
		return providers.ErrPoolClosed
	}
	old := m.peers
	m.peers = nil
	for _, t := range all {
		i := slices.IndexFunc(old, func(w *peer) bool { return w.address == t.address })
		if i < 0 {
			m.peers = append(m.peers, m.join(t))
			continue
		}
		m.update(old[i], t)
		m.peers = append(m.peers, old[i])
	}
	for _, w := range old {
		switch {
		case slices.Contains(m.peers, w):
		case w == m.writer:
			m.peers = append(m.peers, w)
		default:
			m.leave(w)
		}
	}
	m.publish(false)
	return fault
}

// join begins to watch a host.
func (m *monitor) join(t endpoint) *peer {
	w := &peer{address: t.address, server: newServer(t), kick: make(chan struct{}, 1)}
	w.life, w.end = context.WithCancel(m.life)
	m.background.Go(func() { m.watch(w) })
	m.say(slog.LevelInfo, "server is watched", "server", w.address)
	return w
}

// leave ends the watching of a host.
func (m *monitor) leave(w *peer) {
	w.end()
	w.fit = false
	m.say(slog.LevelInfo, "server is no host any more", "server", w.address)
	m.gone(w)
}

// update takes in what else is said of a host. Strategies may keep what they know by
// the replica, so a changed one is another one.
func (m *monitor) update(w *peer, t endpoint) {
	if w.server.Host() == t.host && w.server.dsn == t.dsn {
		return
	}
	m.gone(w)
	old := w.server
	w.server = newServer(t)
	w.server.position.Store(old.position.Load())
	w.server.current.Store(old.current.Load())
	w.server.lag.Store(old.lag.Load())
}

func newServer(t endpoint) *server { return &server{Replica: newReplica(t.host), dsn: t.dsn} }
