package cluster

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// trip is one operation on its way to a server, and to another one if it fails
// there.
type trip struct {
	cluster *Cluster
	ctx     context.Context //nolint:containedctx // that of the operation, which the trip is
	// reads says that a replica will do, harmless that doing it twice does no harm.
	reads, harmless bool
	// counted says that the replica counts it among its reads, timed that it is to
	// know how long it takes to answer.
	counted, timed bool
	intent         intent
	// view is what was known when it was sent last.
	view *view
	// at is the replica where it is, nil on the primary.
	at *server
	// asked is when the replica was, took what it needed to answer.
	asked, took time.Duration
	// detour is there once something failed.
	detour *detour
}

// detour is what a trip has behind it that did not succeed at once.
type detour struct {
	// begun is when there was no more to it than a wait for a connection.
	begun time.Time
	// failed are the replicas that could not do it, behind those that had not
	// replayed enough, the first time at since.
	failed, behind []*server
	since          time.Time
	// primary says that the primary was tried, refused which one did not write.
	primary bool
	refused *server
	// pause is the next one.
	pause time.Duration
	// last is why the last replica failed.
	last error
}

const (
	// shortestPause and longestPause are between attempts that go to the same
	// server.
	shortestPause = time.Millisecond
	longestPause  = 500 * time.Millisecond
	// longestReplayPause is between two questions whether a replica has replayed
	// enough by now.
	longestReplayPause = 16 * time.Millisecond
	// timedReads is of how many reads one is timed. Asking the clock is dear beside
	// what else a trip costs.
	timedReads = 8
)

// clock is where the times of reads count from.
var clock = time.Now()

// statement begins the trip of a statement. It reads if it is declared to: nobody
// looks at its text.
func (t *trip) statement(ctx context.Context, c *Cluster) {
	t.begin(ctx, c)
	if providers.IsReadOnly(ctx) {
		t.harmless = true
		t.read()
	}
}

func (t *trip) begin(ctx context.Context, c *Cluster) {
	t.cluster, t.ctx, t.view = c, ctx, c.monitor.view()
}

// read allows for a replica, unless the context does not.
func (t *trip) read() {
	t.intent = intentOf(t.ctx)
	if t.intent.place == anyPlace && t.cluster.preferPrimary {
		t.intent.place = primaryFirst
	}
	t.reads = t.intent.place != primaryOnly
}

// place finds the pool to send to next, and the context to send it with.
func (t *trip) place() (context.Context, providers.Pool, error) {
	t.at = nil
	if !t.reads {
		return t.ctx, t.cluster.writer, nil
	}
	session := SessionOf(t.ctx)
	need, primary, err := t.needs(session)
	if err != nil {
		return nil, nil, err
	}
	if primary {
		return providers.WithCausality(t.ctx, session.resolving()), t.cluster.writer, nil
	}
	if t.intent.place == primaryFirst && t.view.writer != nil && (t.detour == nil || !t.detour.primary) {
		return t.ctx, t.cluster.writer, nil
	}
	for {
		for s := t.pick(need); s != nil; s = t.pick(need) {
			if pool := t.cluster.poolOf(s); pool != nil {
				return t.enter(s, session, need), pool, nil
			}
			d := t.off()
			d.failed = append(d.failed, s)
		}
		if !t.replayed() {
			break
		}
	}
	if t.cluster.opts.Fallback == FallbackError {
		return nil, nil, t.noReplica()
	}
	return t.ctx, t.cluster.writer, nil
}

// enter goes to a replica.
func (t *trip) enter(s *server, session *Session, need providers.LSN) context.Context {
	t.at, t.counted = s, true
	s.begin()
	if t.timed = rand.Uint32()%timedReads == 0; t.timed { //nolint:gosec // a sample needs no secrecy
		t.asked = time.Since(clock)
	}
	if session == nil {
		return t.ctx
	}
	return providers.WithCausality(t.ctx, &providers.Causality{After: need, Note: noteRead(session, s, t.view)})
}

// noteRead tells the session, and what is known of the replica, how far it was.
func noteRead(session *Session, s *server, v *view) func(p providers.Position, ok bool) {
	system, timeline := v.system, v.timeline
	return func(p providers.Position, ok bool) {
		if !ok {
			return // a read leaves nothing behind
		}
		raise(s, p.Replayed)
		p.Timeline = cmp.Or(p.Timeline, timeline)
		session.saw(cmp.Or(p.System, system), p.Timeline, p)
	}
}

// raise notes how far a server is, which never lessens.
func raise(s *server, to providers.LSN) {
	for {
		known := s.position.Load()
		if known >= uint64(to) || s.position.CompareAndSwap(known, uint64(to)) {
			return
		}
	}
}

