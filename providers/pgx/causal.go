package pgx

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// order is what the context of an operation holds it to, and what is known of it
// so far. A nil one asks for nothing.
type order struct {
	*providers.Causality
	s *session

	// reads says that the operation was declared to only read, parts that some of
	// its work can be there although it failed.
	reads, parts bool
	// passed says that the server has replayed what there was to come after.
	passed bool
	// pipe is what the statement is part of, until its end.
	pipe *pgconn.Pipeline
	// position is the server's behind the operation, if known.
	position providers.Position
	known    bool
}

// A statement that shares the gate's Sync shares its transaction. Where that has
// one snapshot for all of it, the gate would look after it was taken.
const (
	sharedSnapshot = `, (case when pg_catalog.pg_is_in_recovery()
		and pg_catalog.current_setting('transaction_isolation') not in ('read committed', 'read uncommitted')
		then 'pgkeel: the snapshot is older' else 'epoch' end)::pg_catalog.date`
	codeSharedSnapshot = "22007"
)

// orderOf is what the context holds an operation of the pool or of a connection to.
// What runs in a transaction is held to its, unless it is a statement that ends it.
func (p *Pool) orderOf(ctx context.Context, s *session, sql string) *order {
	c := providers.CausalityOf(ctx)
	if c == nil {
		return nil
	}
	d, inTx := p.classifier.classify(sql), s.conn.PgConn().TxStatus() != 'I'
	if inTx && !d.ControlTx() {
		return nil
	}
	return &order{
		Causality: c, s: s, passed: inTx || c.After == 0,
		reads: p.cfg.ReadOnly || providers.IsReadOnly(ctx), parts: d != d.Left(),
	}
}

// beginOrder is orderOf for an operation whose messages leave no room for others:
// the gate, and later the question for the position, take a round trip each.
func (p *Pool) beginOrder(ctx context.Context, s *session, op string) (*order, error) {
	o := p.orderOf(ctx, s, "")
	if o == nil {
		return nil, nil //nolint:nilnil // there is none
	}
	o.parts = true // of a batch
	return o, p.mapError(ctx, op, o.pass(ctx))
}

// pass has the server check the gate, in a round trip of its own. The text is a
// simple query, which every profile and mode of execution takes.
func (o *order) pass(ctx context.Context) error {
	if o == nil || o.passed {
		return nil
	}
	err := providers.Behind(o.s.conn.PgConn().Exec(ctx, gateSQL(o.After)).Close())
	o.passed = err == nil
	return err
}

func gateSQL(after providers.LSN) string { return providers.GateSQL("'" + after.String() + "'") }

// tell notes how the operation ended: err is nil, or says what became of it.
func (o *order) tell(ctx context.Context, err error) {
	if o == nil || o.Note == nil || errors.Is(err, providers.ErrBehind) {
		return
	}
	pg := o.s.conn.PgConn()
	if !pg.IsClosed() && pg.TxStatus() != 'I' {
		return // a transaction began, or goes on
	}
	matters := o.matters(err)
	if matters && !o.known {
		o.ask(ctx)
	}
	switch {
	case o.known:
		o.Note(o.position, true)
	case matters && !o.reads:
		o.Note(providers.Position{}, false)
	}
}

// matters reports whether the operation can have done or seen anything.
func (o *order) matters(err error) bool {
	switch providers.OutcomeOf(err) {
	case providers.OutcomeNotSent, providers.OutcomeRolledBack:
		return o.parts
	default:
		return true
	}
}

// ask asks for the position in a round trip of its own.
func (o *order) ask(ctx context.Context) {
	m := o.s.conn.PgConn().Exec(ctx, providers.PositionSQL)
	for m.NextResult() {
		o.read(m.ResultReader())
	}
	if err := m.Close(); err != nil {
		o.known = false
		_ = o.s.pool.mapError(ctx, opQuery, err) // which tells of trouble
	}
}

// read takes the position from an answer.
func (o *order) read(rr *pgconn.ResultReader) {
	var err error
	for rr.NextRow() {
		o.position, err = providers.ReadPosition(rr.Values())
		o.known = err == nil
	}
	if _, err := rr.Close(); err != nil {
		o.known = false
	}
}

// describe prepares, once for the connection, what the order adds to a flush.
func (o *order) describe(ctx context.Context) (err error) {
	w, pg := &o.s.scoped, o.s.conn.PgConn()
	if w.gate == nil && !o.passed {
		w.gate, err = pg.Prepare(ctx, "pgkeel_gate", providers.GateSQL("$1")+sharedSnapshot, nil)
	}
	if w.position == nil && o.Note != nil && err == nil {
		w.position, err = pg.Prepare(ctx, "pgkeel_position", providers.PositionSQL, nil)
	}
	return err
}

