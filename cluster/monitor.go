package cluster

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

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
	// onServerGone hears that s is no host or no standby any more, or that another
	// server answers in its place: its read pool is to be drained and closed.
	onServerGone func(s *server)
	// onServerSilent hears that s, a standby, does not answer: who waits for it waits
	// in vain. It may be told more than once.
	onServerSilent func(s *server)

	cfg   providers.Config
	opts  Options
	open  Opener
	log   *slog.Logger
	own   []Host // those of the handle's DSN
	hosts asker

	published  atomic.Pointer[view]
	life       context.Context //nolint:containedctx // the monitor's own life
	end        context.CancelFunc
	background sync.WaitGroup
	// rediscover has the hosts asked for at once.
	rediscover chan struct{}

	mu     sync.Mutex
	peers  []*peer // those of the DSN first
	closed bool
	// changed is closed when a look has ended.
	changed chan struct{}
	// events are the calls that are due once the mutex is free, and then lines what is
	// to be in the log. telling is how many are making such calls; told is closed when
	// nobody is any more, nil while no view waits for that.
	events, lines []func()
	telling       int
	told          chan struct{}
	writing
	history history
	// discovery is how the last question for hosts failed.
	discovery error
}

// newMonitor checks the hosts of the DSN. It connects to nothing.
func newMonitor(cfg providers.Config, opts Options, open Opener) (*monitor, error) {
	m := &monitor{
		onWriterLost: func(*server) {}, onWriterSilent: func(*server) {}, onServerGone: func(*server) {},
		onServerSilent: func(*server) {},
		cfg:            cfg, opts: opts.withDefaults(), open: open, log: cmp.Or(cfg.Logger, slog.Default()),
		hosts:      asker{discovery: opts.Discovery},
		rediscover: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	own, err := addresses(cfg.DSN)
	if err != nil {
		return nil, &providers.ConfigError{Field: "DSN", Problem: err.Error()}
	}
	for _, address := range own {
		m.own = append(m.own, Host{Address: address})
	}
	m.life, m.end = context.WithCancel(context.Background())
	m.published.Store(&view{newer: make(chan struct{})})
	return m, nil
}

// start looks at all hosts, and goes on looking until close. It returns when there
// is a primary, or with an error after the connect timeout, or when ctx ends.
func (m *monitor) start(ctx context.Context) error {
	begun, timeout := time.Now(), m.connectTimeout()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer time.AfterFunc(timeout/2, m.hurry).Stop()
	err := m.findWriter(ctx)
	if err == nil {
		return nil
	}
	m.close()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return &NoPrimaryError{Waited: time.Since(begun), Servers: m.known(), Err: err}
	}
	return err
}

// findWriter has a first look at the hosts of the DSN, and then at those that are
// discovered, so that the DSN says which cluster it is.
func (m *monitor) findWriter(ctx context.Context) error {
	if err := m.setHosts(nil); err != nil {
		return err
	}
	if err := m.awaitLooks(ctx); err != nil {
		return err
	}
	if m.opts.Discovery != nil {
		if err := m.discover(ctx, true); err != nil {
			return err
		}
		if err := m.awaitLooks(ctx); err != nil {
			return err
		}
		m.background.Go(m.discoverForEver)
	}
	if _, err := m.awaitWriter(ctx); err != nil {
		return err
	}
	return m.strangers()
}

