package pgx

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/pgx/decode"
)

// wiredItem is a statement of a batch that is sent as one exchange.
type wiredItem struct {
	*described

	args []any
}

// messages are encoded for the server.
type messages []byte

// Frontend says where they come from.
func (*messages) Frontend() {}

// Decode is never asked for.
func (*messages) Decode([]byte) error { return errProtocol }

// largeMessages are more than the driver's buffer has room for.
const largeMessages = 1024

// Encode appends them. Large ones become the driver's buffer, which it lets go of once
// it is written.
func (m *messages) Encode(dst []byte) ([]byte, error) {
	if len(dst) == 0 && len(*m) > largeMessages {
		return *m, nil
	}
	return append(dst, *m...), nil
}

// keepMessages and keepItems are how large buffers may be that are kept for the next
// batch.
const (
	keepMessages = 64 << 10
	keepItems    = 1024
)

// forget keeps nothing of the caller's, nor much memory.
func (w *scopedWire) forget() {
	clear(w.items)
	if cap(w.items) > keepItems {
		w.items = nil
	}
	if cap(w.messages) > keepMessages {
		w.messages, w.eqb = nil, pgx.ExtendedQueryBuilder{} // which has the last arguments
	}
}

// sendQueued sends a batch as one exchange where it can, which takes less than half the
// allocations of the driver's own way, and else in that.
func (p *Pool) sendQueued(ctx context.Context, s *session, on batchSender, b *pgx.Batch) pgx.BatchResults {
	if b != nil && ctx.Done() == nil && p.cfg.Tracer == nil {
		wired, err := p.sendWired(ctx, s, b)
		switch {
		case err != nil:
			return pgx.FailedBatchResults(b, asNotSent(err))
		case wired != nil:
			return wired
		}
	}
	return on.SendBatch(ctx, b)
}

// asNotSent adds that nothing was sent, unless the error says so.
func asNotSent(err error) error {
	if providers.OutcomeOf(err) == providers.OutcomeNotSent {
		return err
	}
	return &notSentError{err}
}

// sendWired returns nil where it does not know how to, and has sent nothing then.
func (p *Pool) sendWired(ctx context.Context, s *session, b *pgx.Batch) (sent *wiredBatch, err error) {
	known := descriptionsOf(s)
	prepares := s.config.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement && known != nil && known.capacity > 0
	if !prepares || b.Len() == 0 {
		return nil, nil //nolint:nilnil // nothing was sent
	}
	w := &s.scoped
	defer func() {
		if sent == nil {
			known.dropUndescribed(w.items)
		}
		w.forget()
	}()
	for again := false; ; again = true {
		if ok := p.list(ctx, known, b, w); !ok {
			return nil, nil //nolint:nilnil // nothing was sent
		}
		if ok, err := s.describeItems(ctx, known); !ok || err != nil {
			return nil, err
		}
		misfit, err := s.encodeItems()
		if err == nil {
			break
		}
		if again {
			return nil, err
		}
		known.drop(misfit) // it may take other types since
	}
	return s.exchangeAll(ctx, b), nil
}

// list finds the descriptions of a batch's statements. It reports false for what is
// to be sent otherwise.
func (p *Pool) list(ctx context.Context, known *descriptions, b *pgx.Batch, w *scopedWire) (ok bool) {
	w.items = slices.Grow(w.items[:0], b.Len())
	for i, q := range b.QueuedQueries {
		if q == nil || p.names.has(q.SQL) {
			return false
		}
		it := wiredItem{args: q.Arguments}
		sql := q.SQL
		if len(it.args) > 0 {
			if sql, it.args, ok = rewrite(ctx, sql, it.args); !ok {
				return false
			}
		}
		if i > 0 && w.items[i-1].sql == sql {
			it.described = w.items[i-1].described // as in most batches
		} else if it.described, _ = known.of(sql, p); it.described == nil {
			return false
		}
		w.items = append(w.items, it)
	}
	return true
}

