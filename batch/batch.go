package batch

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// Runner is what a batch runs on: *pgkeel.DB, *pgkeel.Conn, pgkeel.Tx, and the
// pools, connections and transactions of a provider that can send ahead.
type Runner = providers.BatchRunner

// The contract's types under this package's name.
type (
	// State is what became of one statement.
	State = providers.BatchState
	// Report is what became of a batch.
	Report = providers.BatchReport
	// Error is the error of a batch of which something went wrong.
	Error = providers.BatchFailure
	// ItemError is one thing that went wrong, and at which statement.
	ItemError = providers.BatchError
)

// The states of a statement.
const (
	// NotAttempted means that the server never ran it.
	NotAttempted = providers.BatchNotAttempted
	// OK means that it succeeded, its callback and its group as well.
	OK = providers.BatchOK
	// Failed means that it failed, or its callback.
	Failed = providers.BatchFailed
	// RolledBack means that it was sent, and undone with its group.
	RolledBack = providers.BatchRolledBack
	// Unknown means that the connection was lost at a moment when the server may
	// or may not have done it.
	Unknown = providers.BatchUnknown
)

// The operations that an [ItemError] can name.
const (
	OpStatement  = providers.BatchStatement
	OpCallback   = providers.BatchCallback
	OpBegin      = providers.BatchBegin
	OpCommit     = providers.BatchCommit
	OpSource     = providers.BatchSource
	OpConnection = providers.BatchConnection
	OpContext    = providers.BatchContext
)

// Queue makes a statement for [Stream]. Set its callback, if any, with its
// methods Query, QueryRow and Exec, as on a statement of a [pgx.Batch].
func Queue(sql string, args ...any) *pgx.QueuedQuery {
	return &pgx.QueuedQuery{SQL: sql, Arguments: args}
}

// Run runs the statements of b, and returns what became of each: the report has
// as many states as b has statements. The error is nil only if all are OK, and
// otherwise a [*Error], or, where the call itself is wrong and nothing was sent,
// one that says so. An empty batch needs no connection and is a success.
//
// b is not changed, and may be run again.
func Run(ctx context.Context, db Runner, b *pgx.Batch, options Options) (Report, error) {
	if err := errors.Join(checkRunner(db), checkBatch(b), options.validate()); err != nil {
		return Report{}, refusal{err}
	}
	queued := b.QueuedQueries
	if len(queued) == 0 {
		return Report{}, nil
	}
	call := options.call()
	call.Report.States = make([]State, 0, len(queued))
	next := 0
	call.Next = func() (*pgx.QueuedQuery, error) {
		if next == len(queued) {
			return nil, nil
		}
		next++
		return queued[next-1], nil
	}
	err := db.RunBatch(ctx, call)
	if missing := len(queued) - len(call.Report.States); missing > 0 {
		call.Report.States = append(call.Report.States, make([]State, missing)...)
	}
	return call.Report, err
}

// Stream runs the statements of an iterator, which is asked for more as room
// becomes free, and never again once the batch has to end. The report has a state
// for each statement that was taken from it, and is otherwise like that of [Run].
//
// An error of the iterator ends the batch. What of the group under way was sent
// is undone; in [Isolated] mode that is nothing.
//
// The connection is held while the iterator works. It must not wait for another
// connection of the same pool where that could be the last.
func Stream(ctx context.Context, db Runner, statements iter.Seq2[*pgx.QueuedQuery, error], options Options) (Report, error) {
	err := errors.Join(checkRunner(db), options.validate())
	if statements == nil {
		err = errors.Join(err, errors.New("pgkeel: batch: the iterator is nil"))
	}
	if err != nil {
		return Report{}, refusal{err}
	}
	pull, stop := iter.Pull2(statements)
	defer stop()
	call := options.call()
	call.Next = func() (*pgx.QueuedQuery, error) {
		q, err, more := pull()
		switch {
		case !more:
			return nil, nil
		case err == nil && q == nil:
			return nil, errors.New("pgkeel: batch: the iterator handed out nil; make statements with batch.Queue")
		}
		return q, err
	}
	err = db.RunBatch(ctx, call)
	return call.Report, err
}

// refusal says what is wrong with a call.
type refusal struct{ error }

func (r refusal) Error() string            { return r.error.Error() + "; nothing was sent" }
func (r refusal) Unwrap() error            { return r.error }
func (refusal) Outcome() providers.Outcome { return providers.OutcomeNotSent }

func checkRunner(db Runner) error {
	if db == nil {
		return errors.New("pgkeel: batch: the handle is nil")
	}
	return nil
}

func checkBatch(b *pgx.Batch) error {
	if b == nil {
		return errors.New("pgkeel: batch: the batch is nil")
	}
	if pgx.FailedBatchResults(b, errBeginTx).Tx() != nil { // it does not tell itself
		return errBeginTx
	}
	for i, q := range b.QueuedQueries {
		if q == nil {
			return fmt.Errorf("pgkeel: batch: statement %d is nil", i)
		}
	}
	return nil
}

var errBeginTx = errors.New("pgkeel: batch: the batch begins a transaction itself (BeginTx): " +
	"leave that out, and give its options as Options.Tx")
