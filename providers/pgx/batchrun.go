package pgx

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

var (
	_ providers.BatchRunner = (*Pool)(nil)
	_ providers.BatchRunner = (*Conn)(nil)
	_ providers.BatchRunner = (*Tx)(nil)
)

var (
	errSimpleProtocol = &notSentError{fmt.Errorf("pgkeel: RunBatch: %w by the simple protocol, which cannot send ahead; "+
		"use default_query_exec_mode=exec, or SendBatch", errors.ErrUnsupported)}
	errTxFailed = &notSentError{errors.New("pgkeel: RunBatch: a statement failed earlier in this transaction; " +
		"roll it back, or use a savepoint around what may fail")}
	errTxOptionsInTx = &notSentError{errors.New("pgkeel: RunBatch: a transaction is open already; " +
		"leave the transaction's options out, or give them to the one who begins it")}
)

// RunBatch runs a stream of statements on a connection of the pool.
func (p *Pool) RunBatch(ctx context.Context, call *providers.BatchCall) error {
	scope, err := p.confined(ctx)
	if err != nil {
		return refuseBatch(call, err)
	}
	l, err := p.borrow(ctx, opBatch, scope.Gate)
	if err != nil {
		return refuseBatch(call, err)
	}
	return p.runBatch(ctx, statement{lease: l, owned: true}, call, scope.Settings)
}

// RunBatch runs a stream of statements. While a transaction is open on the
// connection, it is as if run there.
func (c *Conn) RunBatch(ctx context.Context, call *providers.BatchCall) error {
	if err := c.pool().within(ctx, c.confined); err != nil {
		return refuseBatch(call, err)
	}
	if err := c.enter(); err != nil {
		return refuseBatch(call, err)
	}
	return c.pool().runBatch(ctx, statement{lease: c.lease, use: &c.use}, call, c.confined)
}

// RunBatch runs a stream of statements in the transaction: a group of them, or
// each by itself, is a savepoint.
func (t *Tx) RunBatch(ctx context.Context, call *providers.BatchCall) error {
	ctx, cancel, err := t.enterPlain(ctx, opBatch)
	if err != nil {
		return refuseBatch(call, err)
	}
	return t.root.pool.runBatch(ctx, t.statement(cancel, "", nil), call, t.root.confined)
}

// refuseBatch ends a batch of which nothing was sent.
func refuseBatch(call *providers.BatchCall, err error) error {
	call.Report.Fail(&providers.BatchError{Operation: providers.BatchConnection, Result: providers.OutcomeNotSent, Err: err})
	return call.Report.Err()
}

func (p *Pool) runBatch(ctx context.Context, st statement, call *providers.BatchCall, scope []providers.Setting) (err error) {
	defer st.end()
	ctx, f := p.startHook(ctx, providers.EventBatch, "", st.lease.s.pid)
	err = errPanicked // until the application's code came back
	defer func() { f.End(int64(len(call.Report.States)), err) }()
	if err := p.canRunBatch(ctx, st.lease.conn(), call); err != nil {
		return refuseBatch(call, err)
	}
	o, behind := p.beginOrder(ctx, st.lease.s, opBatch)
	if behind != nil {
		return refuseBatch(call, behind)
	}
	defer func() { o.tell(ctx, err) }()
	s := newStream(ctx, p, st.lease, call)
	s.confine(scope)
	defer s.close()
	s.run()
	s.close() // it has a say in the report
	s.recycle(s)
	return call.Report.Err()
}

func (p *Pool) canRunBatch(ctx context.Context, conn *pgx.Conn, call *providers.BatchCall) error {
	status := conn.PgConn().TxStatus()
	switch {
	case ctx.Err() != nil:
		return &notSentError{p.mapError(ctx, opBatch, ctx.Err())}
	case sessionOf(conn).config.DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol:
		return errSimpleProtocol
	case status == 'E':
		return errTxFailed
	case status != 'I' && pgxTxOptions(call.Tx) != pgx.TxOptions{}:
		return errTxOptionsInTx
	}
	return nil
}

// stream is a batch on its way: statements go out ahead of their results, on one
// goroutine, which sends as long as what is under way fits into a window, and
// then reads until half of that is free. A window fits into the buffers of the
// sockets, so that writing never waits for a server which itself waits for
// somebody to read.
type stream struct {
	ctx    context.Context //nolint:containedctx // that of the batch, which the stream is
	pool   *Pool
	lease  lease
	call   *providers.BatchCall
	report *providers.BatchReport
	*buffers
	describer // known is nil where nothing is described
	trace     batchTrace
	// inTx says that the batch runs in a transaction of the caller's.
	inTx bool
	// confined says that it runs in a scope. scopeSQL makes the settings of the scope, which each group begins with;
	// empty without one. ownBlock says that they can change what names mean, so
	// that a group needs a transaction of its own.
	confined  bool
	scopeSQL  string
	scopeArgs [][]byte
	ownBlock  bool

	// What was read from the source, and what is still to come.

	peeked    *pgx.QueuedQuery
	exhausted bool
	sourceErr error

	// What is under way, besides the flights.

	// group takes the statements that are being sent.
	group *group
	// skipping says that the server skips what comes up to the next Sync.
	skipping bool
	// held are statements that did not run as their plan was stale, and may be
	// sent again.
	held []*batchItem
	// marked says that the savepoint exists.
	marked bool

	// How it ended.

	stopped, lost, closed bool
}

