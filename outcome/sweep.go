package outcome

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	// Retention is how long a marker is kept, from the beginning of its
	// transaction. No verdict is given on one that is half as old.
	Retention = 24 * time.Hour

	// sweepEvery is the time between two sweeps of a handle in use, and up to half of
	// it more. One that finds nothing is one look into an index.
	sweepEvery = 10 * time.Minute
	// sweepBatch is how many rows one statement deletes.
	sweepBatch = 10_000
	// sweepTimeout bounds a sweep in the background.
	sweepTimeout = 10 * time.Second
)

// sweepSQL deletes old markers. The server's own clock decides what is old; that
// of the keys, which is the clients', only says where to look.
const sweepSQL = `delete from public.pgkeel_markers where key = any(array(
	select key from public.pgkeel_markers
	where key < (lpad(to_hex((extract(epoch from current_timestamp - make_interval(secs => $1::float8)) * 1000)::bigint), 12, '0')
		|| repeat('0', 20))::uuid
	and created_at < current_timestamp - make_interval(secs => $1::float8)
	order by key limit $2::bigint for update skip locked))`

// Sweep deletes the markers that are older than [Retention], at most 10,000 a
// statement, and returns how many. Handles do so by themselves while they are used
// with ExactlyOnce. Any number may do it at the same time.
func Sweep(ctx context.Context, q providers.Querier) (int64, error) {
	return sweep(func() (int64, error) { return sweepOnce(ctx, q, sweepBatch) }, sweepBatch)
}

// sweep deletes batches for as long as there are full ones.
func sweep(once func() (int64, error), batch int64) (all int64, err error) {
	for {
		n, err := once()
		if all += n; err != nil || n < batch {
			return all, err
		}
	}
}

func sweepOnce(ctx context.Context, q providers.Querier, batch int64) (int64, error) {
	tag, err := q.Exec(ctx, sweepSQL, Retention.Seconds(), batch)
	return tag.RowsAffected(), err
}

// SweepIfDue sweeps in the background if the last time was long ago, with what the
// context says of the tenant: each may have a database of its own. It is for who has
// just ended a transaction, so that nobody's waits for a connection because of it.
func (m *Markers) SweepIfDue(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.sweeping || m.stopped || now.Before(m.due) {
		return
	}
	m.sweeping = true
	m.due = now.Add(sweepEvery + rand.N(sweepEvery/2)) //nolint:gosec // to spread, not to hide
	m.background.Go(func() { m.sweep(providers.WithoutHeld(context.WithoutCancel(ctx))) })
}

func (m *Markers) sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	defer context.AfterFunc(m.life, cancel)()
	_, err := sweep(func() (n int64, err error) {
		err = m.inTx(ctx, func(tx providers.Tx) error {
			n, err = sweepOnce(ctx, tx, sweepBatch)
			return err
		})
		return n, err
	}, sweepBatch)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweeping = false
	if err != nil && !m.stopped {
		m.logger.Warn("pgkeel: old rows of public.pgkeel_markers could not be deleted; it is tried again", "error", err)
	}
}

// Stop ends the sweep under way, and begins none any more. It may be called twice.
func (m *Markers) Stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = true
	m.end()
}

// Wait returns when nothing runs any more. It comes after Stop, and after the end
// of the pool, which ends what still waits for a server.
func (m *Markers) Wait() { m.background.Wait() }
