package pgkeel

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/cluster"
	"github.com/pgkeel/pgkeel/providers"
)

const (
	// defaultMaxAttempts and defaultRetryBudget bound the retries of RunTx.
	defaultMaxAttempts = 5
	defaultRetryBudget = 10 * time.Second
	// Between retries is a random pause of up to retryPause, doubled with each
	// attempt, and at most maxRetryPause: enough for the other transaction to
	// end, and different for each of those that conflict.
	retryPause    = 4 * time.Millisecond
	maxRetryPause = 500 * time.Millisecond
	// lostAttempts have the pause begin with a longer one when the server was lost:
	// it needs time to come back.
	lostAttempts = 4
)

// errManaged refuses to end a transaction that somebody else ends.
var errManaged = refusef("RunTx ends this transaction itself: return nil to commit, an error to roll back")

// errFuncNil refuses to run nothing.
var errFuncNil = refusef("the function is nil")

// limitTx names the limit of a transaction's options to the provider, as the
// cause of a context that it ended.
type limitTx struct{}

func (limitTx) Error() string { return "pgkeel: the transaction's timeout" }

// Limit is the name that errors print.
func (limitTx) Limit() string { return "transaction timeout" }

// Tx is a transaction, or a savepoint inside one. It belongs to one goroutine
// at a time, and its rows must be closed before its next statement.
type Tx struct {
	querier

	tx      providers.Tx
	db      *DB
	managed bool
}

type beginner interface {
	Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error)
}

func begin(ctx context.Context, db *DB, on beginner, options []TxOptions) (Tx, error) {
	opts, err := oneOptions(options)
	if opts.ExactlyOnce {
		err = errors.Join(err, &providers.ConfigError{Field: "TxOptions.ExactlyOnce", Problem: "needs RunTx, " +
			"which alone can run the transaction again; use RunTx, or leave it out"})
	}
	if err != nil {
		return Tx{}, notSent{err}
	}
	tx, err := on.Begin(ctx, opts)
	if err != nil {
		return Tx{}, err
	}
	return db.newTx(tx, false), nil
}

func (db *DB) newTx(tx providers.Tx, managed bool) Tx {
	return Tx{querier: newQuerier(tx, db.layers, true), tx: tx, db: db, managed: managed}
}

func oneOptions(options []TxOptions) (TxOptions, error) {
	switch len(options) {
	case 0:
		return TxOptions{}, nil
	case 1:
		return options[0], options[0].Validate()
	default:
		return TxOptions{}, &providers.ConfigError{Field: "TxOptions", Problem: "given more than once; put everything into one"}
	}
}

// Begin starts a transaction on a connection of its own. End it with Commit or
// Rollback. Prefer [DB.RunTx], which does that by itself and retries.
func (db *DB) Begin(ctx context.Context, options ...TxOptions) (Tx, error) {
	return begin(ctx, db, db.pool, options)
}