// describeItems has those described that are not, in one flush. It reports false if
// one of them cannot be: the driver will say why.
func (s *session) describeItems(ctx context.Context, known *descriptions) (ok bool, err error) {
	var missing undescribed
	for _, it := range s.scoped.items {
		missing.add(it.described)
	}
	missing.listed()
	switch {
	case len(missing) == 0:
		return true, nil
	case s.conn.PgConn().TxStatus() == 'E': // the server takes nothing but an end
		return false, nil
	}
	needed := make([]*described, len(s.scoped.items))
	for i, it := range s.scoped.items {
		needed[i] = it.described
	}
	known.evict(needed)
	by := describer{conn: s.conn, pipe: s.conn.PgConn().StartPipeline(ctx), known: known}
	err = by.describeAll(missing)
	if closeErr := by.pipe.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = ctx.Err() // the driver would not look
	}
	return !slices.ContainsFunc(missing, func(d *described) bool { return d.sd == nil }), err
}

// dropUndescribed forgets what was not described.
func (d *descriptions) dropUndescribed(items []wiredItem) {
	for _, it := range items {
		if it.sd == nil {
			d.drop(it.described)
		}
	}
}

// encodeItems makes the messages of a batch, all before any is sent. It returns the
// statement whose arguments do not fit.
func (s *session) encodeItems() (*described, error) {
	w := &s.scoped
	out := w.messages[:0]
	for _, it := range w.items {
		if len(it.sd.ParamOIDs) != len(it.args) {
			return it.described, argumentCount(len(it.sd.ParamOIDs), len(it.args))
		}
		if err := w.eqb.Build(s.conn.TypeMap(), it.sd, it.args); err != nil {
			return it.described, err
		}
		columns := it.columnsOn(s, w.eqb.ResultFormats)
		bind := pgproto3.Bind{
			PreparedStatement: it.sd.Name, Parameters: w.eqb.ParamValues,
			ParameterFormatCodes: w.eqb.ParamFormats, ResultFormatCodes: w.eqb.ResultFormats,
		}
		var err error
		if out, err = bind.Encode(out); err != nil {
			return it.described, err
		}
		if len(columns.Fields) == 0 {
			// Some statements have no columns before they run: FETCH, EXECUTE.
			out, _ = (&pgproto3.Describe{ObjectType: 'P'}).Encode(out)
		}
		out, _ = (&pgproto3.Execute{}).Encode(out)
	}
	w.messages, _ = (&pgproto3.Sync{}).Encode(out)
	return nil, nil //nolint:nilnil // none
}

// exchangeAll sends what was encoded.
func (s *session) exchangeAll(ctx context.Context, b *pgx.Batch) *wiredBatch {
	w, x := &s.scoped, s.openExchange(ctx)
	x.more = true
	r := &wiredBatch{x: x, queue: b.QueuedQueries, columns: make([]*described, len(w.items))}
	for i, it := range w.items {
		r.columns[i] = it.described
		s.dirt |= it.effects.Left()
	}
	if x.closed {
		return r
	}
	out := messages(w.messages)
	s.conn.PgConn().Frontend().Send(&out)
	// The server may answer before it has read all, and wait for its answers to be
	// read: the driver's pipeline sees to that.
	if err := x.pipe.Flush(); err != nil {
		x.lose(err)
	}
	return r
}

// wiredBatch are the results of a batch that was sent as one exchange.
type wiredBatch struct {
	x     *exchange
	queue []*pgx.QueuedQuery
	// columns are those of the results, of which at comes next.
	columns []*described
	at      int
	// rows are the next result objects, last is the one that was handed out.
	rows []exchanged
	last *exchanged
	err  error
	// calling says that a callback runs, closed that all is over.
	calling, closed bool
}

var _ pgx.BatchResults = (*wiredBatch)(nil)

// noColumns are those of a result that there is not.
var noColumns = &decode.Columns{}

