package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkeel/pgkeel/providers/pgx/decode"
)

// tellReader has the connection's goroutine read.
func (c *conn) tellReader() {
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// readWhenTold is the connection's goroutine. It rests while nothing is under
// way, or a caller reads by itself.
func (c *conn) readWhenTold() {
	for {
		select {
		case <-c.more:
			c.readOrAbort(context.Background(), nil, func() {})
		case <-c.dead:
			select {
			case <-c.more: // it was told, and nobody else reads
				c.abort()
			default:
			}
			return
		}
	}
}

// readOrAbort reads, and on an error ends the connection. It reports false when
// ctx ended first, in which case the role of the reader is still the caller's.
func (c *conn) readOrAbort(ctx context.Context, own *request, lift func()) bool {
	for {
		err := c.read(own, lift)
		switch {
		case err == nil:
			return true
		case !errors.Is(err, os.ErrDeadlineExceeded):
			c.fail(err)
			c.abort()
			return true
		case ctx.Err() != nil:
			return false
		}
		// The end of another caller's context interrupted this Read. That caller
		// is about to lift it.
		runtime.Gosched()
	}
}

// readAlone reads for the only request on the connection, on its caller's
// goroutine. What others send meanwhile is read as well, until the caller has
// its own result and leaves the rest to the connection's goroutine.
func (c *conn) readAlone(ctx context.Context, r *request) error {
	lift := c.interruptAt(ctx)
	finished := c.readOrAbort(ctx, r, lift)
	lift()
	if finished {
		<-r.wake
		return nil
	}
	c.mu.Lock()
	failed := c.err != nil
	if !failed {
		c.tellReader() // the answer, when it comes, is for the goroutine
	}
	c.mu.Unlock()
	if failed {
		c.abort()
	}
	return c.giveUp(ctx, r)
}

// interruptAt has the end of the context interrupt a Read. What it returns lifts
// that again, which is to be done before somebody else reads.
func (c *conn) interruptAt(ctx context.Context) func() {
	if ctx.Done() == nil {
		return func() {}
	}
	conn, set := c.session.Conn, make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		close(set)
	})
	return sync.OnceFunc(func() {
		if !stop() {
			<-set
			_ = conn.SetReadDeadline(time.Time{})
		}
	})
}

// read takes in answers until own has its result, or, for the connection's
// goroutine, until nothing is under way. It leaves the role of the reader,
// except with an error.
func (c *conn) read(own *request, lift func()) error {
	for {
		if err := c.takeIn(); err != nil {
			return err
		}
		c.wakeEnded()
		c.resume()
		if left, err := c.leaveReading(own, lift); left || err != nil {
			return err
		}
		if err := c.in.fill(c.session.Conn); err != nil {
			return err
		}
	}
}

// leaveReading ends the role of the reader, or hands it on.
func (c *conn) leaveReading(own *request, lift func()) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return false, c.err
	case own != nil && !own.done:
		return false, nil
	}
	lift()
	// What is queued will be sent by a writer who may not read.
	c.reading = len(c.inflight)+len(c.queue) > 0
	if own == nil {
		return !c.reading, nil
	}
	if c.reading {
		c.tellReader()
	}
	return true, nil
}

// wakeEnded wakes the callers whose requests ended.
func (c *conn) wakeEnded() {
	for i, r := range c.ended {
		c.ended[i] = nil
		r.wake <- struct{}{}
	}
	c.ended = c.ended[:0]
}

// takeIn handles every whole message that has arrived.
func (c *conn) takeIn() error {
	for {
		kind, body, ok, err := c.in.next(c.wantsRow)
		if err != nil || !ok {
			return err
		}
		if c.seg == nil {
			if c.seg, err = c.head(kind, body); err != nil {
				return err
			}
			if c.seg == nil {
				continue
			}
		}
		if err := c.handle(kind, body); err != nil {
			return err
		}
	}
}

// head is the segment that messages are about. There may be none: the server
// also says things unasked, such as that it shuts down.
func (c *conn) head(kind byte, body []byte) (*segment, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.inflight) > 0 {
		return c.inflight[0], nil
	}
	switch kind {
	case msgError:
		pg, err := serverError(body)
		if err != nil {
			return nil, err
		}
		return nil, pg
	case msgNotice, 'A', 'S': // notice, notification, parameter
		return nil, nil
	default:
		return nil, fmt.Errorf("message %q to no statement", kind)
	}
}

// wantsRow reports whether a row is to be kept.
func (c *conn) wantsRow(size int) bool {
	if c.seg == nil {
		return false
	}
	o := c.seg.current()
	if o == nil || o.req == nil {
		return false
	}
	limit := c.engine.opts.MaxResultBytes
	if !c.readOnly {
		limit *= writeFactor // it cannot be run again
	}
	return o.req.wants(size, limit)
}