// RunTx runs fn in a transaction and commits it when fn returns nil. An error
// or a panic of fn rolls back; the panic goes on.
//
// When the transaction conflicts with others (40001, 40P01), a cached statement
// no longer fits the schema, or the connection or its server is lost before
// COMMIT was sent, RunTx runs the whole of fn again in a fresh transaction, with a
// random pause before it, as often and as long as the options say. A connection that
// was found dead when the transaction was to begin is no attempt: after a restart
// there can be as many of them as the pool has connections. With replicas, a
// read-only one that lost its server is run again on another. So fn must have no
// effect outside of the transaction that it could not have twice, and must not end
// the transaction by itself.
//
// When COMMIT was sent and its answer is lost, the outcome is unknown, and nothing
// is run again. With ExactlyOnce RunTx asks the server that takes writes then what
// became of it (see package outcome), for the rest of the RetryBudget and for
// three seconds at least, also when ctx ends: it returns nil if the transaction was
// committed, runs fn again if it cannot be any more, and only if nobody could be
// asked in that time is the outcome unknown. The transaction's first statement is
// then pgkeel's own, in the flush of its BEGIN.
//
// Any error is a [*TxError], which says what became of the transaction and
// unwraps to its cause.
//
// The context that fn gets ends with the transaction's Timeout, and tells the
// pool that its user already holds a connection; use it for what fn calls.
func (db *DB) RunTx(ctx context.Context, fn func(ctx context.Context, tx Tx) error, options ...TxOptions) error {
	opts, err := oneOptions(options)
	if err != nil {
		return &TxError{Result: OutcomeNotSent, Operation: "options", Err: err}
	}
	if fn == nil {
		return &TxError{Result: OutcomeNotSent, Operation: "options", Err: errFuncNil}
	}
	if opts.MaxAttempts == 0 {
		opts.MaxAttempts = defaultMaxAttempts
	}
	if opts.RetryBudget == 0 {
		opts.RetryBudget = defaultRetryBudget
	}
	budget := time.Now().Add(opts.RetryBudget)
	for attempt, dead := 1, 0; ; attempt++ {
		err := db.try(ctx, fn, opts, budget)
		if err == nil {
			return nil
		}
		if diedIdle(err) && dead < int(db.pool.Stats().MaxSize) && pause(ctx, 1, budget) {
			dead, attempt = dead+1, attempt-1
			continue
		}
		waited := attempt
		if !db.repeats(err, opts) {
			if !isLost(ctx, err, opts) {
				return asTxError(err, attempt)
			}
			waited += lostAttempts
		}
		if attempt >= opts.MaxAttempts || !pause(ctx, waited, budget) {
			return asTxError(err, attempt)
		}
	}
}

// try runs fn once.
func (db *DB) try(ctx context.Context, fn func(context.Context, Tx) error, opts TxOptions, budget time.Time) error {
	if opts.ExactlyOnce {
		return db.attemptOnce(ctx, fn, opts, budget)
	}
	return db.attempt(ctx, fn, opts, db.pool)
}

// attempt runs fn in one transaction.
func (db *DB) attempt(ctx context.Context, fn func(context.Context, Tx) error, opts TxOptions, on beginner) error {
	if opts.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, opts.Timeout, limitTx{})
		defer cancel()
	}
	tx, err := on.Begin(ctx, opts)
	if err != nil {
		return err
	}
	err = endedElsewhere(db.runIn(db.held(ctx, opts.Access == ReadOnly), tx, fn))
	if err == nil && opts.ExactlyOnce && ctx.Err() != nil {
		return &TxError{Result: OutcomeUnknown, Operation: "commit", Attempts: 1, Err: errCommitCut}
	}
	return err
}

// endedElsewhere finds out that fn, or what it called, ended the transaction by
// itself, by a statement or through Unwrap: then nobody here can say how, and
// nothing may be run again.
func endedElsewhere(err error) error {
	var closure *closureError
	if !errors.As(err, &closure) || closure.rollback == nil {
		return err
	}
	var told *TxError
	if errors.As(closure.rollback, &told) && told.Result != OutcomeUnknown {
		return err
	}
	return &TxError{Result: OutcomeUnknown, Operation: "closure", Attempts: 1, Err: errors.Join(closure.error, closure.rollback)}
}

// runIn runs fn in a transaction and ends it, whatever way fn is left.
func (db *DB) runIn(ctx context.Context, tx providers.Tx, fn func(context.Context, Tx) error) error {
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit
			_ = tx.Rollback(ctx)
		}
	}()
	err := fn(ctx, db.newTx(tx, true))
	returned = true
	if err == nil {
		return commit(ctx, tx)
	}
	rollbackErr := tx.Rollback(ctx)
	told := &closureError{error: err, cause: err, rollback: rollbackErr}
	if rollbackErr != nil && !errors.Is(rollbackErr, pgx.ErrTxClosed) {
		told.error = errors.Join(err, rollbackErr)
	}
	return told
}

// commit commits, or rolls back what it cannot commit.
func commit(ctx context.Context, tx providers.Tx) error {
	err := tx.Commit(ctx)
	var told *TxError
	if err == nil || errors.As(err, &told) {
		return err
	}
	// The provider did not even try. Either fn left rows open, which a rollback
	// ends, or it ended the transaction on its own, and only it knows how.
	result := OutcomeRolledBack
	if rollbackErr := tx.Rollback(ctx); rollbackErr != nil {
		result, err = OutcomeUnknown, errors.Join(err, rollbackErr)
	}
	return &TxError{Result: result, Operation: "commit", Attempts: 1, Err: err}
}

