package providers

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Outcome says what happened to the user's work.
type Outcome uint8

// The outcomes of a statement or a transaction.
const (
	// OutcomeUnknown means that the connection was lost at a moment when the
	// server may or may not have done the work. Never repeat it blindly.
	OutcomeUnknown Outcome = iota
	// OutcomeNotSent means that nothing reached the server.
	OutcomeNotSent
	// OutcomeRolledBack means that the server undid the work, or never will
	// commit it.
	OutcomeRolledBack
	// OutcomeCommitted means that the work is durable.
	OutcomeCommitted
)

// String returns the outcome in words.
func (o Outcome) String() string {
	switch o {
	case OutcomeNotSent:
		return "not sent"
	case OutcomeRolledBack:
		return "rolled back"
	case OutcomeCommitted:
		return "committed"
	default:
		return "unknown"
	}
}

// OutcomeOf reads the outcome of the work from the error it ended with. A nil
// error is OutcomeCommitted: a statement outside a transaction commits itself.
// Where nothing in the chain tells, it is OutcomeUnknown, never a guess.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return OutcomeCommitted
	}
	var told interface{ Outcome() Outcome }
	if errors.As(err, &told) {
		return told.Outcome()
	}
	if pg := serverError(err); pg != nil {
		// These two say themselves that nobody knows.
		if pg.Code == codeTransactionUnknown || pg.Code == codeCompletionUnknown {
			return OutcomeUnknown
		}
		// A FATAL error ends the session in the middle of whatever it did, and
		// may arrive in the place of COMMIT's answer.
		if severity(pg) != "ERROR" {
			return OutcomeUnknown
		}
		// So may what a balancer says in the place of a server that it has lost.
		if strings.HasPrefix(pg.Code, "08") && !raised(severity(pg), pg.Routine) {
			return OutcomeUnknown
		}
		return OutcomeRolledBack
	}
	if refused(err) || pgconn.SafeToRetry(err) {
		return OutcomeNotSent
	}
	return OutcomeUnknown
}

// refused reports whether pgkeel itself ended the operation before it began.
func refused(err error) bool {
	for _, state := range []error{
		ErrPoolClosed, ErrPoolExhausted, ErrUnreachable, ErrNestedAcquire, ErrConcurrentUse, ErrReleased,
		ErrOtherScope, ErrEndsScope, ErrBehind,
	} {
		if errors.Is(err, state) {
			return true
		}
	}
	return false
}
