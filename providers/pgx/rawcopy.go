package pgx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

var (
	_ providers.RawCopier = (*Pool)(nil)
	_ providers.RawCopier = (*Conn)(nil)
	_ providers.RawCopier = (*Tx)(nil)
)

// copyWay is the direction of a COPY.
type copyWay struct{ preposition, stream, peer string }

var (
	copyIn  = copyWay{"from", "stdin", "reader"}
	copyOut = copyWay{"to", "stdout", "writer"}
)

// check refuses a statement that is not one COPY that way. The driver would wait
// for ever for data of one the other way, and run whatever else is in it.
func (w copyWay) check(sql string, nothing bool) error {
	var fault string
	switch {
	case nothing:
		fault = "the " + w.peer + " is nil"
	case strings.ContainsRune(sql, 0):
		fault = "the statement contains a NUL byte"
	case !w.matches(sql):
		fault = fmt.Sprintf("the statement must be a single COPY … %s %s", strings.ToUpper(w.preposition), strings.ToUpper(w.stream))
	default:
		return nil
	}
	return &notSentError{errors.New("pgkeel: copy: " + fault)}
}

func (w copyWay) matches(sql string) bool {
	first, previous, found, over := "", "", false, false
	for word := range sqltext.Words(sql) {
		switch {
		case word.Quoted:
			continue
		case over:
			return false // a second statement
		case word.Text == ";":
			over = true
			continue
		case first == "":
			first = word.Text
		}
		found = found || previous == w.preposition && word.Text == w.stream
		previous = word.Text
	}
	return first == "copy" && found
}

// streamError is an error of the caller's reader or writer that ended a COPY.
type streamError struct {
	way    copyWay
	cause  error
	server error
}

func (e *streamError) Error() string {
	return fmt.Sprintf("pgkeel: copy: the %s failed (%s): %v", e.way.peer, e.Outcome(), e.cause)
}

// Unwrap returns the caller's own error, and what the server said to it.
func (e *streamError) Unwrap() []error {
	if e.server == nil {
		return []error{e.cause}
	}
	return []error{e.cause, e.server}
}

// Outcome is what the server made of it. The cause may come from other work.
func (e *streamError) Outcome() providers.Outcome { return providers.OutcomeOf(e.server) }

// CopyFromReader runs a COPY … FROM STDIN with the data of r.
func (p *Pool) CopyFromReader(ctx context.Context, r io.Reader, sql string) (pgconn.CommandTag, error) {
	return p.rawCopy(ctx, &rawCopy{way: copyIn, sql: sql, from: r})
}

// CopyToWriter runs a COPY … TO STDOUT and writes its data to w.
func (p *Pool) CopyToWriter(ctx context.Context, w io.Writer, sql string) (pgconn.CommandTag, error) {
	return p.rawCopy(ctx, &rawCopy{way: copyOut, sql: sql, to: w})
}

func (p *Pool) rawCopy(ctx context.Context, c *rawCopy) (pgconn.CommandTag, error) {
	if err := c.check(); err != nil {
		return pgconn.CommandTag{}, err
	}
	if p.cfg.Scope != nil {
		return inScope(ctx, p, func(tx *Tx) (pgconn.CommandTag, error) { return tx.rawCopy(ctx, c) })
	}
	l, err := p.borrow(ctx, opCopy, nil)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer l.release()
	return c.run(ctx, l.s)
}

// CopyFromReader runs a COPY … FROM STDIN with the data of r.
func (c *Conn) CopyFromReader(ctx context.Context, r io.Reader, sql string) (pgconn.CommandTag, error) {
	return c.rawCopy(ctx, &rawCopy{way: copyIn, sql: sql, from: r})
}

// CopyToWriter runs a COPY … TO STDOUT and writes its data to w.
func (c *Conn) CopyToWriter(ctx context.Context, w io.Writer, sql string) (pgconn.CommandTag, error) {
	return c.rawCopy(ctx, &rawCopy{way: copyOut, sql: sql, to: w})
}

func (c *Conn) rawCopy(ctx context.Context, work *rawCopy) (pgconn.CommandTag, error) {
	if err := work.check(); err != nil {
		return pgconn.CommandTag{}, err
	}
	if c.pool().cfg.Scope != nil {
		return inScope(ctx, c, func(tx *Tx) (pgconn.CommandTag, error) { return tx.rawCopy(ctx, work) })
	}
	if err := c.enter(); err != nil {
		return pgconn.CommandTag{}, err
	}
	defer c.use.leave()
	return work.run(ctx, c.lease.s)
}

// CopyFromReader runs a COPY … FROM STDIN with the data of r.
func (t *Tx) CopyFromReader(ctx context.Context, r io.Reader, sql string) (pgconn.CommandTag, error) {
	return t.rawCopy(ctx, &rawCopy{way: copyIn, sql: sql, from: r})
}

