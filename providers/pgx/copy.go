package pgx

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// CopyFrom loads the rows of src into columns of table, and returns their
// number. An error means that none were loaded.
func (p *Pool) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	l, err := p.borrow(ctx, opCopy)
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
		defer func() { f.End(n, err) }()
	}
	n, err = conn.CopyFrom(ctx, table, columns, src)
	return n, p.mapError(ctx, opCopy, err)
}
