package stdsql

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// expiryGrace is how long a statement that is under way when the transaction's
// time is over may take to end, before the connection is closed under it.
const expiryGrace = time.Second

// expiredError says that a transaction's limit rolled it back.
func expiredError(op string) error {
	return &providers.TxError{Result: providers.OutcomeRolledBack, Operation: op, Attempts: 1, Err: &providers.TimeoutError{
		Operation: op, Limit: limitTx, Err: refused(pgx.ErrTxClosed), Context: context.DeadlineExceeded,
	}}
}

// limit has the transaction rolled back after a time, whatever its user does.
func (t *Tx) limit(timeout time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.deadline = time.Now().Add(timeout)
	t.use.after = t.rollbackExpired
	t.timer = time.AfterFunc(timeout, t.expire)
}

// expire runs when the transaction's time is over, and once more after a grace.
func (t *Tx) expire() {
	again := t.expired.Swap(true)
	t.rollbackExpired()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.ended:
	case again:
		t.lease.evict() // its user does not let go: open rows, for one
	default:
		t.timer.Reset(expiryGrace)
	}
}

// rollbackExpired rolls back a transaction whose time is over, unless a statement
// is under way: that one ends by its own deadline and comes back here.
func (t *Tx) rollbackExpired() {
	if !t.expired.Load() || !t.use.busy.CompareAndSwap(false, true) {
		return
	}
	defer t.use.busy.Store(false)
	if t.closed {
		return
	}
	t.undone = true
	if t.lease.isOver() {
		t.finish() // the server rolled back when the connection was closed
		return
	}
	_ = t.rollbackRoot(context.Background())
}
