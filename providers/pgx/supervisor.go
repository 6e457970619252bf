package pgx

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	// tick is how often the supervisor looks for leaks and lost connections.
	tick = time.Second
	// watchAfter is how long a borrowing lasts before the garbage collector is
	// asked to watch it.
	watchAfter = 2 * time.Second
	// collectAfter is how long somebody must have waited before a garbage
	// collection is forced, and collectEvery the least time between two.
	collectAfter = time.Second
	collectEvery = 10 * time.Second
	// The pause after a failed attempt to restore MinSize grows between these.
	restorePauseMin = 50 * time.Millisecond
	restorePauseMax = 5 * time.Second
)

type startupKey struct{}

var errStartup = errors.New("the warm-up makes the first connections")

// withoutStartup keeps pgxpool from opening MinConns in the background by
// itself, uncapped and with its errors dropped: the warm-up does that. pgxpool
// hands the values of this context to that one attempt only.
func withoutStartup(ctx context.Context) context.Context {
	return context.WithValue(ctx, startupKey{}, true)
}

func refuseStartup(ctx context.Context, _ *pgx.ConnConfig) error {
	if ctx.Value(startupKey{}) != nil {
		return errStartup
	}
	return nil
}

// warmUp opens the first connections.
func (p *Pool) warmUp(ctx context.Context) error {
	return p.grow(ctx, int(max(p.cfg.Pool.InitialSize, p.minConns)))
}

// grow sees to it that n connections are open, by holding n at the same time.
func (p *Pool) grow(ctx context.Context, n int) error {
	conns := make([]*pgxpool.Conn, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(cap(p.dials), n))
	for i := range n {
		group.Go(func() error {
			var err error
			conns[i], err = p.pool.Acquire(internal{ctx})
			return p.acquireError(ctx, err)
		})
	}
	err := group.Wait()
	for _, c := range conns {
		if c != nil {
			c.Release()
		}
	}
	return err
}

// nudge wakes the supervisor.
func (p *Pool) nudge() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// supervise looks after the pool until it closes.
func (p *Pool) supervise() {
	defer close(p.supervised)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var pause time.Duration
	var notBefore, collected time.Time
	for {
		select {
		case <-p.life.Done():
			return
		case <-p.kick:
		case <-ticker.C:
			p.watchBorrowers(time.Now())
			p.collectForgotten(time.Now(), &collected)
		}
		if now := time.Now(); !now.Before(notBefore) {
			pause = p.restore(pause)
			notBefore = now.Add(pause)
		}
	}
}

// restore brings the pool back to MinSize after a reset or a loss. It returns
// how long to leave it alone, which grows, with jitter, while it fails.
func (p *Pool) restore(pause time.Duration) time.Duration {
	missing := p.minConns - p.gauges.open.Load()
	if missing <= 0 {
		return 0
	}
	// Idle connections are held meanwhile, or one of them would be taken for
	// the new one.
	idle := max(p.gauges.open.Load()-p.gauges.inUse.Load(), 0)
	ctx, cancel := context.WithTimeout(p.life, p.pool.Config().ConnConfig.ConnectTimeout)
	defer cancel()
	err := p.grow(ctx, int(min(missing+idle, p.maxConns)))
	if err == nil || p.closing.Load() {
		return 0
	}
	if pause == 0 {
		p.logger().Warn("pgkeel: MinSize cannot be restored, retrying", "missing", missing, "error", err)
	}
	pause = min(max(2*pause, restorePauseMin), restorePauseMax)
	return pause/2 + rand.N(pause/2) //nolint:gosec // jitter needs no secrecy
}

// watchBorrowers reports those who hold a connection for too long, and has the
// garbage collector look for the ones that forgot it.
func (p *Pool) watchBorrowers(now time.Time) {
	for _, s := range p.allSessions() {
		h, held := s.heldBy(now)
		if !held {
			continue
		}
		if h.Held >= watchAfter {
			s.watchForgotten()
		}
		if p.cfg.LeakAfter > 0 && h.Held >= p.cfg.LeakAfter && s.reportOnce() {
			p.gauges.leaks.Add(1)
			p.logger().Warn("pgkeel: a connection is held for long", "operation", h.Operation, "held", h.Held,
				"pid", h.PID, "correlation_id", h.CorrelationID, "stack", h.Stack)
		}
	}
}

func (s *session) reportOnce() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.reported
	s.reported = true
	return first
}

func (s *session) isWatched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watched
}

// collectForgotten forces a garbage collection when callers wait while
// borrowings last that may be forgotten ones. A process that only waits
// allocates nothing, so the collector would not run by itself for minutes.
func (p *Pool) collectForgotten(now time.Time, last *time.Time) {
	n, since := p.waiting.oldest()
	if n == 0 || now.Sub(since) < collectAfter || now.Sub(*last) < collectEvery {
		return
	}
	if slices.ContainsFunc(p.allSessions(), (*session).isWatched) {
		*last = now
		runtime.GC()
	}
}

func (p *Pool) allSessions() []*session {
	p.sessionsMu.Lock()
	defer p.sessionsMu.Unlock()
	all := make([]*session, 0, len(p.sessions))
	for s := range p.sessions {
		all = append(all, s)
	}
	return all
}

// holders describes those who hold connections, the longest first.
func (p *Pool) holders(most int) []providers.Holder {
	var hs []providers.Holder
	now := time.Now()
	for _, s := range p.allSessions() {
		if h, held := s.heldBy(now); held {
			hs = append(hs, h)
		}
	}
	slices.SortFunc(hs, func(a, b providers.Holder) int { return int(b.Held - a.Held) })
	return hs[:min(len(hs), most)]
}
