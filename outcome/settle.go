package outcome

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	// Grace is how long [Marker.Settle] goes on when the caller's context or time is
	// over: for as long as it takes to ask a server that is there.
	Grace = 3 * time.Second

	// A try ends after tryTimeout: its server may be one that does not answer any
	// more, while another has taken over. It waits for lockTimeout for an original in
	// progress.
	tryTimeout  = 2 * time.Second
	lockTimeout = "500" // milliseconds

	// Between tries is a pause of half to the whole of a time that doubles, between
	// these.
	shortestPause = 10 * time.Millisecond
	longestPause  = 500 * time.Millisecond
)

// Verdict is what became of a transaction.
type Verdict uint8

// The verdicts.
const (
	// Undecided means that nobody could be asked in time.
	Undecided Verdict = iota
	// Committed means that the transaction was committed.
	Committed
	// Fenced means that it was not, and never can be.
	Fenced
)

// String returns the verdict's name.
func (v Verdict) String() string {
	switch v {
	case Committed:
		return "committed"
	case Fenced:
		return "fenced"
	default:
		return "undecided"
	}
}

// fenceSQL asks for the row, and puts a fence where there is none. It writes in
// either case, for its commit to wait for the standbys that the original's had to.
const fenceSQL = `insert into public.pgkeel_markers (key, fenced, checked_at) values ($1::uuid, true, current_timestamp) ` +
	`on conflict (key) do update set checked_at = excluded.checked_at returning fenced`

// terminateSQL ends the session that the marker's transaction is in.
const terminateSQL = `select pg_terminate_backend(pid) from pg_locks ` +
	`where locktype = 'advisory' and objsubid = 1 and classid::bigint << 32 | objid::bigint = $1::bigint ` +
	`and database = (select oid from pg_database where datname = current_database())`

// errLate means that the markers of that time may have been swept.
var errLate = fmt.Errorf("pgkeel: outcome: the transaction began more than %s ago, and markers are not kept for ever", Retention/2)

// errCut means that an answer came when nobody waited for it any more. The server
// then cuts its own wait for a synchronous standby short, and reports success.
var errCut = errors.New("pgkeel: outcome: the time was over before the verdict was certain")

// Settle finds out what became of the marker's transaction, whose connection must
// not be in use any more. It tries until there is a verdict, or the time is over:
// until the given moment, and Grace from now at least; Grace after the end of ctx
// at most. Undecided comes with the reason, and is the only verdict that does.
func (k *Marker) Settle(ctx context.Context, until time.Time) (Verdict, error) {
	ctx, cancel := outlast(ctx, until)
	defer cancel()
	var reason error
	for pause := shortestPause; ; pause = min(2*pause, longestPause) {
		verdict, err := k.try(ctx)
		if err == nil {
			return verdict, nil
		}
		if reason == nil || ctx.Err() == nil {
			reason = err
		}
		if isFinal(err) || !wait(ctx, pause) {
			return Undecided, fmt.Errorf("pgkeel: outcome: nobody could be asked what became of the commit: %w", reason)
		}
	}
}

// isFinal reports that trying again is of no use.
func isFinal(err error) bool {
	return errors.Is(err, errLate) || errors.Is(err, providers.ErrPoolClosed)
}

// outlast returns a context with the values of ctx that ends at the given moment,
// but goes on for Grace after now and ends Grace after the end of ctx.
func outlast(ctx context.Context, until time.Time) (context.Context, context.CancelFunc) {
	if soonest := time.Now().Add(Grace); until.Before(soonest) {
		until = soonest
	}
	lasting, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(Grace, cancel) })
	return lasting, func() {
		stop()
		cancel()
	}
}

// wait waits for half to the whole of a time. It is false if the context ended
// first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d - rand.N(d/2+1)) //nolint:gosec // to spread, not to hide
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// try asks once, and ends an original that is in the way.
func (k *Marker) try(ctx context.Context) (Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	verdict, err := k.ask(ctx)
	if hasCode(err, codeUndefinedTable) {
		// The server that has taken over never heard of the table, so not of the
		// transaction either.
		if err := k.of.create(ctx); err != nil {
			return Undecided, err
		}
		verdict, err = k.ask(ctx)
	}
	if hasCode(err, codeLockNotAvailable) {
		// Whoever may not do that waits for the server to find out.
		_ = k.of.inTx(ctx, func(tx providers.Tx) error {
			_, err := tx.Exec(ctx, terminateSQL, k.key.lock())
			return err
		})
	}
	return verdict, err
}

// ask asks the server that takes writes.
func (k *Marker) ask(ctx context.Context) (Verdict, error) {
	if time.Since(k.began) > Retention/2 {
		return Undecided, errLate
	}
	verdict := Committed
	err := k.of.inTx(ctx, func(tx providers.Tx) error {
		call := &providers.Call{
			Kind: providers.CallQuery, SQL: fenceSQL, Args: []any{k.key.String()}, InTx: true,
			Scope: []providers.Setting{{Name: "lock_timeout", Value: lockTimeout}},
		}
		if err := tx.Run(ctx, call); err != nil {
			return err
		}
		fenced := false
		err := providers.FirstRow(call.Rows).Scan(&fenced)
		if fenced {
			verdict = Fenced
		}
		return err
	})
	if err == nil && ctx.Err() != nil {
		err = errCut
	}
	if err != nil {
		return Undecided, err
	}
	return verdict, nil
}
