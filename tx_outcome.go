package pgkeel

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/outcome"
	"github.com/pgkeel/pgkeel/providers"
)

// errCommitCut puts a commit in doubt that the server reported in the moment when
// its caller gave up: it then cuts its wait for a synchronous standby short, and
// reports success.
var errCommitCut = errors.New("pgkeel: the context ended while the commit was under way, so that it may not be replicated")

// attemptOnce is attempt with a marker, which tells what became of a commit whose
// answer was lost.
func (db *DB) attemptOnce(ctx context.Context, fn func(context.Context, Tx) error, opts TxOptions, budget time.Time) error {
	marker := db.markers.New()
	err := db.attempt(ctx, fn, opts, marker)
	doubt := inDoubt(err)
	if doubt == nil {
		if err == nil {
			db.markers.SweepIfDue(ctx)
		}
		return err
	}
	verdict, why := marker.Settle(ctx, budget)
	result := OutcomeUnknown
	switch verdict {
	case outcome.Committed:
		return nil
	case outcome.Fenced:
		result, why = OutcomeRolledBack, outcome.ErrFenced
	}
	return &TxError{Result: result, Operation: doubt.Operation, Attempts: 1, Err: errors.Join(doubt.Err, why)}
}

// inDoubt returns the error of a COMMIT that was sent when nobody knows what it
// did, else nil. What fn ended by itself is not in doubt: the marker would tell of
// a part only.
func inDoubt(err error) *TxError {
	var closure *closureError
	var tx *TxError
	switch {
	case errors.As(err, &closure), !errors.As(err, &tx), tx.Result != OutcomeUnknown, tx.Operation != "commit",
		errors.Is(err, providers.ErrTxEnded), errors.Is(err, pgx.ErrTxClosed):
		return nil
	default:
		return tx
	}
}

// isLost reports that the connection or its server went away before COMMIT was
// sent, so that nothing can be committed any more, and that another connection may
// do better: also when the server does not take writes any more.
func isLost(ctx context.Context, err error, opts TxOptions) bool {
	if errors.Is(err, outcome.ErrFenced) {
		return true
	}
	var closure *closureError
	switch {
	case errors.As(err, &closure):
		// The error can be of something else that fn did. If it is of this
		// connection, it could not be rolled back either.
		return isRefusedWrite(ctx, closure.cause, opts) || closure.rollback != nil && isConnectionError(closure.cause)
	case OutcomeOf(err) == OutcomeUnknown:
		return false
	default:
		return isRefusedWrite(ctx, err, opts) || isConnectionError(err)
	}
}

// diedIdle reports that a connection was found dead when a transaction was to begin,
// as those of the pool are after a restart: nothing of it was run.
func diedIdle(err error) bool {
	var tx *TxError
	return errors.As(err, &tx) && tx.Operation == "begin" && tx.Result != OutcomeUnknown &&
		!errors.Is(err, ErrUnreachable) && isConnectionError(err)
}

// isRefusedWrite reports that a session was refused a write that should be allowed
// to: the server has become a standby.
func isRefusedWrite(ctx context.Context, err error, opts TxOptions) bool {
	var pg *PGError
	return errors.As(err, &pg) && pg.IsReadOnly() && opts.Access != ReadOnly && !providers.IsReadOnly(ctx)
}

// isConnectionError reports that there is no connection, or none any more. One that
// a limit ended is what the limit is for.
func isConnectionError(err error) bool {
	var limit *TimeoutError
	var pg *PGError
	var socket *net.OpError
	switch {
	case errors.As(err, &limit):
		return false
	case errors.As(err, &pg):
		return pg.IsConnectionError()
	default:
		return errors.Is(err, ErrUnreachable) || errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, driver.ErrBadConn) ||
			errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &socket)
	}
}