// sendOrdered sends the gate, the settings and the statement under one Sync, and
// behind it, since a commit is done only then, the question for the position. It
// reports false where it cannot, and nothing of the statement was run then.
func (p *Pool) sendOrdered(ctx context.Context, st *statement, scope []providers.Setting) (*pgconn.ResultReader, bool, error) {
	s, o := st.lease.s, st.order
	if !isShareable(st.sql) || o.parts || !o.passed && s.scoped.snapshots {
		return nil, false, nil
	}
	settings, d, err := p.ready(ctx, st, scope)
	if d != nil {
		err = o.describe(ctx)
	}
	if d == nil || err != nil {
		if !s.conn.PgConn().IsClosed() {
			err = nil // whoever sends it otherwise meets it again
		}
		return nil, false, err
	}
	w := &s.scoped
	o.pipe = s.conn.PgConn().StartPipeline(ctx)
	if !o.passed {
		o.pipe.SendQueryStatement(w.gate, [][]byte{[]byte(o.After.String())}, nil, nil)
	}
	if settings != nil {
		o.pipe.SendQueryStatement(settings, w.encode(scope), nil, nil)
	}
	o.pipe.SendQueryStatement(d.sd, w.eqb.ParamValues, w.eqb.ParamFormats, w.eqb.ResultFormats)
	o.pipe.SendPipelineSync()
	if o.Note != nil {
		// Not as a described statement: behind an error the driver would take the
		// description of one that was skipped.
		o.pipe.SendQueryPrepared(w.position.Name, nil, nil, nil)
		o.pipe.SendPipelineSync()
	}
	if err := o.pipe.Flush(); err != nil {
		_ = o.Close()
		return nil, true, err
	}
	s.dirt |= d.effects.Left()
	return o.answer(settings != nil)
}

// answer reads what comes ahead of the statement's result, and returns that.
func (o *order) answer(settings bool) (*pgconn.ResultReader, bool, error) {
	if !o.passed {
		err := providers.Behind(o.skip())
		if err != nil && !errors.Is(err, providers.ErrBehind) && isAlive(err) {
			o.withdraw(err)
			return nil, false, nil
		}
		if err != nil {
			return nil, true, err
		}
		o.passed = true
	}
	if settings {
		if err := o.skip(); err != nil {
			return nil, true, err
		}
	}
	answer, err := o.pipe.GetResults()
	rr, ok := answer.(*pgconn.ResultReader)
	if err == nil && !ok {
		err = errProtocol
	}
	return rr, true, err
}

// withdraw ends a flush whose gate could not be checked in it: the session has one
// snapshot for a transaction, or the server has forgotten the statement.
func (o *order) withdraw(why error) {
	_ = o.Close()
	o.known = false
	switch pg := providers.NewPGError(why); {
	case pg.Code == codeSharedSnapshot:
		o.s.scoped.snapshots = true
	case pg.IsStalePlan():
		o.s.scoped.gate = nil
	}
}

// skip reads a result of which only an error is of interest.
func (o *order) skip() error {
	answer, err := o.pipe.GetResults()
	if rr, ok := answer.(*pgconn.ResultReader); ok && err == nil {
		_, err = rr.Close()
	}
	return err
}

// Close reads what comes behind the statement's result. An error is one of the
// statement, whose commit can still fail, never one of the position.
func (o *order) Close() error {
	if o.pipe == nil {
		return nil
	}
	err := o.sync()
	if o.Note != nil && (err == nil || isAlive(err)) {
		answer, asking := o.pipe.GetResults()
		if rr, ok := answer.(*pgconn.ResultReader); ok && asking == nil {
			o.read(rr)
		}
		if pg := providers.NewPGError(asking); pg != nil && pg.IsStalePlan() {
			o.s.scoped.position = nil
		}
	}
	_ = o.pipe.Close()
	o.pipe = nil
	return err
}

// sync reads up to the statement's Sync, and returns the first error.
func (o *order) sync() (first error) {
	for {
		answer, err := o.pipe.GetResults()
		if first == nil {
			first = err
		}
		_, synced := answer.(*pgconn.PipelineSync)
		switch {
		case synced, err != nil && !isAlive(err):
			return first
		case err == nil && answer == nil:
			return errProtocol
		}
	}
}

// queryOrdered is queryOn for a statement that is held to an order.
func (p *Pool) queryOrdered(ctx context.Context, r *rows, st *statement, scope []providers.Setting, stale []string) (pgx.Rows, error) {
	r.start(ctx, st)
	defer r.failIfPanicking()
	r.running().scope = scope
	err := p.queryHeld(r, st, stale)
	if err != nil && !r.retry(err) {
		r.Close()
		return r, r.err
	}
	return r, nil
}

// queryHeld sends the statement behind its gate, and makes rows of its result.
func (p *Pool) queryHeld(r *rows, st *statement, stale []string) error {
	rr, sent, err := p.sendOrdered(r.ctx, st, r.running().scope)
	if sent {
		r.running().around = st.order
	} else if err == nil {
		err = st.order.pass(r.ctx)
	}
	switch {
	case err != nil:
		r.Rows = failedRows(err)
	case sent:
		r.Rows = pgx.RowsFromResultReader(st.lease.conn().TypeMap(), rr)
	case len(r.running().scope) > 0:
		err = p.querySettled(r, st, stale)
	default:
		r.Rows, err = st.lease.conn().Query(r.ctx, st.sql, st.args...)
	}
	return err
}