func newStream(ctx context.Context, p *Pool, l lease, call *providers.BatchCall) *stream {
	s := &stream{ctx: ctx, pool: p, lease: l, describer: describer{conn: l.conn()}, call: call, report: &call.Report}
	s.buffers = bufferPool.Get().(*buffers)
	s.inTx = s.conn.PgConn().TxStatus() != 'I'
	s.known = descriptionsOf(l.s)
	s.trace.batch = l.s.config.Tracer.(*tracer).batch
	s.pipe = s.conn.PgConn().StartPipeline(l.s.watch(ctx))
	return s
}

// confine has each group begin with the settings of a scope. A transaction of the
// caller's has made them.
func (s *stream) confine(scope []providers.Setting) {
	if len(scope) == 0 {
		return
	}
	s.confined = true
	if s.inTx {
		return
	}
	var args []any
	s.scopeSQL, args = settingsSQL(scope, nil)
	for _, a := range args {
		s.scopeArgs = append(s.scopeArgs, []byte(a.(string)))
	}
	s.ownBlock = changesMeaning(scope, nil)
}

// run sends and reads until all is over.
func (s *stream) run() {
	for !s.over() {
		chunk := s.read()
		if len(chunk) == 0 {
			break
		}
		s.trace.start(s, chunk)
		s.describe(chunk)
		for _, it := range chunk {
			if s.over() {
				break
			}
			s.put(it)
		}
		if !s.exhausted {
			s.flush() // the source may take its time
		}
	}
	if g := s.group; g != nil && (s.sourceErr != nil || s.over()) {
		g.failed = true // a part of it is missing
	}
	s.endGroup()
	s.drain()
	s.resend()
	s.letGo()
	s.unmark()
	s.complain()
}

// over reports whether nothing more is to be sent.
func (s *stream) over() bool { return s.lost || s.stopped || s.ctx.Err() != nil }

// complain reports what ended the batch before its time.
func (s *stream) complain() {
	switch {
	case s.sourceErr != nil:
		s.failAt(len(s.report.States), providers.BatchSource, s.sourceErr)
	case s.lost, s.stopped, s.ctx.Err() == nil, s.exhausted && s.attemptedAll():
	default:
		s.failAt(s.firstLeftOut(), providers.BatchContext, s.pool.mapError(s.ctx, opBatch, s.ctx.Err()))
	}
}

func (s *stream) failAt(index int, operation string, err error) {
	s.report.Fail(&providers.BatchError{
		Index: index, Last: index, Operation: operation, Result: providers.OutcomeNotSent, Err: err,
	})
}

func (s *stream) attemptedAll() bool { return s.firstLeftOut() == len(s.report.States) }

func (s *stream) firstLeftOut() int {
	for i, state := range s.report.States {
		if state == providers.BatchNotAttempted {
			return i
		}
	}
	return len(s.report.States)
}

// close leaves the connection as it was, also when code of the application
// panicked in the middle of it.
func (s *stream) close() {
	if s.closed {
		return
	}
	s.closed = true
	if !s.lost && (s.flights.len() > 0 || s.group != nil) {
		s.recover()
	}
	_ = s.pipe.Close() // what it could say is known
	s.lease.unwatch()  // what follows must happen although the context ended
	s.trace.end(s)
	pg := s.conn.PgConn()
	undo := ""
	switch {
	case pg.IsClosed():
	case !s.inTx && pg.TxStatus() != 'I':
		undo = controlSQL[ctlRollback]
	case s.inTx && s.marked:
		undo = controlSQL[ctlBack] + "; " + controlSQL[ctlRelease]
	}
	if undo == "" {
		return
	}
	ctx, cancel := detached(s.ctx)
	defer cancel()
	if _, err := s.conn.Exec(ctx, undo); err != nil && pg.TxStatus() != 'E' { // in which nobody can commit
		_ = s.conn.Close(ended()) // rolls back as well
	}
}

// recover reads what is under way behind a panic, without any more callbacks.
func (s *stream) recover() {
	for _, f := range s.flights.all() {
		if f.item != nil {
			f.item.fn = nil
		}
	}
	if g := s.group; g != nil {
		s.group = nil
		if g.frame == frameImplicit {
			s.control(ctlRollback, g)
		}
		s.sync(g, false)
	}
	s.drain()
}

// batchTrace tells the user's tracer of pgx, which pgx itself does not here.
type batchTrace struct {
	batch pgx.BatchTracer
	ctx   context.Context //nolint:containedctx // carried from the tracer's start to its end
}

// start tells of the first statements: how many there will be is not known.
func (t *batchTrace) start(s *stream, chunk []*batchItem) {
	if t.batch == nil || t.ctx != nil {
		return
	}
	b := &pgx.Batch{}
	for _, it := range chunk {
		b.Queue(it.sql, it.args...)
	}
	t.ctx = t.batch.TraceBatchStart(s.ctx, s.conn, pgx.TraceBatchStartData{Batch: b})
}

func (t *batchTrace) query(s *stream, it *batchItem, tag pgconn.CommandTag, err error) {
	if t.ctx != nil {
		t.batch.TraceBatchQuery(t.ctx, s.conn, pgx.TraceBatchQueryData{SQL: it.sql, Args: it.args, CommandTag: tag, Err: err})
	}
}

func (t *batchTrace) end(s *stream) {
	if t.ctx != nil {
		t.batch.TraceBatchEnd(t.ctx, s.conn, pgx.TraceBatchEndData{Err: s.report.Err()})
	}
}
