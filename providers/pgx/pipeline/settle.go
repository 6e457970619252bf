package pipeline

import (
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// finish ends the segment that the server is done with.
func (c *conn) finish() {
	seg := c.seg
	c.seg = nil
	now := c.engine.now()
	c.noteRoundTrip(now - seg.sent)
	took := now - max(seg.sent, c.lastDone)
	served := now - max(seg.sent+time.Duration(c.roundTrip.Load()), c.lastDone)
	c.lastDone = now
	observe(&c.service, took)
	c.engine.passed.Add(1)
	var stale []*statement
	c.mu.Lock()
	seg.noteServed(took, max(served, 0))
	for i := range seg.ops {
		if replace := c.settle(seg, i); replace != nil {
			stale = append(stale, replace)
		}
	}
	c.bytes -= seg.size
	c.used = now
	c.suspect = max(0, c.suspect-1)
	c.inflight = append(c.inflight[:0], c.inflight[1:]...)
	if seg.last {
		c.flights--
	}
	if seg.limits && seg.err != nil {
		c.limit, c.suspect = limitUnknown, len(c.inflight)
	}
	c.headSince.Store(0)
	if len(c.inflight) > 0 {
		c.startHead(now)
	}
	seg.reset()
	c.free = append(c.free, seg)
	over := c.isOver()
	c.mu.Unlock()
	for _, s := range stale {
		c.engine.replace(s)
	}
	if over {
		// By another goroutine, since those that ended must be woken first.
		c.engine.start(c.retire)
	}
}

// settle ends the i-th statement of a segment. It returns the statement if its
// plan no longer fits.
func (c *conn) settle(seg *segment, i int) (stale *statement) {
	o := &seg.ops[i]
	if o.prepares != nil && !o.prepared {
		delete(c.prepared, o.prepares)
	}
	if o.setter != nil && i == seg.at && seg.err != nil && isStale(seg.err) {
		c.forgets(o.setter)
	}
	fields, other := c.returnsOthers(o)
	if other {
		stale = o.known()
		c.forgets(stale)
	}
	if o.req == nil {
		return stale
	}
	c.load.Add(-1)
	v, err := seg.verdictOf(i, c.readOnly)
	switch {
	case err == nil && other && c.readOnly:
		v = skipped // what is new may have another format
	case err == nil && other:
		o.req.fields = fields
	case err == nil:
	case c.suspect > 0 && err.Code == codeQueryCanceled:
		v, err = skipped, nil // by a limit that was not its own
	case o.req.kind != kindExec:
	case seg.failedSettings():
		if isStale(err) || o.req.ownLimit && err.Code == codeQueryCanceled {
			v, err = skipped, nil // its own limit was not in force yet: it was another's
		}
	case o.isEarly(err):
		v, stale = skipped, o.req.statement
		c.forgets(stale)
	case mayBeStale(err) || !o.bound && strings.HasPrefix(err.Code, "22"):
		o.req.statement.doubted.Store(true)
	}
	if o.req.statement != nil && o.req.statement.gone.Load() {
		c.forgets(o.req.statement) // it was driven out meanwhile
	}
	o.req.unreplicated = seg.unreplicated
	c.ended = c.end(c.ended, o.req, v, asError(err))
	return stale
}

// returnsOthers reports whether this connection prepared the statement of an op when
// it returned other columns than those that are known of it, and which.
func (c *conn) returnsOthers(o *op) ([]pgconn.FieldDescription, bool) {
	if len(c.others) == 0 {
		return nil, false
	}
	fields, other := c.others[o.known()]
	return fields, other
}

// known is the statement that is prepared or executed, if it is somebody's.
func (o *op) known() *statement {
	if o.req != nil && o.req.kind == kindExec {
		return o.req.statement
	}
	return o.prepares
}

// noteRoundTrip learns from an answer how long the way there and back takes: at most
// as long as the answer took. What was measured while connecting is often too long,
// as that is a busy time.
func (c *conn) noteRoundTrip(took time.Duration) {
	if int64(took) < c.roundTrip.Load() {
		c.roundTrip.Store(int64(took))
		c.engine.stats.roundTrip.Store(int64(took))
	}
}

// asError keeps a nil *PgError from becoming an error that is not nil.
func asError(pg *pgconn.PgError) error {
	if pg == nil {
		return nil
	}
	return pg
}

// noteServed adds to what is known of the segment's statements, once for several in a
// row that are the same. Each took its share of the time, with a round trip or without.
func (s *segment) noteServed(took, served time.Duration) {
	var last *statement
	for i := range s.ops {
		r := s.ops[i].req
		if r == nil || r.kind != kindExec {
			continue
		}
		if r.statement != last {
			last = r.statement
			observe(&last.service, took/time.Duration(len(s.ops)))
			approach(&last.usual, served/time.Duration(len(s.ops)))
		}
		if r.overflow {
			last.large.Store(true)
		}
	}
}

// verdictOf tells what became of the i-th statement of the segment. An error at
// its end is one of the commit, which is that of all.
func (s *segment) verdictOf(i int, readOnly bool) (verdict, *pgconn.PgError) {
	switch {
	case s.err == nil || i < s.at && s.at < len(s.ops):
		return answered, nil
	case s.at == len(s.ops) && len(s.ops) > 1 && readOnly:
		return skipped, nil // whose it is, only a run by itself can tell
	case i == s.at || s.at == len(s.ops) || s.failedSettings() && i == s.firstBehind():
		return answered, s.err
	default:
		return skipped, nil
	}
}

// failedSettings reports that settings failed, and not the statement behind them.
func (s *segment) failedSettings() bool { return s.at < len(s.ops) && s.ops[s.at].setter != nil }

// firstBehind is the first request behind settings that failed: they were its.
func (s *segment) firstBehind() int {
	i := s.at
	for i < len(s.ops) && s.ops[i].setter != nil {
		i++
	}
	return i
}

// forgets has the connection prepare a statement anew.
func (c *conn) forgets(s *statement) {
	delete(c.prepared, s)
	if !slices.Contains(c.forget, s.name) {
		c.forget = append(c.forget, s.name)
	}
}

// The SQLSTATEs of a prepared statement that is not there, there already, or does
// not fit the schema any more.
const (
	codeFeatureNotSupported = "0A000"
	codeNoStatement         = "26000"
	codeDuplicateStatement  = "42P05"
)

// codeProtocolViolation is also that of columns whose formats were not asked for.
const codeProtocolViolation = "08P01"

// codeQueryCanceled is the SQLSTATE of a statement that a limit ended.
const codeQueryCanceled = "57014"

func isStale(err *pgconn.PgError) bool {
	return err.Code == codeNoStatement || err.Code == codeDuplicateStatement ||
		err.Code == codeFeatureNotSupported && err.Routine == "RevalidateCachedQuery" && err.Where == ""
}

// isEarly reports an error from before a statement ran, due to what is known of it.
func (o *op) isEarly(err *pgconn.PgError) bool {
	return isStale(err) || !o.bound && err.Code == codeProtocolViolation || o.prepares != nil && !o.prepared && mayBeStale(err)
}

// mayBeStale reports an error that can be due to what was described, such as the
// types of arguments for columns that have others now. So can one of the class of
// wrong values, before they were taken. The caller has the error, and the next one
// has the statement described once more. A lack of privileges is not of that kind.
func mayBeStale(err *pgconn.PgError) bool {
	return strings.HasPrefix(err.Code, "42") && err.Code != codeInsufficientPrivilege
}

// codeInsufficientPrivilege is also that of a row that a policy refuses.
const codeInsufficientPrivilege = "42501"