// closureError marks the error of a closure, whose work was rolled back,
// whatever outcome errors inside of it tell of other work.
type closureError struct {
	error
	cause    error // what the closure returned
	rollback error // how the rollback ended
}

func (e *closureError) Unwrap() error { return e.error }

// repeats reports whether running the whole transaction again can help, and does no
// harm: what only reads can do so at another server.
func (db *DB) repeats(err error, opts TxOptions) bool {
	return isConflict(err) || opts.Access == ReadOnly && db.Cluster() != nil && cluster.IsServerLost(err)
}

// isConflict reports whether running the whole transaction again can help, and
// nothing of the attempt can have been committed.
func isConflict(err error) bool {
	var pg *PGError
	if !errors.As(err, &pg) || !pg.IsRetryable() && !pg.IsStalePlan() {
		return false
	}
	var closure *closureError
	return errors.As(err, &closure) || OutcomeOf(err) == OutcomeRolledBack
}

// pause waits before the next attempt, unless that would exceed the budget or
// the context ends first.
func pause(ctx context.Context, attempt int, budget time.Time) bool {
	limit := min(retryPause<<min(attempt-1, 10), maxRetryPause)
	d := rand.N(limit) + 1 //nolint:gosec // jitter needs no secrecy
	if time.Now().Add(d).After(budget) {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func asTxError(err error, attempts int) error {
	var closure *closureError
	if errors.As(err, &closure) {
		return &TxError{Result: OutcomeRolledBack, Operation: "closure", Attempts: attempts, Err: closure.error}
	}
	var tx *TxError
	if errors.As(err, &tx) {
		return &TxError{Result: tx.Result, Operation: tx.Operation, Attempts: attempts, Err: tx.Err}
	}
	// Begin could not even get a connection.
	return &TxError{Result: OutcomeNotSent, Operation: "begin", Attempts: attempts, Err: err}
}

// RunTx runs fn inside a savepoint, which is released when fn returns nil. An
// error or a panic of fn undoes what it did since, and only that. Conflicts are
// for the transaction around it to retry.
func (tx Tx) RunTx(ctx context.Context, fn func(ctx context.Context, tx Tx) error) error {
	return tx.RunSavepoint(ctx, "", fn)
}

// RunSavepoint is [Tx.RunTx] with a savepoint of that name.
func (tx Tx) RunSavepoint(ctx context.Context, name string, fn func(ctx context.Context, tx Tx) error) error {
	if fn == nil {
		return errFuncNil
	}
	sp, err := tx.tx.Savepoint(ctx, name)
	if err != nil {
		return err
	}
	err = tx.db.runIn(ctx, sp, fn)
	var closure *closureError
	if errors.As(err, &closure) {
		return closure.error
	}
	return err
}

// Savepoint starts a savepoint, which ends with its own Commit (release) or
// Rollback. An empty name lets pgkeel choose one.
func (tx Tx) Savepoint(ctx context.Context, name string) (Tx, error) {
	sp, err := tx.tx.Savepoint(ctx, name)
	if err != nil {
		return Tx{}, err
	}
	return tx.db.newTx(sp, false), nil
}

// Commit makes the transaction durable, or releases the savepoint. Its error is
// a [*TxError] that says what became of the work.
func (tx Tx) Commit(ctx context.Context) error {
	if tx.managed {
		return errManaged
	}
	return tx.tx.Commit(ctx)
}

// Rollback undoes the transaction, or what was done since the savepoint. It
// works with a context that has ended. After the end it returns
// [pgx.ErrTxClosed], so it can be deferred.
func (tx Tx) Rollback(ctx context.Context) error {
	if tx.managed {
		return errManaged
	}
	return tx.tx.Rollback(ctx)
}

// SendBatch sends every queued statement in one flush. Close the results.
func (tx Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return sendBatch(ctx, tx.tx, b)
}

// Unwrap returns the transaction as a [pgx.Tx], for libraries that want one.
// With a provider that is not built on pgx it is nil.
func (tx Tx) Unwrap() pgx.Tx {
	t, _ := tx.tx.(pgx.Tx)
	return t
}
