package pgx

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// CopyFrom loads the rows of src into columns of table, and returns their
// number. An error means that none were loaded. A panic of src is the caller's.
func (p *Pool) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	if p.cfg.Scope != nil {
		return inScope(ctx, p, func(tx *Tx) (int64, error) { return tx.CopyFrom(ctx, table, columns, src) })
	}
	l, err := p.borrow(ctx, opCopy, nil)
	if err != nil {
		return 0, err
	}
	defer l.release()
	return p.copyFrom(ctx, l.conn(), table, columns, src)
}

func (p *Pool) copyFrom(ctx context.Context, conn *pgx.Conn, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (n int64, err error) {
	if p.observed(providers.EventCopy) {
		var f *providers.Firing
		ctx, f = p.hooks.Start(ctx, providers.HookInfo{Event: providers.EventCopy, Name: table.Sanitize(), PID: pidOf(conn)})
		err = errPanicked // until the source came back
		defer func() { f.End(n, err) }()
	}
	s := sessionOf(conn)
	o, behind := p.beginOrder(ctx, s, opCopy)
	if behind != nil {
		return 0, behind
	}
	defer func() { o.tell(ctx, err) }()
	if t := p.copyTracer; t != nil {
		ctx = t.TraceCopyFromStart(ctx, conn, pgx.TraceCopyFromStartData{TableName: table, ColumnNames: columns})
		defer func() {
			t.TraceCopyFromEnd(ctx, conn, pgx.TraceCopyFromEndData{CommandTag: pgconn.NewCommandTag("COPY " + itoa(int(n))), Err: err})
		}()
	}
	if waiting, ok := src.(providers.Interrupter); ok {
		s.copying = waiting.Interrupt
	}
	rows := &rowReader{source: src}
	n, err = s.copyRows(ctx, table, columns, rows)
	p.doubtCopy(ctx, s.conn, err)
	s.copying = nil
	if rows.panicked != nil {
		err = errPanicked
		panic(rows.panicked)
	}
	return n, p.copyError(ctx, rows, err)
}

// copyError says why a COPY of rows failed: where the client gave up, the server
// knows no more than that.
func (p *Pool) copyError(ctx context.Context, rows *rowReader, err error) error {
	var row *rowError
	switch {
	case err == nil || rows.err == nil:
		return p.mapError(ctx, opCopy, err)
	case errors.As(rows.err, &row):
	case ctx.Err() != nil: // which is what the source says, in whatever words
		return p.mapError(ctx, opCopy, errors.Join(rows.err, err))
	default:
		row = &rowError{row: rows.rows + 1, reason: "the source failed: " + rows.err.Error(), cause: rows.err}
	}
	row.cause = errors.Join(row.cause, wrapPG(err))
	return row
}
