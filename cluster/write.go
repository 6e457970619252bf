package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// again reports whether the operation is to be tried again after its error: a read
// on another server, a write once there is a primary. What is worth it, and has to
// wait, waits here; if that takes too long the error says so.
func (t *trip) again(err *error) bool {
	t.leave()
	if t.detour == nil {
		var waited *providers.UnreachableError
		if d := t.off(); errors.As(*err, &waited) {
			d.begun = d.begun.Add(-waited.Waited)
		}
	}
	switch {
	case t.cluster.closed.Load():
		return false
	case t.ctx.Err() != nil:
		if t.at != nil && isElsewhere(*err) && !errors.Is(*err, t.ctx.Err()) {
			*err = t.late("read", *err)
		}
		return false
	}
	if t.at != nil {
		return t.elsewhere(t.at, *err)
	}
	if !t.repeatable(*err) {
		return false
	}
	d := t.off()
	if t.reads && t.intent.place == primaryFirst && !d.primary {
		d.primary = true // the replicas are next
		return true
	}
	if e := t.pass(*err); e != nil {
		*err = e
		return false
	}
	return true
}

// elsewhere notes that a replica failed.
func (t *trip) elsewhere(at *server, err error) bool {
	if !isElsewhere(err) {
		return false
	}
	d := t.off()
	d.last = err
	if !errors.Is(err, providers.ErrBehind) {
		d.failed = append(d.failed, at)
		return true
	}
	d.behind = append(d.behind, at)
	if d.since.IsZero() {
		d.since = time.Now()
	}
	return true
}

// repeatable reports whether what failed on the primary was not done, or does no
// harm if it is done twice, and failed for want of the primary.
func (t *trip) repeatable(err error) bool {
	if t.harmless {
		return isAway(err)
	}
	if isRefusedWrite(err) {
		// Once more, in case the server was a standby. A primary that refuses twice
		// means it.
		d, writer := t.off(), t.view.writer
		if d.refused != nil && d.refused == writer {
			return false
		}
		d.refused = writer
		return true
	}
	return isUnsent(err)
}

// pass waits until the servers are worth another try: there is a newer view of them,
// or the primary is in no doubt at all. Its error says that there was no time left.
func (t *trip) pass(err error) error {
	ctx, cancel := t.patience()
	defer cancel()
	writer, d := t.view.writer, t.off()
	if !t.news(ctx) {
		return t.gaveUp(err)
	}
	t.view = t.cluster.monitor.view()
	d.failed, d.behind, d.primary, d.since = nil, nil, false, time.Time{}
	if t.view.writer != writer {
		d.pause = 0
		return nil
	}
	// It is as it was, so what failed may fail again at once.
	d.pause = min(max(2*d.pause, shortestPause), longestPause)
	timer := time.NewTimer(d.pause/2 + rand.N(d.pause)) //nolint:gosec // jitter needs no secrecy
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return t.gaveUp(err)
	}
}

// news waits for a newer view with a primary. Not every loss puts the primary in
// doubt, such as that of a session that idled for too long: then there is none.
func (t *trip) news(ctx context.Context) bool {
	for ctx.Err() == nil && !t.cluster.closed.Load() {
		soon, cancel := context.WithTimeout(ctx, longestPause)
		err := t.cluster.monitor.awaitNewer(soon, t.view)
		cancel()
		if v := t.cluster.monitor.view(); err == nil || v.writer != nil && !v.doubted && ctx.Err() == nil {
			return true
		}
	}
	return false
}

// patience bounds the wait by the context's deadline, or by the acquire timeout if
// there is none.
func (t *trip) patience() (context.Context, context.CancelFunc) {
	timeout := t.cluster.cfg.AcquireTimeout
	if timeout == 0 {
		timeout = providers.DefaultAcquireTimeout
	}
	if _, limited := t.ctx.Deadline(); limited || timeout < 0 {
		return t.ctx, func() {}
	}
	return context.WithDeadline(t.ctx, t.off().begun.Add(timeout))
}

// gaveUp is the error of who has waited for as long as it could.
func (t *trip) gaveUp(err error) error {
	switch {
	case t.cluster.closed.Load():
		return providers.ErrPoolClosed
	case t.ctx.Err() != nil:
		return t.late("wait for the primary", err)
	case t.cluster.monitor.view().writer == nil:
		return &NoPrimaryError{Waited: time.Since(t.off().begun), Servers: t.cluster.monitor.known(), Err: err}
	default:
		return err
	}
}

// late is the error of what would have gone on, had the context not ended.
func (t *trip) late(operation string, err error) error {
	limit := "context deadline"
	if errors.Is(t.ctx.Err(), context.Canceled) {
		limit = "context cancelled"
	}
	return &providers.TimeoutError{Operation: operation, Limit: limit, Err: err, Context: t.ctx.Err()}
}

// route says where the writer's pool is to connect to.
func (c *Cluster) route(ctx context.Context) (string, error) {
	begun := time.Now()
	s, err := c.monitor.awaitWriter(ctx)
	if err != nil {
		return "", &NoPrimaryError{Waited: time.Since(begun), Servers: c.monitor.known(), Err: err}
	}
	return s.dsn, nil
}

// writerTrouble passes on what puts the primary in doubt.
func (c *Cluster) writerTrouble(err error) {
	if !errors.Is(err, ErrNoPrimary) { // known already
		c.monitor.trouble(c.monitor.view().writer, err)
	}
	if c.cfg.OnTrouble != nil {
		c.cfg.OnTrouble(err)
	}
}
