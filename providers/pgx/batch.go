package pgx

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// batchResults are the driver's results, whose end gives the connection back.
type batchResults struct {
	pgx.BatchResults

	st     statement
	ctx    context.Context //nolint:containedctx // that of the batch, whose results these are
	firing *providers.Firing
	size   int
	tx     *Tx
	closed bool
	err    error
}

// SendBatch sends every statement of b in one flush, on a connection that
// comes back when the results are closed.
func (p *Pool) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	l, err := p.borrow(ctx, opBatch)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	results := p.sendBatch(ctx, statement{lease: l, owned: true}, b)
	l.anchor(results)
	return results
}

func (p *Pool) sendBatch(ctx context.Context, st statement, b *pgx.Batch) *batchResults {
	r := &batchResults{st: st, size: b.Len()}
	r.ctx, r.firing = p.startHook(ctx, providers.EventBatch, "", st.lease.s.pid)
	r.BatchResults = st.lease.conn().SendBatch(r.ctx, b)
	if inner := r.BatchResults.Tx(); inner != nil {
		r.tx = p.newTx(st.lease, st.owned, inner)
	}
	return r
}

// Exec reads the next result as that of a statement without rows.
func (r *batchResults) Exec() (pgconn.CommandTag, error) {
	tag, err := r.BatchResults.Exec()
	return tag, r.mapped(err)
}

// Query reads the next result as rows.
func (r *batchResults) Query() (pgx.Rows, error) {
	rs, err := r.BatchResults.Query()
	return rs, r.mapped(err)
}

// Tx is the transaction that the batch began with [pgx.Batch.BeginTx], or nil.
func (r *batchResults) Tx() pgx.Tx {
	if r.tx == nil {
		return nil
	}
	return r.tx
}

// Close reads what was not read, runs the callbacks of the queue, and gives
// the connection back, unless the batch began a transaction that goes on.
func (r *batchResults) Close() error {
	if r.closed {
		return r.err
	}
	r.closed = true
	defer r.done() // also when a callback panics
	r.err = r.mapped(r.BatchResults.Close())
	return r.err
}

func (r *batchResults) done() {
	r.firing.End(int64(r.size), r.err)
	if r.tx != nil {
		r.st.owned = false // the transaction gives the connection back
	}
	r.st.end()
}

func (r *batchResults) mapped(err error) error {
	return r.st.lease.s.pool.mapError(r.ctx, opBatch, err)
}
