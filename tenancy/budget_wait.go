package tenancy

import (
	"context"
	"errors"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// Enter waits for a connection of the tenant's database. That the tenant moved
// in the meantime is errMoved.
func (m *member) Enter(ctx context.Context) error {
	b, db := m.budget, m.db
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return providers.ErrPoolClosed
	}
	if db.isServing() && len(db.waiting) == 0 {
		b.grant(m, b.now())
		b.mu.Unlock()
		return nil
	}
	w, err := b.queue(m, providers.Held(ctx, db.router))
	if err != nil {
		b.mu.Unlock()
		return err
	}
	b.dispatch()
	b.mu.Unlock()
	select {
	case err := <-w.ready:
		return err // served at once, which is no wait
	default:
	}
	err = b.wait(ctx, m, w)
	if err == nil && !db.router.isAt(m) {
		m.Leave()
		return errMoved
	}
	return err
}

// queue joins the queue, unless that would complete a deadlock: every connection
// held by callers that wait for another one.
func (b *budget) queue(m *member, held int) (*waiter, error) {
	db := m.db
	if held > 0 && (b.nested+held >= b.limit || db.used == b.cap && db.nested+held >= b.cap) {
		return nil, providers.ErrNestedAcquire
	}
	w := &waiter{since: b.now(), held: held, ready: make(chan error, 1)}
	w.place = m.waiters.PushBack(w)
	if m.waiters.Len() == 1 {
		m.at = len(db.waiting)
		db.waiting = append(db.waiting, m)
		b.queues[db] = struct{}{}
	}
	b.waiters++
	b.nested += held
	db.nested += held
	return w, nil
}

// wait waits to be served.
func (b *budget) wait(ctx context.Context, m *member, w *waiter) error {
	var err error
	select {
	case err = <-w.ready:
	case <-ctx.Done():
		err = b.giveUp(ctx, m, w)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.record(b.now()-w.since, err)
	return err
}

// giveUp takes a waiter out of the queue, unless it was served in that moment.
func (b *budget) giveUp(ctx context.Context, m *member, w *waiter) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case err := <-w.ready:
		return err
	default:
	}
	defer b.remove(m, w)
	return b.waitEnded(ctx, m.db, w)
}

// waitEnded says why a wait was in vain.
func (b *budget) waitEnded(ctx context.Context, db *database, w *waiter) error {
	err := ctx.Err()
	if errors.Is(err, context.Canceled) {
		return &providers.TimeoutError{Operation: "acquire", Limit: "context cancelled", Err: &notSentError{err}, Context: err}
	}
	waited := b.now() - w.since
	if db.probing {
		return &providers.UnreachableError{Waited: waited, Err: err}
	}
	limit, size := "context", b.limit
	var named interface{ Limit() string }
	if cause := context.Cause(ctx); errors.As(cause, &named) {
		limit = named.Limit()
	} else if !errors.Is(cause, err) {
		limit = cause.Error()
	}
	if db.used >= b.cap {
		size = b.cap
	}
	return &providers.ExhaustedError{
		Waited: waited, Limit: limit, MaxSize: int32(size), Waiters: int64(b.waiters), Err: err, //nolint:gosec // checked at Open
	}
}

// record counts a wait.
func (b *budget) record(took time.Duration, err error) {
	outcome := providers.WaitCanceled
	switch {
	case err == nil:
		outcome = providers.WaitAcquired
	case errors.Is(err, providers.ErrPoolExhausted):
		outcome = providers.WaitExhausted
	case errors.Is(err, providers.ErrUnreachable):
		outcome = providers.WaitUnreachable
	}
	bucket := 0
	for bucket < len(providers.WaitBuckets) && took > providers.WaitBuckets[bucket] {
		bucket++
	}
	b.waits.Counts[outcome][bucket]++
	b.waits.Total[outcome] += took
}

// oldestWait is for how long the first of those who wait does.
func (b *budget) oldestWait() (oldest time.Duration) {
	now := b.now()
	for db := range b.queues {
		for _, m := range db.waiting {
			oldest = max(oldest, now-m.front())
		}
	}
	return oldest
}
