package pgx

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	// tick is how often the supervisor looks for leaks and lost connections.
	tick = time.Second
	// watchAfter is how long a borrowing lasts, from the tick that found it, before
	// the garbage collector is asked to watch it.
	watchAfter = tick / 2
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
// hands the values of this context to that one attempt only, which
// beforeConnect refuses.
func withoutStartup(ctx context.Context) context.Context {
	return context.WithValue(ctx, startupKey{}, true)
}

// initialSize is how many connections the pool starts with.
func (p *Pool) initialSize() int32 { return max(p.cfg.Pool.InitialSize, p.minConns) }

// warmUp opens the first connections, all of them held until the last is there,
// or one would be taken for the next.
func (p *Pool) warmUp(ctx context.Context) error {
	conns := make([]*pgxpool.Conn, p.initialSize())
	group, ctx := errgroup.WithContext(ctx)
	for i := range conns {
		group.Go(func() error {
			var err error
			conns[i], err = p.pool.Acquire(internal{Context: ctx})
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

// nudge wakes the goroutine that restores MinSize.
func (p *Pool) nudge() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// supervise looks after those who hold connections until the pool closes.
func (p *Pool) supervise() {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var collected time.Time
	for {
		select {
		case <-p.life.Done():
			return
		case now := <-ticker.C:
			p.pipelined.tick(now)
			p.watchBorrowers(now)
			p.collectForgotten(now, &collected)
		}
	}
}

// keepMinSize looks after those that nobody holds until the pool closes.
func (p *Pool) keepMinSize() {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var pause time.Duration
	var notBefore time.Time
	for {
		select {
		case <-p.life.Done():
			return
		case <-p.kick:
		case <-ticker.C:
			p.weedIdle()
		}
		if now := time.Now(); !now.Before(notBefore) {
			pause = p.restore(pause)
			notBefore = time.Now().Add(pause)
		}
	}
}

// missing is how many connections MinSize lacks, those being made left out.
func (p *Pool) missing() int {
	stat := p.pool.Stat()
	// pgxpool still counts those that are being closed, pgkeel those that
	// somebody hijacked.
	open := min(p.gauges.open.Load(), stat.TotalConns()-stat.ConstructingConns())
	return int(min(p.minConns-open, stat.MaxConns()-open) - stat.ConstructingConns())
}

// restore brings the pool back to MinSize after a reset or a loss. It returns
// how long to leave it alone, which grows, with jitter, while it fails.
func (p *Pool) restore(pause time.Duration) time.Duration {
	missing := p.missing()
	if missing <= 0 {
		return 0
	}
	ctx, cancel := context.WithTimeout(p.life, p.connectTimeout)
	defer cancel()
	err := p.add(ctx, missing)
	if err == nil || p.closing.Load() {
		return 0
	}
	if pause == 0 {
		p.logger().Warn("pgkeel: MinSize cannot be restored, retrying", "missing", missing, "error", err)
	}
	pause = min(max(2*pause, restorePauseMin), restorePauseMax)
	return pause/2 + rand.N(pause/2) //nolint:gosec // jitter needs no secrecy
}

// holdIdle is how long add may keep borrowers from idle connections.
const holdIdle = 20 * time.Millisecond

// add makes n connections more. pgxpool makes one only when none is idle, so
// the idle ones are taken for the moment until the new ones are under way, and
// are back long before these are made.
func (p *Pool) add(ctx context.Context, n int) error {
	idle := p.takeIdle()
	var group errgroup.Group
	underway := make(chan struct{}, n)
	for range n {
		group.Go(func() error {
			begun := sync.OnceFunc(func() { underway <- struct{}{} })
			defer begun()
			c, err := p.pool.Acquire(internal{Context: ctx, onDial: begun})
			if err == nil {
				c.Release()
			}
			return p.acquireError(ctx, err)
		})
	}
	enough := time.After(holdIdle)
	for range n {
		select {
		case <-underway:
			continue
		case <-enough:
		}
		break
	}
	for _, c := range idle {
		c.Release()
	}
	return group.Wait()
}

// takeIdle takes every idle connection out of the pool for a moment.
func (p *Pool) takeIdle() []*pgxpool.Conn {
	idle := p.pool.AcquireAllIdle(p.life)
	for _, c := range idle {
		sessionOf(c.Conn()).takenByPool()
	}
	return idle
}

// weedIdle closes idle connections that the server ended, so that MinSize is
// restored before somebody needs them. On an idle connection there is something
// to read only when the server ended it, or when something else came that one
// ping takes out of the way.
func (p *Pool) weedIdle() {
	suspects := map[*session]bool{}
	for _, s := range p.allSessions() {
		if !s.isHeld() && readable(s.conn.PgConn().Conn()) {
			suspects[s] = true
		}
	}
	if len(suspects) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(p.life, p.pingTimeout)
	defer cancel()
	for _, c := range p.takeIdle() {
		if s := sessionOf(c.Conn()); suspects[s] {
			s.pinging = true
			if c.Conn().Ping(ctx) != nil {
				p.doubtIdle(s)
				_ = c.Conn().Close(ended())
				s.uncount()
			}
			s.pinging = false
		}
		c.Release()
	}
	p.nudge()
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

// collectForgotten forces a garbage collection when somebody waits while
// borrowings last that may be forgotten ones. A process that only waits
// allocates nothing, so the collector would not run by itself for minutes.
func (p *Pool) collectForgotten(now time.Time, last *time.Time) {
	if !p.isAwaited(now) || now.Sub(*last) < collectEvery {
		return
	}
	if slices.ContainsFunc(p.allSessions(), (*session).isWatched) {
		*last = now
		runtime.GC()
	}
}

// isAwaited reports that callers have waited for a connection for a while, or that
// Close waits for all of them.
func (p *Pool) isAwaited(now time.Time) bool {
	n, since := p.waiting.oldest()
	return p.closing.Load() || n > 0 && now.Sub(since) >= collectAfter
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
	slices.SortFunc(hs, func(a, b providers.Holder) int { return cmp.Compare(b.Held, a.Held) })
	return hs[:min(len(hs), most)]
}
