package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
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