var (
	errBatchClosed = errors.New("batch already closed")
	errNoMore      = errors.New("no more results in batch")
)

// endLast ends the rows that were handed out last. Their error, also that of reading
// them, is that of all that comes behind.
func (b *wiredBatch) endLast() {
	if b.last == nil {
		return
	}
	b.last.Close()
	if b.err == nil {
		b.err = b.last.err
	}
	b.last = nil
}

// begin moves to the next result.
func (b *wiredBatch) begin() (*described, error) {
	b.endLast()
	switch {
	case b.err != nil:
		return nil, b.err
	case b.closed:
		return nil, errBatchClosed
	case b.x.err != nil:
		b.err = b.x.err
		return nil, b.err
	case b.at == len(b.columns):
		return nil, errNoMore
	}
	d := b.columns[b.at]
	b.at++
	b.x.answered, b.x.tag, b.x.columns = b.x.closed, pgconn.CommandTag{}, nil
	return d, nil
}

// Exec reads the next result as that of a statement without rows.
func (b *wiredBatch) Exec() (pgconn.CommandTag, error) {
	if _, err := b.begin(); err != nil {
		return pgconn.CommandTag{}, err
	}
	if b.err = b.x.finish(); b.err != nil {
		return pgconn.CommandTag{}, b.err
	}
	return b.x.tag, nil
}

// Query reads the next result as rows.
func (b *wiredBatch) Query() (pgx.Rows, error) {
	r := b.query()
	return r, r.Err()
}

func (b *wiredBatch) query() *exchanged {
	if len(b.rows) == 0 {
		b.rows = make([]exchanged, min(len(b.columns), mostParts))
	}
	r := &b.rows[0]
	b.rows = b.rows[1:]
	d, err := b.begin()
	if err != nil {
		*r = exchanged{columns: noColumns, closed: true, err: err}
		return r
	}
	b.x.columns = d.columns
	b.x.loaded = b.x.next()
	*r = exchanged{x: b.x, columns: b.x.columns}
	b.last = r
	if b.x.err != nil {
		b.endLast()
	}
	return r
}

// exchangedRow is rows of which only the first is read.
type exchangedRow exchanged

// Scan reads the first row into dest. Without a row the error is [pgx.ErrNoRows].
func (r *exchangedRow) Scan(dest ...any) error { return providers.ScanFirst((*exchanged)(r), dest) }

// QueryRow reads the next result as a row.
func (b *wiredBatch) QueryRow() pgx.Row { return (*exchangedRow)(b.query()) }

// Tx is nil: a batch that begins a transaction is left to the driver.
func (b *wiredBatch) Tx() pgx.Tx { return nil }

// Close runs the callbacks of what was not read, up to the first error, and reads
// the rest.
func (b *wiredBatch) Close() error {
	if b.closed || b.calling { // which goes on behind the callback
		return b.err
	}
	for b.endLast(); b.err == nil && b.at < len(b.columns); b.endLast() {
		b.handle(b.queue[b.at])
	}
	b.closed = true
	s, failure := b.x.s, b.x.Close()
	*b.x = exchange{}
	b.x, b.queue = nil, nil
	if b.err == nil {
		b.err = failure
	}
	if pg := providers.NewPGError(failure); s.known != nil && mayBeStale(pg) {
		for _, d := range b.columns {
			s.known.drop(d)
		}
		s.forgetSettings(pg)
	}
	return b.err
}

// handle gives the next result to its callback.
func (b *wiredBatch) handle(q *pgx.QueuedQuery) {
	at := b.at
	if q != nil && q.Fn != nil {
		if err := b.call(q.Fn); err != nil {
			b.err = err
			return
		}
	}
	if b.at == at { // nobody looked
		_, _ = b.Exec()
	}
}

// call runs a callback, which can close the results, or panic.
func (b *wiredBatch) call(callback func(pgx.BatchResults) error) error {
	b.calling = true
	defer func() { b.calling = false }()
	return callback(b)
}