// writeFactor is how many times more is kept of the result of something that
// may have written.
const writeFactor = 64

func (c *conn) handle(kind byte, body []byte) error {
	o := c.seg.current()
	switch kind {
	case msgReady:
		if len(body) != 1 || body[0] != 'I' {
			return fmt.Errorf("a statement left the session in transaction state %q", body)
		}
		c.finish()
		return nil
	case msgError:
		pg, err := serverError(body)
		if err != nil {
			return err
		}
		c.seg.err = pg
		if pg.SeverityUnlocalized == "FATAL" || pg.SeverityUnlocalized == "PANIC" {
			return pg // the session is over
		}
		return nil
	case msgNotice:
		return c.noteNotice(body)
	}
	if o == nil {
		return nil
	}
	switch kind {
	case msgParseComplete:
		o.prepared = true
	case msgBindComplete:
		o.bound = true
	case msgDataRow:
		if o.req != nil && body != nil {
			o.req.addRow(body)
		}
	case msgParameters:
		return o.describeParameters(body)
	case msgRowDescription, msgNoData:
		return c.describeRows(o, kind, body)
	case msgCommandComplete:
		if o.req != nil {
			o.req.tag = c.lastTag.tag(body)
		}
		c.seg.at++
	case msgEmptyQuery:
		c.seg.at++
	}
	return nil
}

// ReplicationWaits is the place in the server's source where a commit waits for its
// synchronous standby. What the server says from there is that it stopped to, and it
// then reports success.
const ReplicationWaits = "SyncRepWaitForLSN"

func (c *conn) noteNotice(body []byte) error {
	var msg pgproto3.NoticeResponse
	if err := msg.Decode(body); err != nil {
		return err
	}
	c.seg.unreplicated = c.seg.unreplicated || msg.Routine == ReplicationWaits
	return nil
}

func serverError(body []byte) (*pgconn.PgError, error) {
	var msg pgproto3.ErrorResponse
	if err := msg.Decode(body); err != nil {
		return nil, err
	}
	return pgconn.ErrorResponseToPgError(&msg), nil
}

// describeParameters notes what a statement that nobody knew takes.
func (o *op) describeParameters(body []byte) error {
	if o.req == nil || o.req.kind != kindDescribe {
		return nil
	}
	var msg pgproto3.ParameterDescription
	if err := msg.Decode(body); err != nil {
		return err
	}
	o.req.statement.paramOIDs = msg.ParameterOIDs
	return nil
}

// describeRows notes what a statement returns on this connection.
func (c *conn) describeRows(o *op, kind byte, body []byte) error {
	if o.setter != nil {
		return nil
	}
	var fields []pgconn.FieldDescription
	if kind == msgRowDescription {
		var msg pgproto3.RowDescription
		if err := msg.Decode(body); err != nil {
			return err
		}
		fields = decode.Fields(&msg)
	}
	switch {
	case o.prepares == nil && o.req != nil: // described, and nothing is executed
		o.req.fields = fields
		c.seg.at++
	case o.prepares != nil && o.prepares.returns(fields):
		delete(c.others, o.prepares)
	case o.prepares != nil:
		for i := range fields {
			fields[i].Format = o.prepares.formatOf(i)
		}
		c.others[o.prepares] = fields
	}
	return nil
}

// finish ends the segment that the server is done with.
func (c *conn) finish() {
	seg := c.seg
	c.seg = nil
	now := c.engine.now()
	c.noteRoundTrip(now - seg.sent)
	took := now - max(seg.sent, c.lastDone)
	c.lastDone = now
	observe(&c.service, took)
	c.engine.passed.Add(1)
	var stale []*statement
	c.mu.Lock()
	seg.noteServed(took)
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
	over := c.retired.Load() && c.load.Load() == 0
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
		if isStale(err) {
			v = skipped
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
// row that are the same. Each took its share of the time.
func (s *segment) noteServed(took time.Duration) {
	var last *statement
	for i := range s.ops {
		r := s.ops[i].req
		if r == nil || r.kind != kindExec {
			continue
		}
		if r.statement != last {
			last = r.statement
			observe(&last.service, took/time.Duration(len(s.ops)))
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

// tagCache saves the allocation of a command tag that is the same as the last.
type tagCache struct{ last pgconn.CommandTag }

func (c *tagCache) tag(body []byte) pgconn.CommandTag {
	if len(body) > 0 {
		body = body[:len(body)-1] // a NUL
	}
	if string(body) != c.last.String() {
		c.last = pgconn.NewCommandTag(string(body))
	}
	return c.last
}
