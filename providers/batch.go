package providers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// BatchRunner is a pool, connection or transaction that runs a stream of
// statements and knows of each what became of it.
type BatchRunner interface {
	// RunBatch runs the statements of the call, in their order, and puts into
	// its report what became of each. The error is the report's: nil only if
	// every statement succeeded. It is over when RunBatch returns.
	RunBatch(ctx context.Context, call *BatchCall) error
}

// BatchCall is a stream of statements that run on one connection, sent ahead of
// their results, and what is to happen when one of them fails.
type BatchCall struct {
	// Next hands out the next statement, or nil behind the last. An error ends
	// the stream, and undoes the group that is under way. The statement's Fn,
	// if set, is called with its result; results come in the statements' order.
	// The only option among the arguments is a [pgx.QueryRewriter], as in pgx.
	Next func() (*pgx.QueuedQuery, error)
	// Group is how many statements share a transaction: 1 is each by itself, 0
	// is all of them. A group is undone when one of its statements or callbacks
	// fails; a statement by itself is not undone by its callback. Inside a
	// transaction a group is a savepoint.
	Group int
	// Tx are the options of the transactions. Its limits of time and attempts
	// have no effect, and inside a transaction nothing of it has.
	Tx TxOptions
	// MaxStatements and MaxBytes are how many statements, and how many bytes
	// of them, are read ahead and sent ahead of their results. One statement
	// may be larger than MaxBytes; it then travels alone. Both are at least 1.
	MaxStatements, MaxBytes int
	// StopOnError sends nothing more once something failed. What was sent
	// already ends as it ends.
	StopOnError bool

	// Report is what became of it.
	Report BatchReport
}

// BatchState is what became of one statement of a batch.
type BatchState uint8

// The states of a statement.
const (
	// BatchNotAttempted means that the server never ran it.
	BatchNotAttempted BatchState = iota
	// BatchOK means that it succeeded, its callback and its group as well. It
	// is durable, or part of the transaction that the batch ran in.
	BatchOK
	// BatchFailed means that it failed, or its callback.
	BatchFailed
	// BatchRolledBack means that it was sent, and undone with its group, or
	// that its group can never be committed.
	BatchRolledBack
	// BatchUnknown means that the connection was lost at a moment when the
	// server may or may not have done it.
	BatchUnknown

	batchStates
)

// String returns the state in words.
func (s BatchState) String() string {
	if s < batchStates {
		return [batchStates]string{"not attempted", "ok", "failed", "rolled back", "unknown"}[s]
	}
	return "invalid"
}

// MaxBatchErrors is how many errors a report keeps. The states tell of all.
const MaxBatchErrors = 100

// BatchReport says what became of the statements of a batch.
type BatchReport struct {
	// States holds the state of each statement, a byte each.
	States []BatchState
	// RowsAffected is the sum over the statements that are BatchOK.
	RowsAffected int64
	// Errors are the first MaxBatchErrors of what went wrong, in the order in
	// which it was found out.
	Errors []*BatchError
	// MoreErrors counts those behind them.
	MoreErrors int

	kept bool // a failed callback's statement stands
}

// Count returns how many statements are in that state.
func (r *BatchReport) Count(state BatchState) int {
	n := 0
	for _, s := range r.States {
		if s == state {
			n++
		}
	}
	return n
}

// Fail adds an error. It is for providers.
func (r *BatchReport) Fail(e *BatchError) {
	r.kept = r.kept || e.Result == OutcomeCommitted
	if len(r.Errors) == MaxBatchErrors {
		r.MoreErrors++
		return
	}
	r.Errors = append(r.Errors, e)
}

// Err is nil if nothing went wrong, and otherwise a [*BatchFailure].
func (r *BatchReport) Err() error {
	if len(r.Errors) == 0 {
		return nil
	}
	return &BatchFailure{Errors: r.Errors, More: r.MoreErrors, Result: r.outcome()}
}

// outcome is that of the batch as a whole. Where some of it stands and some
// does not, no single outcome is right: it is unknown to who does not look at
// the states.
func (r *BatchReport) outcome() Outcome {
	result := OutcomeNotSent
	for _, s := range r.States {
		switch s {
		case BatchUnknown, BatchOK:
			return OutcomeUnknown
		case BatchRolledBack:
			result = OutcomeRolledBack
		}
	}
	for _, e := range r.Errors {
		if e.Result == OutcomeRolledBack {
			result = OutcomeRolledBack
		}
	}
	if r.kept {
		return OutcomeUnknown
	}
	return result
}

