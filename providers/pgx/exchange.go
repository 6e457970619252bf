package pgx

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/pgx/decode"
)

// exchange is one flush of prepared statements under one Sync, settings and a
// statement behind them, and the reading of what the server answers. It uses the
// driver's buffers in place: the driver's own batches and pipelines, which do the
// same for any number of statements, cost as much as the rest of a short one.
type exchange struct {
	s   *session
	ctx context.Context //nolint:containedctx // that of the statement
	// pipe is a pipeline of the driver's in which nothing is queued: as long as it
	// is open, the connection is busy for everybody else.
	pipe *pgconn.Pipeline

	columns *decode.Columns
	// row is the row at hand; loaded says that it was read ahead of being asked for.
	row    [][]byte
	loaded bool
	tag    pgconn.CommandTag
	// answered says that the statement's result has ended, closed that the whole
	// answer has; more that results of other statements come in between.
	answered, closed, more bool
	// confined says that the session keeps to a scope until then only.
	confined bool
	err      error
}

// exchange sends settings and a described statement. Without rows, nobody will
// read the result. The end of the context is the session's to look after: the
// driver does so only up to the statement's own end, and a commit comes behind it.
func (s *session) exchange(ctx context.Context, settings *pgconn.StatementDescription, scope []providers.Setting, d *described, rows bool) *exchange {
	w, x := &s.scoped, s.openExchange(ctx)
	if rows {
		x.columns = d.columnsOn(s, w.eqb.ResultFormats)
	}
	if x.closed {
		return x
	}
	out := s.conn.PgConn().Frontend()
	if settings != nil {
		out.SendBind(&pgproto3.Bind{PreparedStatement: settings.Name, Parameters: w.encode(scope)})
		out.SendExecute(&pgproto3.Execute{})
	}
	out.SendBind(&pgproto3.Bind{
		PreparedStatement: d.sd.Name, Parameters: w.eqb.ParamValues,
		ParameterFormatCodes: w.eqb.ParamFormats, ResultFormatCodes: w.eqb.ResultFormats,
	})
	if rows && len(d.sd.Fields) == 0 {
		// Some statements have no columns before they run: FETCH, EXECUTE.
		out.SendDescribe(&pgproto3.Describe{ObjectType: 'P'})
	}
	out.SendExecute(&pgproto3.Execute{})
	out.SendSync(&pgproto3.Sync{})
	if err := out.Flush(); err != nil {
		x.lose(err)
		return x
	}
	if settings != nil {
		x.skip()
	}
	return x
}

// openExchange begins one. It is closed if the connection is, or busy, or the context
// has ended.
func (s *session) openExchange(ctx context.Context) *exchange {
	x := &s.scoped.exchange
	*x = exchange{s: s, ctx: ctx, pipe: s.conn.PgConn().StartPipeline(ctx)}
	if _, err := x.pipe.GetResults(); err != nil {
		x.err, x.answered, x.closed = err, true, true
	}
	return x
}

// columnsOn are the columns of the statement's result, with how they were read last,
// which holds as long as nobody could teach the connection other types.
func (d *described) columnsOn(s *session, formats []int16) *decode.Columns {
	if d.columns != nil && !s.retired.Load() && sameFormats(d.columns.Fields, formats) {
		return d.columns
	}
	d.columns = &decode.Columns{Types: s.conn.TypeMap(), Fields: make([]pgconn.FieldDescription, len(d.sd.Fields))}
	copy(d.columns.Fields, d.sd.Fields)
	for i := range d.columns.Fields {
		d.columns.Fields[i].Format = formats[i]
	}
	return d.columns
}

func sameFormats(fields []pgconn.FieldDescription, formats []int16) bool {
	if len(fields) != len(formats) {
		return false
	}
	for i, format := range formats {
		if fields[i].Format != format {
			return false
		}
	}
	return true
}

// receive returns the next message about the statements. It passes on what the
// server says besides, as the driver would.
func (x *exchange) receive() pgproto3.BackendMessage {
	pg, config := x.s.conn.PgConn(), x.s.config
	for {
		message, err := pg.Frontend().Receive()
		if err != nil {
			x.lose(err)
			return nil
		}
		switch m := message.(type) {
		case *pgproto3.NoticeResponse:
			if config.OnNotice != nil {
				config.OnNotice(pg, (*pgconn.Notice)(pgconn.ErrorResponseToPgError((*pgproto3.ErrorResponse)(m))))
			}
		case *pgproto3.NotificationResponse:
			if config.OnNotification != nil {
				config.OnNotification(pg, &pgconn.Notification{PID: m.PID, Channel: m.Channel, Payload: m.Payload})
			}
		case *pgproto3.ParameterStatus:
			// Servers before PostgreSQL 14 say so at once, others with the answer's
			// end. The driver should know, and cannot be told here.
			x.s.retire()
		case *pgproto3.ErrorResponse:
			x.refuse(pgconn.ErrorResponseToPgError(m))
			return nil
		default:
			return message
		}
	}
}

// refuse ends the result with the server's error.
func (x *exchange) refuse(err *pgconn.PgError) {
	x.answered = true
	if decide := x.s.config.OnPgError; decide != nil && !decide(x.s.conn.PgConn(), err) {
		x.lose(err) // the session is over
		return
	}
	if x.err == nil {
		x.err = err
	}
}

