package pgx

import (
	"errors"
	"math"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// flight is something that was sent and whose answer was not read yet: a
// statement of the batch, one of its own (control), or else a Sync.
type flight struct {
	item    *batchItem
	group   *group
	size    int32
	control control
	// last says that a Sync ends its group.
	last bool
}

// flights are what is under way, the oldest first.
type flights struct {
	queue []flight
	head  int
	// unsent is how many of the newest wait in the buffer of the connection.
	unsent int
	// items and bytes are how many statements there are, and how large.
	items, bytes int
}

func (q *flights) push(f flight) {
	if q.head > len(q.queue)/2 { // in a stream without an end it is never empty
		rest := copy(q.queue, q.queue[q.head:])
		clear(q.queue[rest:])
		q.queue, q.head = q.queue[:rest], 0
	}
	q.queue = append(q.queue, f)
	q.unsent++
	if f.item != nil {
		q.items++
		q.bytes += int(f.size)
	}
}

func (q *flights) pop() flight {
	f := q.queue[q.head]
	q.queue[q.head] = flight{}
	q.head++
	if q.head == len(q.queue) {
		q.queue, q.head = q.queue[:0], 0
	}
	if f.item != nil {
		q.items--
		q.bytes -= int(f.size)
	}
	return f
}

func (q *flights) len() int      { return len(q.queue) - q.head }
func (q *flights) all() []flight { return q.queue[q.head:] }

// put sends a statement as the next of its group.
func (s *stream) put(it *batchItem) {
	if len(s.held) > 0 {
		s.drain()
		s.resend()
	}
	if s.group == nil {
		s.group = s.newGroup(it)
	}
	g := s.group
	g.n++
	if !g.failed {
		it.group = g
		s.send(it)
	}
	if s.call.Group > 0 && g.n == s.call.Group {
		s.endGroup()
	}
}

// send sends a statement of a group in which nothing has failed.
func (s *stream) send(it *batchItem) {
	g, d := it.group, it.described
	if d != nil && d.dropped && g.frame == frameSync {
		s.describeAgain([]*batchItem{it})
		d = it.described
	}
	if d != nil && d.err != nil && !s.lost {
		s.open(g)
		s.describeNow(it) // what it needs may be there by now
		if g.failed || it.described.err != nil {
			return
		}
	}
	if s.lost {
		return
	}
	size, err := s.encode(it)
	if err != nil {
		s.failUnsent(it, err)
		return
	}
	s.makeRoom(size)
	if len(s.held) > 0 {
		s.drain()
		s.resend()
		s.send(it) // they used the encoder
		return
	}
	if g.failed || s.lost {
		return
	}
	s.open(g)
	s.emit(it)
	s.flights.push(flight{item: it, group: g, size: int32(min(size, math.MaxInt32))}) //nolint:gosec // bounded
	if g.frame == frameSync {
		s.sync(g, true)
	}
}

// The bytes of a statement's messages besides its arguments, and besides each
// argument.
const (
	messageSize = 48
	perArgument = 6
)

// encode readies a statement's arguments and returns the size of its messages.
func (s *stream) encode(it *batchItem) (int, error) {
	if it.refused != nil {
		return 0, it.refused
	}
	var sd *pgconn.StatementDescription
	size := messageSize
	if it.described != nil {
		sd = it.described.sd
	}
	if sd != nil && len(sd.ParamOIDs) != len(it.args) {
		return 0, argumentCount(len(sd.ParamOIDs), len(it.args))
	}
	if err := s.eqb.Build(s.conn.TypeMap(), sd, it.args); err != nil {
		return 0, s.mapped(err)
	}
	if sd == nil || sd.Name == "" {
		size += len(it.sql)
	}
	for _, v := range s.eqb.ParamValues {
		size += perArgument + len(v)
	}
	return size, nil
}

// emit puts an encoded statement into the connection's buffer.
func (s *stream) emit(it *batchItem) {
	d := it.described
	switch {
	case d == nil:
		s.lease.s.soil(it.sql)
		s.pipe.SendQueryParams(it.sql, s.eqb.ParamValues, nil, s.eqb.ParamFormats, nil)
		return
	case d.sd.Name == "":
		s.pipe.SendQueryParams(it.sql, s.eqb.ParamValues, d.sd.ParamOIDs, s.eqb.ParamFormats, d.formats)
	default:
		s.pipe.SendQueryStatement(d.sd, s.eqb.ParamValues, s.eqb.ParamFormats, d.formats)
	}
	s.lease.s.dirt |= d.effects.Left()
}

// makeRoom reads results until a statement of that size fits into the window.
// Reading half of it at a time leaves the server something to do meanwhile.
func (s *stream) makeRoom(size int) {
	q := &s.flights
	if q.items == 0 || q.items < s.call.MaxStatements && q.bytes+size <= s.call.MaxBytes {
		return
	}
	s.flush()
	items, bytes := s.call.MaxStatements/2, min(s.call.MaxBytes/2, s.call.MaxBytes-size)
	for !s.lost && q.items > 0 && (q.items > items || q.bytes > bytes) {
		s.readOne()
	}
}

// control sends a statement of the batch's own.
func (s *stream) control(c control, g *group) {
	if s.skipping {
		return
	}
	sql := controlSQL[c]
	if c == ctlBegin {
		sql = s.beginSQL()
	}
	var args [][]byte
	if c == ctlScope {
		sql, args = s.scopeSQL, s.scopeArgs
	}
	s.pipe.SendQueryParams(sql, args, nil, nil, nil)
	s.flights.push(flight{control: c, group: g})
}

// sync ends what is under one transaction or, inside of one, what an error
// skips. last says that the group is over.
func (s *stream) sync(g *group, last bool) {
	s.skipping = false
	s.pipe.SendPipelineSync()
	s.flights.push(flight{group: g, last: last})
}

// flush has the connection write what is in its buffer.
func (s *stream) flush() {
	q := &s.flights
	if s.lost || q.unsent == 0 {
		return
	}
	if newest := q.queue[len(q.queue)-1]; newest.item != nil || newest.control != ctlNone {
		s.pipe.SendFlushRequest() // or the server would keep its answers
	}
	err := s.pipe.Flush()
	if err != nil {
		if !pgconn.SafeToRetry(err) {
			q.unsent = 0 // a part of it may have arrived
		}
		s.lose(err, nil)
		return
	}
	q.unsent = 0
}

// drain reads everything that is under way.
func (s *stream) drain() {
	s.flush()
	for !s.lost && s.flights.len() > 0 {
		s.readOne()
	}
}

// readOne reads the answer to what was sent first.
func (s *stream) readOne() {
	f := s.flights.pop()
	switch {
	case f.item != nil:
		s.readItem(f)
	case f.control != ctlNone:
		s.readControl(f)
	default:
		s.readSync(f)
	}
}

var errProtocol = errors.New("pgkeel: the server's answers do not fit what was sent")

// result reads the answer to a statement. An error of the server's that leaves
// the connection alive is ok.
func (s *stream) result() (rr *pgconn.ResultReader, err error, ok bool) { //nolint:revive // err is a value here, ok its judgement
	answer, err := s.pipe.GetResults()
	if err != nil {
		return nil, err, isAlive(err)
	}
	rr, ok = answer.(*pgconn.ResultReader)
	if !ok {
		err = errProtocol
	}
	return rr, err, ok
}

// isAlive reports whether an error leaves the connection alive: an ordinary one
// of the server's.
func isAlive(err error) bool {
	pg := providers.NewPGError(err)
	return pg != nil && pg.Severity == "ERROR"
}

func (s *stream) readItem(f flight) {
	rr, err, ok := s.result()
	if !ok {
		s.lose(err, &f)
		return
	}
	if err != nil && s.hold(f, err) {
		return
	}
	s.letGo()
	tag, err, failure := s.deliver(f, rr, err)
	s.trace.query(s, f.item, tag, err)
	switch {
	case err != nil && !isAlive(err):
		s.lose(err, &f)
	case err != nil:
		s.failItem(f, err, failure)
	case failure != nil:
		s.failCallback(f, failure)
	default:
		s.report.States[f.item.index] = providers.BatchOK
		f.group.rows += tag.RowsAffected()
	}
}

// deliver gives a result to the statement's callback, which may also hear of an
// error, and reads it to its end. failure is the callback's own.
func (s *stream) deliver(f flight, rr *pgconn.ResultReader, err error) (tag pgconn.CommandTag, _, failure error) {
	if f.item.fn != nil && (s.isolated() || !f.group.failed) {
		failure = s.callBack(f.item, rr, err)
	}
	if rr != nil {
		tag, err = rr.Close()
	}
	return tag, err, failure
}

// callBack calls a statement's callback. Should it panic, the rest of the result
// is taken out of the way.
func (s *stream) callBack(it *batchItem, rr *pgconn.ResultReader, err error) error {
	returned := false
	defer func() {
		if returned {
			return
		}
		if rr != nil {
			_, err = rr.Close()
		}
		switch {
		case err == nil:
		case isAlive(err):
			s.skip()
		default:
			s.lost = true
		}
	}()
	failure := it.fn(&itemResults{s: s, rr: rr, err: err})
	returned = true
	return failure
}

// failItem notes that a statement failed on the server, which then skips what
// follows up to the next Sync.
func (s *stream) failItem(f flight, err, failure error) {
	mapped := s.mapped(err)
	if failure != nil && errors.Is(failure, err) {
		mapped = failure // the callback may have had something to add
	}
	s.forget(f.item, err)
	s.fail(f.item, providers.BatchStatement, providers.OutcomeOf(mapped), mapped)
	s.skip()
}

// failCallback notes that a callback failed, whose statement succeeded.
func (s *stream) failCallback(f flight, failure error) {
	result := providers.OutcomeRolledBack
	if s.isolated() {
		result = providers.OutcomeCommitted
		if s.inTx {
			result = providers.OutcomeUnknown // it is the transaction's
		}
	}
	s.fail(f.item, providers.BatchCallback, result, failure)
}

// failUnsent notes that a statement could not be sent.
func (s *stream) failUnsent(it *batchItem, err error) {
	s.fail(it, providers.BatchStatement, providers.OutcomeNotSent, err)
}

func (s *stream) fail(it *batchItem, operation string, result providers.Outcome, err error) {
	s.report.States[it.index] = providers.BatchFailed
	s.report.Fail(&providers.BatchError{
		Index: it.index, Last: it.index, SQL: it.queued.SQL, Operation: operation, Result: result, Err: err,
	})
	if it.group.frame != frameSync {
		it.group.failed = true
	}
	s.failedOnce()
}

// failedOnce stops the sending where the first failure is to do so.
func (s *stream) failedOnce() {
	if s.call.StopOnError || s.call.Group == 0 {
		s.stopped = true
	}
}

// skip drops what the server skips behind an error: they were not attempted.
func (s *stream) skip() {
	for s.flights.len() > 0 {
		if next := s.flights.all()[0]; next.item == nil && next.control == ctlNone {
			return
		}
		s.flights.pop()
	}
	s.skipping = true // the Sync is still to be sent
}

func (s *stream) readControl(f flight) {
	rr, err, ok := s.result()
	if ok && err == nil {
		var tag pgconn.CommandTag
		if tag, err = rr.Close(); err == nil {
			s.controlled(f, tag.String())
			return
		}
		ok = isAlive(err)
	}
	if !ok {
		s.lose(err, &f)
		return
	}
	s.failControl(f, err)
	s.skip()
}

func (s *stream) readSync(f flight) {
	answer, err := s.pipe.GetResults()
	var atCommit error
	if err != nil && isAlive(err) { // a deferred constraint, for one
		atCommit = err
		answer, err = s.pipe.GetResults()
	}
	if _, ok := answer.(*pgconn.PipelineSync); err == nil && !ok {
		err = errProtocol
	}
	if err != nil {
		s.lose(err, &f)
		return
	}
	s.synced(f, atCommit)
}

// hold keeps a statement that did not run because its plan was stale, to send it
// again. That is only done where nothing sent behind it has run meanwhile, and
// where each statement is by itself.
func (s *stream) hold(f flight, err error) bool {
	it := f.item
	if f.group.frame != frameSync || it.stale != nil || !isStale(s.conn, err, it.sql) {
		return false
	}
	it.stale = err
	s.forget(it, err)
	s.held = append(s.held, it)
	return true
}

func isStale(conn *pgx.Conn, err error, sql string) bool {
	if isRepeatable(conn, err, sql) {
		return true
	}
	// The application deallocated what was prepared. Its own EXECUTE fails alike.
	pg := providers.NewPGError(err)
	return pg != nil && pg.Code == "26000" && pg.Where == "" && !sqltext.Has(sql, "execute")
}

// letGo gives up the statements that are held: something behind them has run.
func (s *stream) letGo() {
	held := s.held
	s.held = nil
	for _, it := range held {
		err := it.stale
		_, _, failure := s.deliver(flight{item: it, group: it.group}, nil, err)
		mapped := s.mapped(err)
		if failure != nil && errors.Is(failure, err) {
			mapped = failure
		}
		s.fail(it, providers.BatchStatement, providers.OutcomeRolledBack, mapped)
	}
}

// resend sends the statements again that are held, in their order. Nothing is
// under way.
func (s *stream) resend() {
	if s.lost || s.ctx.Err() != nil || len(s.held) == 0 {
		return
	}
	again := s.held
	s.held = nil
	s.describeAgain(again)
	for _, it := range again {
		if s.lost {
			return
		}
		s.send(it)
	}
	s.drain()
}

// awaited is what a loss is told of: the first statement without an answer.
func (s *stream) awaited(f *flight) (first, last int, sql string) {
	all := s.flights.all()
	if f != nil {
		all = append([]flight{*f}, all...)
	}
	for _, f := range all {
		switch {
		case f.item != nil:
			return f.item.index, f.item.index, f.item.queued.SQL
		case f.group != nil:
			return f.group.first, f.group.first + f.group.n - 1, ""
		}
	}
	return len(s.report.States), len(s.report.States), ""
}

// lose notes that the connection is lost while f, if not nil, was awaited.
func (s *stream) lose(err error, f *flight) {
	s.lost = true
	if !s.conn.PgConn().IsClosed() {
		_ = s.conn.Close(ended())
	}
	first, last, sql := s.awaited(f)
	result := s.writeOff(f)
	s.group = nil
	s.report.Fail(&providers.BatchError{
		Index: first, Last: last, SQL: sql, Operation: providers.BatchConnection, Result: result, Err: s.mapped(err),
	})
}