// The operations at which a batch can fail.
const (
	// BatchStatement is the statement itself.
	BatchStatement = "statement"
	// BatchCallback is the callback of a statement that succeeded.
	BatchCallback = "callback"
	// BatchBegin and BatchCommit are the ends of a group's transaction.
	BatchBegin  = "begin"
	BatchCommit = "commit"
	// BatchSource is what hands out the statements.
	BatchSource = "source"
	// BatchConnection is the connection, which could not be had or was lost.
	BatchConnection = "connection"
	// BatchContext is the context, which ended between two statements.
	BatchContext = "context"
)

// BatchError is one thing that went wrong in a batch.
type BatchError struct {
	// Index is the statement's, from 0: the one at fault or, where none is, the
	// first that was concerned.
	Index int
	// Last is the last of the group for BatchBegin and BatchCommit, and
	// otherwise Index.
	Last int
	// SQL is the statement as it was queued, without its arguments.
	SQL string
	// Operation is what failed: one of the constants.
	Operation string
	// Result is what happened to the statement's work.
	Result Outcome
	// Err is why.
	Err error
}

// Error names the statement. It contains no arguments.
func (e *BatchError) Error() string {
	where := fmt.Sprintf("statement %d", e.Index)
	if e.Last > e.Index {
		where = fmt.Sprintf("statements %d to %d", e.Index, e.Last)
	}
	if e.SQL != "" {
		where += " (" + excerpt(e.SQL) + ")"
	}
	switch e.Operation {
	case BatchStatement:
		return fmt.Sprintf("pgkeel: batch: %s failed (%s): %v", where, e.Result, e.Err)
	case BatchContext:
		return fmt.Sprintf("pgkeel: batch: the context ended at %s: %v", where, e.Err)
	case BatchSource, BatchConnection:
		return fmt.Sprintf("pgkeel: batch: the %s failed at %s: %v", e.Operation, where, e.Err)
	default:
		return fmt.Sprintf("pgkeel: batch: the %s of %s failed (%s): %v", e.Operation, where, e.Result, e.Err)
	}
}

// Unwrap returns the cause.
func (e *BatchError) Unwrap() error { return e.Err }

// Outcome is Result.
func (e *BatchError) Outcome() Outcome { return e.Result }

// excerptLength is how much of a statement an error's text shows, in bytes.
const excerptLength = 120

// excerpt is a statement on one line, cut where it is long.
func excerpt(sql string) string {
	if len(sql) > 4*excerptLength {
		sql = sql[:4*excerptLength] // enough, whatever the white space
	}
	line := strings.Join(strings.Fields(sql), " ")
	if len(line) > excerptLength {
		line = strings.ToValidUTF8(line[:excerptLength], "") + "…"
	}
	return line
}

// BatchFailure is the error of a batch of which something went wrong.
type BatchFailure struct {
	// Errors are the first MaxBatchErrors, More counts the rest.
	Errors []*BatchError
	More   int
	// Result is OutcomeRolledBack or OutcomeNotSent if nothing of the batch
	// stands. It is OutcomeUnknown if that is not known, and also if a part
	// stands and another does not: the report has the state of each.
	Result Outcome
}

// Error is that of the first error, and how many there are.
func (e *BatchFailure) Error() string {
	text := e.Errors[0].Error()
	if n := len(e.Errors) - 1 + e.More; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return text
}

// Unwrap returns the errors.
func (e *BatchFailure) Unwrap() []error {
	all := make([]error, len(e.Errors))
	for i, one := range e.Errors {
		all[i] = one
	}
	return all
}

// Outcome is Result.
func (e *BatchFailure) Outcome() Outcome { return e.Result }

// ErrBatchControl means that a statement of a batch began or ended a
// transaction by itself, where the batch has its own.
var ErrBatchControl = errors.New("pgkeel: a statement of the batch began or ended a transaction; " +
	"leave that to the batch, or run it outside of one")
