package pgx

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// batchResults are the driver's results, whose end gives the connection back.
type batchResults struct {
	pgx.BatchResults

	st     statement
	ctx    context.Context //nolint:containedctx // that of the batch, whose results these are
	firing *providers.Firing
	// batch is the caller's, sent what was made of it.
	batch, sent *pgx.Batch
	tx          *Tx
	closed      bool
	// hidden counts down to the result of the settings; isScoped says that there
	// are some.
	hidden   int
	isScoped bool
	// parts and rows are the next result objects, lastPart and lastRow are those that
	// were handed out. None is handed out twice.
	parts    []part
	rows     []partRow
	lastPart *part
	lastRow  *partRow
	err      error
}

// batchSender is a connection of the driver's, or a transaction of it.
type batchSender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// SendBatch sends every statement of b in one flush, on a connection that
// comes back when the results are closed. A transaction that the batch begins
// can be used once they are closed, and then gives the connection back itself.
func (p *Pool) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	scope, err := p.confined(ctx)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	if changesMeaning(scope.Settings, nil) {
		return sendInBlock(ctx, p, b)
	}
	confined, err := p.confinedBatch(b, scope.Settings)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	r := &batchResults{ctx: ctx, batch: b}
	l, err := p.borrowFor(ctx, opBatch, scope.Gate, r)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	r.st = statement{lease: l, owned: true}
	p.sendBatch(r, l.conn(), confined)
	r.adopt(nil, scope.Settings)
	return r
}

// blockResults are those of a batch in a transaction that ends with them.
type blockResults struct {
	pgx.BatchResults

	ctx    context.Context //nolint:containedctx // that of the batch
	tx     *Tx
	closed bool
	err    error
}

// Close ends the results, and the transaction: it commits if all went well.
func (r *blockResults) Close() error {
	if r.closed {
		return r.err
	}
	r.closed = true
	defer func() { _ = r.tx.Rollback(r.ctx) }() // after a commit it does nothing
	if r.err = r.BatchResults.Close(); r.err == nil {
		r.err = r.tx.Commit(r.ctx)
	}
	return r.err
}

// sendInBlock sends a batch in a transaction of its own, where the settings of the
// scope decide what names mean: the driver prepares the statements ahead, so the
// settings must be there before.
func sendInBlock(ctx context.Context, on scopeBeginner, b *pgx.Batch) pgx.BatchResults {
	if beginsTx(b) {
		return pgx.FailedBatchResults(b, errBeginsInScope)
	}
	tx, err := on.begin(ctx, providers.TxOptions{})
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	sent := false
	defer func() {
		if !sent { // an argument of the application panicked
			_ = tx.Rollback(ctx)
		}
	}()
	results := tx.SendBatch(ctx, b)
	sent = true
	return &blockResults{BatchResults: results, ctx: ctx, tx: tx}
}

// sendBatch sends the batch of r, as confined where that is another.
func (p *Pool) sendBatch(r *batchResults, on batchSender, confined *pgx.Batch) {
	s := r.st.lease.s
	r.sent = confined
	if r.st.order, r.err = p.beginOrder(r.ctx, s, opBatch); r.err != nil {
		r.BatchResults = pgx.FailedBatchResults(r.batch, r.err)
		return
	}
	r.ctx, r.firing = p.startHook(r.ctx, providers.EventBatch, "", s.pid)
	defer func() {
		if r.BatchResults == nil { // an argument of the application panicked
			r.err = errPanicked
			r.done()
		}
	}()
	before := s.dirt
	r.BatchResults = p.sendQueued(s.watch(r.ctx), s, on, confined)
	if confined != r.batch {
		p.hideSettings(r, confined, before)
	}
}

// hideSettings keeps the result of the settings that confine a batch from its
// user. They end by themselves, so they are no reason for a reset; what the user's
// statements do is.
func (p *Pool) hideSettings(r *batchResults, confined *pgx.Batch, before sqltext.Effects) {
	s := r.st.lease.s
	s.dirt = before
	for _, q := range r.batch.QueuedQueries {
		s.soil(q.SQL)
	}
	r.hidden, r.isScoped = 1, true
	if w, ok := r.BatchResults.(*wiredBatch); ok {
		w.x.confined = true
	}
	if beginsTx(confined) {
		r.hidden = 2 // behind its own BEGIN
	}
}

// advance comes before a result is read.
func (r *batchResults) advance() {
	r.pass()
	if r.hidden == 1 {
		_, _ = r.BatchResults.Exec() // its error is that of all that comes behind
	}
	r.hidden--
}

// adopt takes the transaction that the batch began.
func (r *batchResults) adopt(borrower *Conn, scope []providers.Setting) {
	inner := r.BatchResults.Tx()
	if inner == nil {
		return
	}
	r.tx = r.st.lease.s.pool.newTx(r.st.lease, borrower, inner, scope)
	r.tx.order = r.st.order
	if r.st.owned {
		// Until the results are closed, they occupy it.
		_ = r.tx.use.enter()
		r.st.use, r.st.owned = r.tx.use, false
	}
}

// Exec reads the next result as that of a statement without rows.
func (r *batchResults) Exec() (pgconn.CommandTag, error) {
	r.advance()
	tag, err := r.BatchResults.Exec()
	return tag, r.mapped(err)
}

// Query reads the next result as rows. Close them before the next result.
func (r *batchResults) Query() (pgx.Rows, error) {
	rs := r.next()
	return rs, rs.Err()
}

// QueryRow reads the next result as a row.
func (r *batchResults) QueryRow() pgx.Row { return r.nextRow() }

// Tx is the transaction that the batch began with [pgx.Batch.BeginTx], or nil.
func (r *batchResults) Tx() pgx.Tx {
	if r.tx == nil {
		return r.BatchResults.Tx() // of a batch that was refused: closed
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
	r.err = errPanicked // until the callbacks came back
	defer r.done()
	r.pass()
	s := r.st.lease.s
	r.err = r.mapped(s.replicated(r.ctx, opBatch, r.BatchResults.Close()))
	return r.err
}

func (r *batchResults) done() {
	size := 0
	if r.batch != nil {
		size = r.batch.Len()
	}
	r.firing.End(int64(size), r.err)
	if r.err == errPanicked && r.BatchResults != nil { //nolint:errorlint // that very one
		r.drain()
	}
	r.st.order.tell(r.ctx, r.err)
	if r.tx != nil {
		if pg := r.st.lease.conn().PgConn(); pg.TxStatus() == 'I' || pg.IsClosed() {
			r.tx.finish() // it never began, or the batch ended it
		}
	}
	r.st.end()
}

// drain reads the results behind a callback that panicked, without running any
// more, so that the connection can be used again.
func (r *batchResults) drain() {
	for _, q := range r.sent.QueuedQueries {
		if q != nil {
			q.Fn = nil
		}
	}
	_ = r.BatchResults.Close() // the panic is the caller's
}

// beginsTx reports whether a batch begins a transaction, which it does not tell
// itself.
func beginsTx(b *pgx.Batch) bool {
	return b != nil && pgx.FailedBatchResults(b, errInTx).Tx() != nil
}

func (r *batchResults) mapped(err error) error {
	return r.st.lease.s.pool.mapError(r.ctx, opBatch, err)
}