// awaitLooks waits until each host was looked at, or there is no time for that.
func (m *monitor) awaitLooks(ctx context.Context) error {
	for {
		m.mu.Lock()
		changed := m.changed
		pending := !m.impatient && slices.ContainsFunc(m.peers, func(w *peer) bool { return !w.looked })
		m.mu.Unlock()
		if !pending {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hurry ends the wait for hosts that let one wait.
func (m *monitor) hurry() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.impatient = true
	m.tellLooked()
	m.search()
}

// tellLooked wakes who waits for looks.
func (m *monitor) tellLooked() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// connectTimeout is what it may take to find a primary.
func (m *monitor) connectTimeout() time.Duration {
	if m.cfg.ConnectTimeout > 0 {
		return m.cfg.ConnectTimeout
	}
	if parsed, err := pgconn.ParseConfig(m.cfg.DSN); err == nil && parsed.ConnectTimeout > 0 {
		return parsed.ConnectTimeout
	}
	if m.cfg.Profile == providers.ProfileServerless {
		return 30 * time.Second // it may have to start
	}
	return providers.DefaultConnectTimeout
}

// view is what is known now. It is never nil.
func (m *monitor) view() *view { return m.published.Load() }

// awaitWriter waits for a primary that is not in doubt, and until what ends with the
// last one has ended: who connects to the new one is not to be evicted as well.
func (m *monitor) awaitWriter(ctx context.Context) (*server, error) {
	v, err := m.await(ctx, func(v *view) bool { return v.writer != nil && !v.doubted })
	if err != nil {
		return nil, err
	}
	select {
	case <-v.told:
		return v.writer, nil
	default:
	}
	timer := time.NewTimer(evictionPatience)
	defer timer.Stop()
	select {
	case <-v.told:
	case <-timer.C: // hooks of the user's run in an eviction, and may wait for who waits here
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-m.life.Done():
		return nil, providers.ErrPoolClosed
	}
	return v.writer, nil
}

// evictionPatience is how long an eviction is waited for.
const evictionPatience = 2 * time.Second

// awaitNewer waits for a view other than v whose primary is not in doubt. A doubt
// that ends well makes one as well.
func (m *monitor) awaitNewer(ctx context.Context, v *view) error {
	_, err := m.await(ctx, func(now *view) bool { return now != v && now.writer != nil && !now.doubted })
	return err
}

func (m *monitor) await(ctx context.Context, good func(v *view) bool) (*view, error) {
	for {
		v := m.view()
		if good(v) {
			return v, nil
		}
		select {
		case <-v.newer:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-m.life.Done():
			return nil, providers.ErrPoolClosed
		}
	}
}

// publish makes a view of what is known, if it differs from the last one, or if who
// waits for news has to be told anyway.
func (m *monitor) publish(anyway bool) {
	next := &view{system: m.systemID, doubted: m.doubted, timeline: m.timeline, start: m.beginning, newer: make(chan struct{})}
	if m.writer != nil {
		next.writer = m.writer.server
	}
	for _, w := range m.peers {
		if w.fit {
			next.replicas = append(next.replicas, w.server)
		}
	}
	last := m.view()
	same := last.system == next.system && last.writer == next.writer && last.doubted == next.doubted && last.timeline == next.timeline &&
		last.start == next.start && slices.Equal(last.replicas, next.replicas)
	if same && !anyway {
		return
	}
	if m.told == nil {
		m.told = make(chan struct{})
	}
	next.told = m.told
	m.published.Store(next)
	close(last.newer)
}

// unlock frees the mutex, and then calls what is due.
func (m *monitor) unlock() {
	events, lines := m.events, m.lines
	m.events, m.lines = nil, nil
	m.telling++
	m.mu.Unlock()
	for _, call := range events {
		call()
	}
	m.mu.Lock()
	m.telling--
	if m.telling == 0 && m.told != nil {
		close(m.told)
		m.told = nil
	}
	m.mu.Unlock()
	for _, line := range lines {
		line()
	}
}

// say writes to the log once the mutex is free: the user's handler may be slow, or
// use the handle.
func (m *monitor) say(level slog.Level, text string, args ...any) {
	m.lines = append(m.lines, func() { m.log.Log(context.Background(), level, "pgkeel: cluster: "+text, args...) })
}

// close ends all looks, and waits for them. It may be called twice, and without
// start.
func (m *monitor) close() {
	m.mu.Lock()
	m.closed = true
	m.end()
	m.mu.Unlock()
	m.background.Wait()
}
