package providers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The states that an operation can find. Typed errors below add the details.
var (
	// ErrPoolClosed means that Close was called before the operation began.
	ErrPoolClosed = errors.New("pgkeel: the pool is closed; nothing was sent")
	// ErrPoolExhausted means that every connection stayed in use for as long
	// as the caller would wait. See [*ExhaustedError].
	ErrPoolExhausted = errors.New("pgkeel: pool exhausted")
	// ErrUnreachable means that no connection could be made. See
	// [*UnreachableError].
	ErrUnreachable = errors.New("pgkeel: database unreachable")
	// ErrNestedAcquire means that a call chain which holds a connection asked
	// for another one when every connection was held by chains that do the
	// same: all of them would have waited for ever.
	ErrNestedAcquire = errors.New("pgkeel: nested acquire would deadlock the pool; " +
		"use the transaction or connection that the caller already holds, or make the pool larger")
	// ErrConcurrentUse means that a connection or transaction was used by two
	// goroutines at once, or while the rows of an earlier statement were
	// open. The later statement was not sent.
	ErrConcurrentUse = errors.New("pgkeel: the connection or transaction is in use; nothing was sent: " +
		"it belongs to one goroutine at a time, and the rows of one statement must be closed before the next")
	// ErrReleased means that a connection was used after its Release.
	ErrReleased = errors.New("pgkeel: the connection was released; nothing was sent")
	// ErrOtherScope means that the context of an operation belongs to another
	// scope (tenant) than the transaction or connection. See [ScopeFunc].
	ErrOtherScope = errors.New("pgkeel: the context belongs to another scope (tenant) than the transaction or connection, " +
		"which stays in the one that it began in; begin another one for it; nothing was sent")
	// ErrEndsScope means that a statement would end the transaction by which it is
	// confined to its scope (tenant). See [ScopeFunc].
	ErrEndsScope = errors.New("pgkeel: a statement that begins or ends a transaction, or in a batch can do so inside (DO, CALL), " +
		"would leave its scope (tenant); use Begin, RunTx, Commit and Rollback; nothing was sent")
	// ErrTooManyRows means that a query for one row returned more.
	ErrTooManyRows = errors.New("pgkeel: more than one row")
	// ErrTxPoisoned means that a nested transaction could not be undone, so
	// the one around it can only be rolled back.
	ErrTxPoisoned = errors.New("pgkeel: a savepoint could not be rolled back; the transaction can only be rolled back")
	// ErrTxEnded means that a statement ended the transaction, so that nobody but
	// its author can say how, and what followed it was not part of it.
	ErrTxEnded = errors.New("pgkeel: the transaction was ended by a statement (commit, rollback) instead of by its methods")
	// ErrUnreplicated means that a commit stopped waiting for its synchronous standby,
	// since its context ended or an administrator had it stop. The primary has it, and
	// a failover may lose it: its outcome is unknown.
	ErrUnreplicated = errors.New("pgkeel: the transaction was committed on the primary, and its wait for the synchronous standby was cut short, " +
		"so that a failover may lose it")
)

// Holder describes who holds a connection.
type Holder struct {
	// PID is the server's process of the connection.
	PID uint32
	// Operation is what the connection was taken for: query, exec, conn, tx…
	Operation string
	// Held is for how long.
	Held time.Duration
	// CorrelationID is the id of the context that took it, if any.
	CorrelationID string
	// Stack is where it was taken; empty unless leak detection is on.
	Stack string
}

func (h Holder) String() string {
	s := fmt.Sprintf("%s for %s on server process %d", h.Operation, h.Held.Round(time.Millisecond), h.PID)
	if h.CorrelationID != "" {
		s += " (correlation id " + h.CorrelationID + ")"
	}
	if h.Stack != "" {
		s += " taken at\n" + h.Stack
	}
	return s
}

// ExhaustedError is [ErrPoolExhausted] with who holds the connections.
type ExhaustedError struct {
	// Waited is how long the caller waited.
	Waited time.Duration
	// Limit names what ended the wait: "acquire timeout" or "context".
	Limit string
	// MaxSize is the size of the pool.
	MaxSize int32
	// Waiters is how many callers waited, this one included.
	Waiters int64
	// Holders are the longest holders, at most five.
	Holders []Holder
	// Err is the error of the context that ended the wait.
	Err error
}