// answered notes that the server has begun to answer.
func (t *trip) answered() {
	if t.timed {
		t.took = max(1, time.Since(clock)-t.asked)
	}
}

// leave ends the stay at a replica.
func (t *trip) leave() {
	if t.counted {
		t.at.end(t.took)
		t.counted, t.timed, t.took = false, false, 0
	}
}

func (t *trip) off() *detour {
	if t.detour == nil {
		t.detour = &detour{begun: time.Now()}
	}
	return t.detour
}

// needs is what a replica must have replayed for the session, and whether only the
// primary will do. It waits for a primary as new as the one that the session knows.
func (t *trip) needs(session *Session) (lsn providers.LSN, primary bool, err error) {
	if session == nil {
		return 0, false, nil
	}
	timeline, lsn, unknown := session.needs(t.view.system)
	for timeline > t.view.timeline {
		t.cluster.monitor.seek()
		if err := t.pass(errOldPrimary); err != nil {
			return 0, false, err
		}
	}
	if timeline != 0 && timeline < t.view.timeline {
		// All that survived lies before the start. Part of what was read can have
		// come from a replica that followed the new primary already, so what the
		// session says counts as well.
		lsn = max(lsn, t.view.start)
	}
	return lsn, unknown, nil
}

// errOldPrimary means that the session comes from a newer primary than is known.
var errOldPrimary = refusef("the session has seen a newer primary than any that is known here")

// pick chooses a replica among those that are fit and were not tried yet.
func (t *trip) pick(need providers.LSN) *server {
	if t.detour == nil && need == 0 && t.intent.maxLag == 0 {
		return t.cluster.choose(t.view.replicas, t.view)
	}
	var fit, caughtUp []*server
	for _, s := range t.view.replicas {
		if !t.takes(s) {
			continue
		}
		fit = append(fit, s)
		if s.position.Load() >= uint64(need) {
			caughtUp = append(caughtUp, s)
		}
	}
	if len(caughtUp) > 0 {
		return t.cluster.choose(caughtUp, nil)
	}
	if len(fit) == 0 {
		return nil
	}
	// What is known of them is a little old: the best one may be there by now.
	return slices.MaxFunc(fit, func(a, b *server) int { return cmp.Compare(a.position.Load(), b.position.Load()) })
}

// takes reports whether the replica can be tried.
func (t *trip) takes(s *server) bool {
	if d := t.detour; d != nil && (slices.Contains(d.failed, s) || slices.Contains(d.behind, s)) {
		return false
	}
	return t.intent.maxLag == 0 || s.lagNow() <= t.intent.maxLag
}

// choose asks the strategy. If the servers are those of a view, so that they were
// asked for before, it names that.
func (c *Cluster) choose(servers []*server, of *view) *server {
	switch len(servers) {
	case 0:
		return nil
	case 1:
		return servers[0]
	}
	var replicas []*Replica
	if of != nil {
		replicas = c.candidates(of)
	} else {
		replicas = replicasOf(servers)
	}
	i := c.opts.Strategy.Choose(replicas)
	if i < 0 || i >= len(servers) {
		i = 0
	}
	return servers[i]
}

// candidates are the replicas of a view as strategies see them, made once for each.
type candidates struct {
	view     *view
	replicas []*Replica
}

func (c *Cluster) candidates(v *view) []*Replica {
	known := c.known.Load()
	if known == nil || known.view != v {
		known = &candidates{view: v, replicas: replicasOf(v.replicas)}
		c.known.Store(known)
	}
	return known.replicas
}

func replicasOf(servers []*server) []*Replica {
	replicas := make([]*Replica, len(servers))
	for i, s := range servers {
		replicas[i] = s.Replica
	}
	return replicas
}

// replayed waits a little for replicas that had not replayed enough. It reports
// whether to ask them again.
func (t *trip) replayed() bool {
	d := t.detour
	if d == nil || len(d.behind) == 0 {
		return false
	}
	left := t.cluster.opts.CausalWait - time.Since(d.since)
	if left <= 0 {
		return false
	}
	d.pause = min(max(2*d.pause, shortestPause), longestReplayPause)
	timer := time.NewTimer(min(d.pause, left))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.ctx.Done():
		return false
	}
	d.behind = nil
	t.view = t.cluster.monitor.view()
	return true
}

// noReplica is the error of a read that no replica could do.
func (t *trip) noReplica() error {
	if t.cluster.closed.Load() {
		return providers.ErrPoolClosed
	}
	e := &NoReplicaError{Servers: t.cluster.monitor.known()}
	if t.detour != nil {
		e.Err = t.detour.last
	}
	return e
}