// CopyToWriter runs a COPY … TO STDOUT and writes its data to w.
func (t *Tx) CopyToWriter(ctx context.Context, w io.Writer, sql string) (pgconn.CommandTag, error) {
	return t.rawCopy(ctx, &rawCopy{way: copyOut, sql: sql, to: w})
}

func (t *Tx) rawCopy(ctx context.Context, c *rawCopy) (pgconn.CommandTag, error) {
	if err := c.check(); err != nil {
		return pgconn.CommandTag{}, err
	}
	ctx, cancel, err := t.enterPlain(ctx, opCopy)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer t.leave(cancel)
	return c.run(ctx, t.root.lease.s)
}

// rawCopy is a COPY of the data of a reader, or to a writer.
type rawCopy struct {
	way  copyWay
	sql  string
	from io.Reader
	to   io.Writer
}

func (c *rawCopy) check() error { return c.way.check(c.sql, c.from == nil && c.to == nil) }

func (c *rawCopy) run(ctx context.Context, s *session) (tag pgconn.CommandTag, err error) {
	err = errPanicked // until the caller's reader or writer came back
	ctx, f := s.pool.startHook(ctx, providers.EventCopy, c.sql, s.pid)
	if f != nil {
		defer func() { f.End(tag.RowsAffected(), err) }()
	}
	o, behind := s.pool.beginOrder(ctx, s, opCopy)
	if behind != nil {
		return tag, behind
	}
	defer func() { o.tell(ctx, err) }()
	s.soil(c.sql)
	if c.way == copyIn {
		return c.read(ctx, s)
	}
	return c.write(ctx, s)
}

// read has the server take what the reader has.
func (c *rawCopy) read(ctx context.Context, s *session) (pgconn.CommandTag, error) {
	feed := newFeeder(ctx, c.from)
	s.copying = feed.stop
	tag, err := s.conn.PgConn().CopyFrom(ctx, feed, c.sql)
	s.copying = nil
	if panicked := feed.end(); panicked != nil {
		panic(panicked)
	}
	s.pool.doubtCopy(ctx, s.conn, err)
	err = s.pool.mapError(ctx, opCopy, err)
	if failure := feed.failure(); failure != nil && err != nil {
		err = &streamError{copyIn, failure, err}
	}
	return tag, err
}

// write hands what the server has to the writer.
func (c *rawCopy) write(ctx context.Context, s *session) (pgconn.CommandTag, error) {
	cut := false
	out := &drain{w: c.to, stop: func() { cut = s.pool.stopServer(ctx, s.conn) }}
	returned := false
	defer func() {
		if !returned { // the writer ended the goroutine in the middle of the driver
			_ = s.conn.Close(ended())
		}
	}()
	tag, err := s.conn.PgConn().CopyTo(ctx, out, c.sql)
	returned = true
	if out.err != nil && !isStopped(err) {
		s.retire() // the request to stop could still hit the next statement
	}
	if cut { // which the driver does not notice if it had read all there was
		_ = s.conn.Close(ended())
	}
	if out.panic != nil {
		panic(out.panic)
	}
	if !cut {
		s.pool.doubtCopy(ctx, s.conn, err)
	}
	err = s.pool.mapError(ctx, opCopy, err)
	if out.err != nil {
		err = &streamError{copyOut, out.err, err}
	}
	return tag, err
}

// drain hands data to the caller's writer until that fails. From then on it has
// the server stop and drops what still comes: an error returned to the driver
// would cost the connection.
type drain struct {
	w     io.Writer
	stop  func()
	err   error
	panic any
}

// Write never fails.
func (d *drain) Write(data []byte) (int, error) {
	if d.err == nil {
		if d.err = d.write(data); d.err != nil {
			d.stop()
		}
	}
	return len(data), nil
}

func (d *drain) write(data []byte) (err error) {
	defer func() {
		if r := recover(); r != nil {
			d.panic, err = r, errPanicked
		}
	}()
	n, err := d.w.Write(data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	return err
}

// heardError tells a COPY under way that the server refused its data.
func (s *session) heardError() {
	if s != nil && s.copying != nil {
		s.copying()
	}
}

// watchErrors has a COPY hear of the server's error at once. The driver would
// otherwise wait for a reader that blocks.
func watchErrors(config *pgx.ConnConfig) {
	decide := config.OnPgError
	config.OnPgError = func(pg *pgconn.PgConn, err *pgconn.PgError) bool {
		s, _ := pg.CustomData()[sessionKey].(*session)
		s.heardError()
		return decide == nil || decide(pg, err)
	}
}