// lose ends the exchange with the connection.
func (x *exchange) lose(err error) {
	if x.err == nil {
		if pgconn.Timeout(err) && x.ctx.Err() != nil {
			err = x.ctx.Err()
		}
		x.err = err
	}
	_ = x.s.conn.Close(ended())
	_ = x.pipe.Close()
	x.answered, x.closed = true, true
}

// skip reads the result of the settings, of which only an error is of interest.
func (x *exchange) skip() {
	for !x.answered {
		if _, done := x.receive().(*pgproto3.CommandComplete); done {
			return
		}
	}
}

// next reads up to the next row, or the end of the result.
func (x *exchange) next() bool {
	if x.loaded {
		x.loaded = false
		return true
	}
	for !x.answered {
		switch m := x.receive().(type) {
		case *pgproto3.DataRow:
			x.row = m.Values
			return true
		case *pgproto3.RowDescription:
			x.describe(m)
		case *pgproto3.CommandComplete:
			x.tag, x.answered = x.s.scoped.tag(m.CommandTag), true
		case *pgproto3.EmptyQueryResponse:
			x.answered = true
		}
	}
	x.row = nil
	return false
}

// describe takes the columns from the server, for this result alone.
func (x *exchange) describe(m *pgproto3.RowDescription) {
	if x.columns == nil {
		return // nobody will read them
	}
	x.columns = &decode.Columns{Types: x.s.conn.TypeMap(), Fields: decode.Fields(m)}
}

// finish reads the rest of the result, and of the answer unless more results come. An
// error is the first there was.
func (x *exchange) finish() error {
	for x.next() {
		continue
	}
	if x.more {
		return x.err
	}
	return x.Close()
}

// Close reads the rest of the answer. An error is the first there was: of the
// settings, of the statement, or of the commit behind it.
func (x *exchange) Close() error {
	for x.next() {
		continue
	}
	if x.closed {
		return x.err
	}
	x.closed = true
	pg := x.s.conn.PgConn()
	_ = x.pipe.Close() // from here on the driver reads, and notes what state the session is in
	for {
		message, err := pg.ReceiveMessage(x.ctx)
		if err != nil {
			// The driver calls that safe to send again, as it did not send it.
			x.lose(errors.Unwrap(err))
			return x.err
		}
		switch m := message.(type) {
		case *pgproto3.ErrorResponse:
			if x.err == nil {
				x.err = pgconn.ErrorResponseToPgError(m)
			}
		case *pgproto3.ReadyForQuery:
			return x.err
		}
	}
}

// exchanged are the rows of an exchange.
type exchanged struct {
	x       *exchange
	columns *decode.Columns
	tag     pgconn.CommandTag
	err     error
	closed  bool
}

var _ pgx.Rows = (*exchanged)(nil)

// rows are those of the statement, of which the first is read, since an error
// instead of it can still be mended.
func (x *exchange) rows() *exchanged {
	x.loaded = x.next()
	return &exchanged{x: x, columns: x.columns}
}

// Next moves to the next row.
func (r *exchanged) Next() bool {
	if !r.closed && r.x.next() {
		return true
	}
	r.Close()
	return false
}

// Scan reads the row into dest.
func (r *exchanged) Scan(dest ...any) error {
	if r.closed {
		return r.orClosed()
	}
	return r.fail(r.columns.Scan(r, r.RawValues(), dest))
}

// Values decodes the row.
func (r *exchanged) Values() ([]any, error) {
	if r.closed {
		return nil, r.orClosed()
	}
	values, err := r.columns.Values(r.RawValues())
	return values, r.fail(err)
}

func (r *exchanged) orClosed() error {
	if r.err != nil {
		return r.err
	}
	return decode.ErrClosed
}

// fail closes the rows with an error of reading them, which it returns.
func (r *exchanged) fail(err error) error {
	if err != nil && !r.closed {
		r.Close()
		r.err = err
	}
	return err
}

// Close reads the rest of the answer.
func (r *exchanged) Close() {
	if r.closed {
		return
	}
	r.err, r.closed = r.x.finish(), true
	r.tag, r.x = r.x.tag, nil
}

// Err is what went wrong. It is known for certain once the rows are closed.
func (r *exchanged) Err() error {
	if !r.closed {
		return r.x.err
	}
	return r.err
}

// CommandTag is known once the rows are closed.
func (r *exchanged) CommandTag() pgconn.CommandTag { return r.tag }

// FieldDescriptions are the columns.
func (r *exchanged) FieldDescriptions() []pgconn.FieldDescription { return r.columns.Fields }

// RawValues are valid until the next row. A row that was read ahead is not there yet.
func (r *exchanged) RawValues() [][]byte {
	if r.closed || r.x.loaded {
		return nil
	}
	return r.x.row
}

// Conn is the connection that the rows come from, until they are closed. It is not
// reused, since whoever has it could go on using it, and nil where it would be
// confined to a scope until then only.
func (r *exchanged) Conn() *pgx.Conn {
	if r.closed || r.x.confined {
		return nil
	}
	r.x.s.retire()
	return r.x.s.conn
}

// TypeMap is what values are decoded with.
func (r *exchanged) TypeMap() *pgtype.Map { return r.columns.Types }
