package pgx

import (
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// frame is what makes a transaction of a group.
type frame uint8

const (
	// frameSync is a Sync behind each statement, which the server commits at.
	frameSync frame = iota
	// frameImplicit is one Sync behind the group: what is between two of them is
	// one transaction. Only for groups without callbacks, which would run when
	// it is committed already.
	frameImplicit
	// frameExplicit is BEGIN, and COMMIT once every callback came back.
	frameExplicit
	// frameSavepoint is for groups inside a transaction.
	frameSavepoint
)

// group is statements that share a transaction.
type group struct {
	frame    frame
	first, n int
	// waits says that the callbacks have a say in how it ends.
	waits bool
	// sent says that it has begun, on the wire.
	sent bool
	// failed says that it must not be committed.
	failed bool
	// committing says that COMMIT was sent, committed that it was done.
	committing, committed bool
	// escaped says that the server's transaction ended by itself.
	escaped bool
	rows    int64
}

// batchSavepoint is the savepoint of groups inside a transaction,
// prepareSavepoint the one that guards it while statements are described.
const (
	batchSavepoint   = "pgkeel_batch"
	prepareSavepoint = "pgkeel_batch_prepare"
)

// control is a statement of a batch's own.
type control uint8

const (
	ctlNone control = iota
	ctlBegin
	ctlScope
	ctlCommit
	ctlRollback
	ctlSavepoint
	ctlBack
	ctlRelease
)

var controlSQL = [...]string{
	ctlCommit: "commit", ctlRollback: "rollback", ctlSavepoint: "savepoint " + batchSavepoint,
	ctlBack: "rollback to savepoint " + batchSavepoint, ctlRelease: "release savepoint " + batchSavepoint,
}

// isolated reports whether each statement is by itself.
func (s *stream) isolated() bool { return s.call.Group == 1 }

// newGroup begins a group with a statement, on this side of the wire.
func (s *stream) newGroup(it *batchItem) *group {
	g := &group{first: it.index}
	switch {
	case s.inTx:
		g.frame = frameSavepoint
		g.waits = !s.isolated()
	case s.ownBlock:
		g.frame = frameExplicit
	case s.isolated():
		g.frame = frameSync
	case s.isPlain(it):
		g.frame = frameImplicit
	default:
		g.frame = frameExplicit
	}
	// A group of which a part will be missing need not even begin.
	g.failed = s.sourceErr != nil && (s.call.Group == 0 || len(s.rest(it)) < s.call.Group)
	return g
}

// rest is what was read and not sent yet, from a statement on.
func (s *stream) rest(from *batchItem) []*batchItem { return s.chunk[from.index-s.chunk[0].index:] }

// isPlain reports whether the group that a statement begins is known to its end,
// and needs no more than an implicit transaction.
func (s *stream) isPlain(it *batchItem) bool {
	if pgxTxOptions(s.call.Tx) != (pgx.TxOptions{}) || s.sourceErr != nil {
		return false
	}
	rest := s.rest(it)
	if n := s.call.Group; n > 0 && len(rest) >= n {
		rest = rest[:n]
	} else if !s.exhausted {
		return false
	}
	for _, it := range rest {
		if it.fn != nil || it.block || it.commits && len(rest) > 1 {
			return false
		}
	}
	return true
}

// open begins a group on the wire.
func (s *stream) open(g *group) {
	if g.sent {
		return
	}
	g.sent = true
	switch g.frame {
	case frameExplicit:
		s.control(ctlBegin, g)
	case frameSavepoint:
		if !s.marked {
			s.marked = true
			s.control(ctlSavepoint, g)
		}
	case frameSync, frameImplicit:
	}
	if s.scopeSQL != "" {
		s.control(ctlScope, g)
	}
}

func (s *stream) beginSQL() string {
	var b pgx.Batch
	b.BeginTx(pgxTxOptions(s.call.Tx))
	return b.QueuedQueries[0].SQL
}

// endGroup ends the group that is being sent: it commits, or undoes it.
func (s *stream) endGroup() {
	g := s.group
	if g == nil {
		return
	}
	switch {
	case !g.sent || g.frame == frameSync:
		s.group = nil
	case g.frame == frameImplicit:
		if g.failed {
			// A Sync would commit what was sent. This aborts it, unless the
			// server has already.
			s.control(ctlRollback, g)
		}
		s.sync(g, true)
		s.group = nil
	default:
		s.endBlock(g)
	}
}

// endBlock ends a group in an explicit transaction or a savepoint.
func (s *stream) endBlock(g *group) {
	if g.waits || g.frame == frameExplicit {
		s.sync(g, false)
		s.drain()
	}
	s.group = nil
	switch {
	case s.lost:
	case s.ctx.Err() != nil:
		// The connection is being told to stop, so the transaction ends later.
		if !g.failed {
			g.failed = true
			s.failGroup(g, providers.BatchContext, providers.OutcomeRolledBack, s.mapped(s.ctx.Err()))
		}
		s.sync(g, true)
		s.drain()
	case g.frame == frameSavepoint:
		s.endSavepoint(g)
	case g.failed || g.escaped:
		if s.conn.PgConn().TxStatus() != 'I' { // else there is nothing to undo
			s.control(ctlRollback, g)
		}
		s.sync(g, true)
	default:
		g.committing = true
		s.control(ctlCommit, g)
		s.sync(g, true)
	}
}

// endSavepoint keeps what was done since the savepoint, or undoes it, without a
// look at the results. Where they are good, the savepoint is made anew behind
// them, and going back to it undoes nothing; where one is an error, the server
// skips that, and going back undoes all.
func (s *stream) endSavepoint(g *group) {
	if !g.failed {
		s.control(ctlRelease, g)
		s.control(ctlSavepoint, g)
	}
	s.sync(g, false)
	s.control(ctlBack, g)
	s.sync(g, true)
}

// unmark takes the savepoint away at the end of all.
func (s *stream) unmark() {
	if !s.marked || s.lost || s.ctx.Err() != nil || s.conn.PgConn().TxStatus() != 'T' {
		return
	}
	s.control(ctlRelease, nil)
	s.sync(nil, false)
	s.drain()
}

// controlled notes that a statement of the batch's own succeeded.
func (s *stream) controlled(f flight, tag string) {
	switch {
	case f.group == nil: // the savepoint's end
		s.marked = false
	case f.control != ctlCommit:
	case tag == "COMMIT":
		f.group.committed = true
	default:
		s.failControl(f, pgx.ErrTxCommitRollback)
	}
}

// failControl notes that a statement of the batch's own failed.
func (s *stream) failControl(f flight, err error) {
	g := f.group
	if g == nil {
		s.failAt(len(s.report.States), providers.BatchCommit, s.mapped(err))
		return
	}
	if f.control == ctlSavepoint {
		s.marked = false
	}
	if g.failed { // that is known, and this its consequence
		return
	}
	g.failed = true
	operation := providers.BatchCommit
	if f.control != ctlCommit {
		operation = providers.BatchBegin
		s.stopped = true // the next one would end alike
	}
	s.failGroup(g, operation, providers.OutcomeRolledBack, s.mapped(err))
}

// failGroup reports what went wrong with a group rather than a statement.
func (s *stream) failGroup(g *group, operation string, result providers.Outcome, err error) {
	s.report.Fail(&providers.BatchError{
		Index: g.first, Last: g.first + g.n - 1, Operation: operation, Result: result, Err: err,
	})
	s.failedOnce()
}

// synced notes that the server came to a Sync.
func (s *stream) synced(f flight, atCommit error) {
	g := f.group
	if g == nil {
		return
	}
	s.checkStatus(f)
	if !f.last {
		return
	}
	switch {
	case g.escaped:
		s.turn(g, providers.BatchUnknown)
	case atCommit != nil:
		s.failCommit(g, atCommit)
	case g.failed:
		s.turn(g, providers.BatchRolledBack)
	case s.unreplicated(g):
		s.turn(g, providers.BatchUnknown)
	default:
		s.report.RowsAffected += g.rows
	}
}

// unreplicated finds out a commit that stopped waiting for its synchronous standby.
func (s *stream) unreplicated(g *group) bool {
	if s.inTx {
		return false
	}
	err := s.lease.s.replicated(s.ctx, opBatch, nil)
	if err != nil {
		s.failGroup(g, providers.BatchCommit, providers.OutcomeUnknown, s.mapped(err))
	}
	return err != nil
}

// checkStatus finds out a statement that began or ended a transaction, which
// its text did not show.
func (s *stream) checkStatus(f flight) {
	g, outside := f.group, s.conn.PgConn().TxStatus() == 'I'
	fits := g.escaped
	switch {
	case s.inTx:
		fits = fits || !outside
	case g.frame == frameExplicit && !f.last:
		fits = fits || !outside || g.failed // BEGIN itself may have
	case g.frame == frameExplicit:
		fits = fits || outside || s.ctx.Err() != nil
	default:
		fits = fits || outside
	}
	if fits {
		return
	}
	g.escaped, g.failed, s.stopped = true, true, true
	s.failGroup(g, providers.BatchCommit, providers.OutcomeUnknown, providers.ErrBatchControl)
}

// failCommit notes that the server refused to commit at a Sync.
func (s *stream) failCommit(g *group, err error) {
	g.failed = true
	s.failGroup(g, providers.BatchCommit, providers.OutcomeRolledBack, s.mapped(err))
	s.turn(g, providers.BatchRolledBack)
	if g.frame == frameSync {
		s.report.States[g.first] = providers.BatchFailed
	}
}

// turn changes the state of what went well in a group.
func (s *stream) turn(g *group, to providers.BatchState) {
	states := s.report.States[g.first : g.first+g.n]
	for i, state := range states {
		if state == providers.BatchOK {
			states[i] = to
		}
	}
}

// writeOff settles what was under way when the connection was lost, and returns
// what became of what was awaited.
func (s *stream) writeOff(awaited *flight) providers.Outcome {
	all := s.flights.all()
	if awaited != nil {
		all = append([]flight{*awaited}, all...)
	}
	sent := all[:len(all)-s.flights.unsent]
	if s.inTx { // the transaction is lost with the connection
		s.turn(&group{n: len(s.report.States)}, providers.BatchRolledBack)
		s.turnSent(sent, func(*group) providers.BatchState { return providers.BatchRolledBack })
		return providers.OutcomeRolledBack
	}
	committing := map[*group]bool{}
	for _, f := range sent {
		if f.last && (f.group.frame != frameExplicit || f.group.committing) && !f.group.failed {
			committing[f.group] = true
		}
	}
	fate := func(g *group) providers.BatchState {
		switch {
		case g.committed:
			return providers.BatchOK
		case committing[g]:
			return providers.BatchUnknown
		default:
			return providers.BatchRolledBack
		}
	}
	for _, f := range all { // what ends a group may not be sent yet
		s.turn(f.group, fate(f.group))
	}
	if s.group != nil {
		s.turn(s.group, fate(s.group))
	}
	s.turnSent(sent, fate)
	switch {
	case len(sent) > 0:
		return stateOutcome[fate(sent[0].group)]
	case slices.Contains(s.report.States, providers.BatchRolledBack):
		return providers.OutcomeRolledBack
	default:
		return providers.OutcomeNotSent
	}
}

var stateOutcome = map[providers.BatchState]providers.Outcome{
	providers.BatchOK: providers.OutcomeCommitted, providers.BatchUnknown: providers.OutcomeUnknown,
	providers.BatchRolledBack: providers.OutcomeRolledBack,
}

// turnSent changes the state of what was sent and never answered.
func (s *stream) turnSent(sent []flight, fate func(*group) providers.BatchState) {
	for _, f := range sent {
		if f.item != nil {
			s.report.States[f.item.index] = fate(f.group)
		}
	}
}

func argumentCount(want, got int) error {
	return &notSentError{fmt.Errorf("pgkeel: expected %d arguments, got %d", want, got)}
}
