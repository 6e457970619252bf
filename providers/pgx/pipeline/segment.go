package pipeline

import (
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// op is one statement on the wire: an Execute, or a Describe alone.
type op struct {
	// req is whose it is; nil for settings, and for what was moved elsewhere.
	req *request
	// setter is the statement that makes settings for the one behind it; nil for
	// others.
	setter *statement
	// prepares is the statement that is prepared ahead of it, prepared that the
	// server has done so.
	prepares *statement
	prepared bool
	// bound says that the server has taken the arguments.
	bound bool
}

// segment is what stands between two Syncs: one implicit transaction. Something
// that may write, or has settings, is alone in its segment; reads share one.
type segment struct {
	ops  []op
	size int
	sent time.Duration
	// limits says that it sets the session's statement_timeout, and nothing else.
	limits bool
	// last says that it ends a flush.
	last bool
	// at is the op that the server works on. It is the reader's.
	at int
	// unreplicated says that the commit stopped waiting for its synchronous standby.
	unreplicated bool
	// err is the server's error, which skipped everything behind at.
	err *pgconn.PgError
}

// current is the op that the next message is about, or nil at the end.
func (s *segment) current() *op {
	if s.at < len(s.ops) {
		return &s.ops[s.at]
	}
	return nil
}

// reset readies a segment to be used again.
func (s *segment) reset() {
	clear(s.ops)
	*s = segment{ops: s.ops[:0]}
}

// append adds a request to the segment and its bytes to out.
func (c *conn) append(out []byte, seg *segment, r *request) []byte {
	if len(r.settings) > 0 {
		out = c.appendSettings(out, seg, r.settings)
	}
	seg.size += r.size
	switch r.kind {
	case kindPing:
		seg.ops = append(seg.ops, op{req: r})
		return out
	case kindDescribe:
		seg.ops = append(seg.ops, op{req: r})
		return appendPrepare(out, r.statement)
	default:
		return c.appendExec(out, seg, op{req: r}, r.statement, r.bind)
	}
}

// limited reports whether the session's statement_timeout serves a request. It
// is the backstop for a caller who gave up, so up to twice the time will do;
// calls with about the same deadline then need no setting between them.
func (c *conn) limited(r *request) bool {
	switch {
	case r.kind == kindPing || r.ownLimit:
		return true
	case c.limit == limitUnknown:
		return false
	case r.limit == 0 || c.limit == 0:
		return r.limit == c.limit
	default:
		return r.limit <= c.limit && c.limit <= 2*r.limit
	}
}

// limitUnknown is a session's statement_timeout after it could not be set: to
// set it is subject to the one in force, too.
const limitUnknown = -1

// appendLimit adds a segment that sets the session's statement_timeout. In one
// of its own it holds whether the next statement fails or not.
func (c *conn) appendLimit(out []byte, seg *segment, r *request) []byte {
	c.limit = r.limit
	value := c.session.StatementTimeout
	if r.limit > 0 {
		value = r.limit
	}
	s := c.engine.limiter
	seg.limits = true
	return c.appendExec(out, seg, op{setter: s}, s, appendTextBind(nil, s.name, []string{strconv.FormatInt(value, 10)}))
}

// appendSettings adds the statement that makes settings, names and values in
// turns.
func (c *conn) appendSettings(out []byte, seg *segment, settings []string) []byte {
	s := c.engine.setters[len(settings)/2]
	return c.appendExec(out, seg, op{setter: s}, s, appendTextBind(nil, s.name, settings))
}

// appendExec adds a statement, prepared first where this connection has not.
func (c *conn) appendExec(out []byte, seg *segment, o op, s *statement, bind []byte) []byte {
	if _, known := c.prepared[s]; !known {
		c.prepared[s] = struct{}{}
		o.prepares = s
		out = appendPrepare(out, s)
	}
	seg.ops = append(seg.ops, o)
	out = append(out, bind...)
	return appendExecute(out)
}

// statementTimeout is PostgreSQL's parameter.
const statementTimeout = "statement_timeout"

// groupOf is how many requests at the head of the queue can share a segment.
func (c *conn) groupOf(queue []*request) int {
	if !c.readOnly || queue[0].alone() {
		return 1
	}
	n := 1
	for n < len(queue) && n < c.engine.opts.MaxGroup && !queue[n].alone() && c.limited(queue[n]) {
		n++
	}
	return n
}