// execOrdered is execOn for a statement that is held to an order.
func (p *Pool) execOrdered(ctx context.Context, st *statement, scope []providers.Setting, stale []string) (tag pgconn.CommandTag, err error) {
	ctx, f := p.observe(ctx, providers.EventExec, st)
	if f != nil {
		err = errPanicked // until the statement came back
		defer func() { f.End(tag.RowsAffected(), err) }()
	}
	tag, err = p.execHeld(ctx, st, scope, stale)
	err = p.mapError(ctx, opExec, st.lease.s.replicated(ctx, opExec, err))
	st.order.tell(ctx, err)
	return tag, err
}

// execHeld sends the statement behind its gate, and reads its tag.
func (p *Pool) execHeld(ctx context.Context, st *statement, scope []providers.Setting, stale []string) (tag pgconn.CommandTag, err error) {
	rr, sent, err := p.sendOrdered(ctx, st, scope)
	if sent {
		if err == nil {
			tag, err = rr.Close()
		}
		if closeErr := st.order.Close(); err == nil {
			err = closeErr
		}
		st.lease.s.forgetStale(err)
		if err == nil || !isRepeatable(st.lease.conn(), err, st.sql) {
			return tag, err
		}
		st.order.known = false // it was that of the first attempt
	} else if err == nil {
		err = st.order.pass(ctx)
		if err != nil {
			return tag, err
		}
	}
	if len(scope) > 0 {
		return p.execWithin(ctx, st, scope, stale)
	}
	return st.exec(ctx)
}

// orderOfTx is what the context holds a transaction to that begins with it. What
// the context declares of its statements does not keep the transaction from writing.
func (p *Pool) orderOfTx(ctx context.Context, s *session, opts providers.TxOptions) *order {
	o := p.orderOf(ctx, s, "")
	if o != nil {
		o.reads = opts.Access == providers.ReadOnly || p.cfg.ReadOnly && opts.Access != providers.ReadWrite
	}
	return o
}

// beginOrdered is beginConfined behind the gate, which is checked in a transaction
// of its own: the snapshot of the one that begins is to be a later one. All of it
// is one flush, unless the transaction has a scope or a first statement.
func (p *Pool) beginOrdered(ctx context.Context, o *order, s *session, opts pgx.TxOptions, scope []providers.Setting, first *providers.Statement) (pgx.Tx, error) {
	if o == nil || o.passed || len(scope) > 0 || first != nil {
		if err := o.pass(ctx); err != nil {
			return nil, err
		}
		return p.beginConfined(ctx, s, opts, scope, first)
	}
	opts.BeginQuery = "begin; " + gateSQL(o.After) + "; commit; " + beginSQL(opts)
	tx, err := s.conn.BeginTx(ctx, opts)
	if err != nil && s.conn.PgConn().TxStatus() != 'I' {
		undo, cancel := detached(ctx)
		defer cancel()
		if _, undoing := s.conn.Exec(undo, "rollback"); undoing != nil {
			_ = s.conn.Close(ended())
		}
	}
	return tx, providers.Behind(err)
}

func beginSQL(opts pgx.TxOptions) string {
	sql := "begin"
	if opts.IsoLevel != "" {
		sql += " isolation level " + string(opts.IsoLevel)
	}
	for _, mode := range []string{string(opts.AccessMode), string(opts.DeferrableMode)} {
		if mode != "" {
			sql += " " + mode
		}
	}
	return sql
}

// orderOfCommit is that of the context that the transaction ends with, if it has
// one, else that of the one that it began with.
func (t *Tx) orderOfCommit(ctx context.Context) *order {
	c := providers.CausalityOf(ctx)
	if c == nil {
		return t.order
	}
	o := &order{Causality: c, s: t.lease.s, reads: t.pool.cfg.ReadOnly}
	if t.order != nil {
		o.reads = t.order.reads
	}
	return o
}

// asks reports whether the position is wanted in the flush of the COMMIT. A tracer
// of the user's is to see that as it is.
func (o *order) asks() bool { return o != nil && o.Note != nil && o.s.pool.cfg.Tracer == nil }

// commit has the server commit, behind the statements of before, and asks for the
// position in the same flush. Once COMMIT is answered, that is what counts,
// whatever becomes of the rest.
func (o *order) commit(ctx context.Context, before string) error {
	m := o.s.conn.PgConn().Exec(ctx, before+"commit; "+providers.PositionSQL)
	answer := ""
	for m.NextResult() {
		rr := m.ResultReader()
		if answer != "" {
			o.read(rr)
		} else if tag, err := rr.Close(); err == nil && tag.String() != "SET" {
			answer = tag.String()
		}
	}
	err := m.Close()
	switch answer {
	case "":
		return err
	case "COMMIT":
		return nil
	default:
		return pgx.ErrTxCommitRollback
	}
}

// undone notes a rollback: the transaction has written nothing, but may have read.
func (o *order) undone(ctx context.Context, err error) {
	if o != nil && err == nil {
		o.reads = true
		o.tell(ctx, nil)
	}
}