func (e *ExhaustedError) Error() string {
	msg := fmt.Sprintf("pgkeel: pool exhausted: all %d connections in use, %d waiting; gave up after %s (%s); nothing was sent",
		e.MaxSize, e.Waiters, e.Waited.Round(time.Millisecond), e.Limit)
	return msg + holders(e.Holders)
}

// Unwrap makes the error match ErrPoolExhausted and the context's error.
func (e *ExhaustedError) Unwrap() []error { return []error{ErrPoolExhausted, e.Err} }

// Outcome is always OutcomeNotSent.
func (e *ExhaustedError) Outcome() Outcome { return OutcomeNotSent }

// Timeout is always true, as in net.Error.
func (e *ExhaustedError) Timeout() bool { return true }

// UnreachableError is [ErrUnreachable] with the reason. Its text contains no
// password.
type UnreachableError struct {
	// Waited is how long the caller waited.
	Waited time.Duration
	// Err is why the last attempt failed, with the secrets taken out.
	Err error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("pgkeel: database unreachable after %s; nothing was sent: %v", e.Waited.Round(time.Millisecond), e.Err)
}

// Unwrap makes the error match ErrUnreachable and its reason.
func (e *UnreachableError) Unwrap() []error { return []error{ErrUnreachable, e.Err} }

// Outcome is always OutcomeNotSent.
func (e *UnreachableError) Outcome() Outcome { return OutcomeNotSent }

// TimeoutError means that a limit ended a statement. It matches the context's
// error (context.DeadlineExceeded or context.Canceled) as well as the
// server's, whichever way the end came about.
type TimeoutError struct {
	// Operation is what was running: query, exec, commit…
	Operation string
	// Limit names what fired: "context deadline", "context cancelled",
	// "transaction timeout", or the server's "statement_timeout",
	// "lock_timeout", "transaction_timeout"…
	Limit string
	// Err is the driver's or the server's error.
	Err error
	// Context is context.DeadlineExceeded or context.Canceled.
	Context error
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("pgkeel: %s ended by %s (%s): %v", e.Operation, e.Limit, OutcomeOf(e), e.Err)
}

// Unwrap returns both causes.
func (e *TimeoutError) Unwrap() []error { return []error{e.Err, e.Context} }

// Timeout reports whether a limit of time fired rather than a cancellation.
func (e *TimeoutError) Timeout() bool { return !errors.Is(e.Context, context.Canceled) }

// Outcome is what the underlying error tells. Without one it is unknown.
func (e *TimeoutError) Outcome() Outcome {
	if e.Err == nil {
		return OutcomeUnknown
	}
	return OutcomeOf(e.Err)
}

// TxError says what became of a transaction that did not end as asked.
type TxError struct {
	// Result is what happened to the transaction's work.
	Result Outcome
	// Operation is what failed: begin, a statement of the closure, commit…
	Operation string
	// Attempts is how often the transaction was tried.
	Attempts int
	// Err is the error of the last attempt.
	Err error
}

func (e *TxError) Error() string {
	tries := ""
	if e.Attempts > 1 {
		tries = fmt.Sprintf(" after %d attempts", e.Attempts)
	}
	return fmt.Sprintf("pgkeel: transaction %s%s (%s failed): %v", e.Result, tries, e.Operation, e.Err)
}

// Unwrap returns the cause.
func (e *TxError) Unwrap() error { return e.Err }

// Outcome is Result.
func (e *TxError) Outcome() Outcome { return e.Result }

// CloseError names the borrowers that still held connections when the time
// that Close was given ran out. Their connections were closed.
type CloseError struct {
	// Holders are those who held.
	Holders []Holder
	// Err is the context's error.
	Err error
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("pgkeel: close ended %d connections by force, as their borrowers kept them (%v)%s",
		len(e.Holders), e.Err, holders(e.Holders))
}

// Unwrap returns the context's error.
func (e *CloseError) Unwrap() error { return e.Err }

func holders(hs []Holder) string {
	if len(hs) == 0 {
		return ""
	}
	parts := make([]string, len(hs))
	for i, h := range hs {
		parts[i] = h.String()
	}
	return "; held by: " + strings.Join(parts, "; ")
}
