package pgkeel

import (
	"context"

	"github.com/pgkeel/pgkeel/providers"
)

// RunBatch runs a stream of statements and tells of each what became of it. It
// is what package batch stands on; use that.
func (db *DB) RunBatch(ctx context.Context, call *providers.BatchCall) error {
	return runBatch(ctx, db.pool, call)
}

// RunBatch runs a stream of statements on this connection. See [DB.RunBatch].
func (c *Conn) RunBatch(ctx context.Context, call *providers.BatchCall) error {
	return runBatch(ctx, c.conn, call)
}

// RunBatch runs a stream of statements in this transaction. See [DB.RunBatch].
func (tx Tx) RunBatch(ctx context.Context, call *providers.BatchCall) error {
	return runBatch(ctx, tx.tx, call)
}

func runBatch(ctx context.Context, target any, call *providers.BatchCall) error {
	if call == nil {
		return refusef("RunBatch: the call is nil")
	}
	runner, ok := target.(providers.BatchRunner)
	if !ok {
		call.Report.Fail(&providers.BatchError{
			Operation: providers.BatchConnection, Result: providers.OutcomeNotSent,
			Err: unsupported("RunBatch", target),
		})
		return call.Report.Err()
	}
	return runner.RunBatch(ctx, call)
}
