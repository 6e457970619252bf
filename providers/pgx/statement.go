package pgx

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// statement is one statement on its way to a connection.
type statement struct {
	lease lease
	// owned says that the connection was taken for this statement alone, and
	// goes back after it.
	owned bool
	// use is what the statement occupies until its end: that of the borrowed
	// connection or the transaction. nil when owned.
	use *use
	// cancel frees the statement's context at its end. Optional.
	cancel context.CancelFunc
	sql    string
	args   []any
}

// end gives back what the statement occupied.
func (st statement) end() {
	if st.cancel != nil {
		st.cancel()
	}
	if st.use != nil {
		st.use.leave()
	}
	if st.owned {
		st.lease.release()
	}
}

// query runs a statement and hands out its rows.
func (p *Pool) query(ctx context.Context, r *rows, st statement) (pgx.Rows, error) {
	r.start(ctx, st)
	defer r.failIfPanicking()
	inner, err := st.lease.conn().Query(r.ctx, st.sql, st.args...)
	r.Rows = inner
	if err != nil && !r.retry(err) {
		r.Close()
		return r, r.err
	}
	return r, nil
}

// queryRow runs a statement and hands out its row.
func (p *Pool) queryRow(ctx context.Context, r *rows, st statement) pgx.Row {
	_, _ = p.query(ctx, r, st) // its error waits for Scan
	return (*row)(r)
}

// exec runs a statement without rows.
func (p *Pool) exec(ctx context.Context, conn *pgx.Conn, sql string, args []any) (tag pgconn.CommandTag, err error) {
	ctx, f := p.startHook(ctx, providers.EventExec, sql, pidOf(conn))
	if f != nil {
		err = errPanicked // until the statement came back
		defer func() { f.End(tag.RowsAffected(), err) }()
	}
	tag, err = conn.Exec(ctx, sql, args...)
	if err != nil && isRepeatable(conn, err, sql) {
		tag, err = conn.Exec(ctx, sql, args...)
	}
	if err != nil {
		err = p.mapError(ctx, opExec, err)
	}
	return tag, err
}

func pidOf(conn *pgx.Conn) uint32 { return conn.PgConn().PID() }

// run executes a call. Without a scope it is an ordinary statement. With one,
// the settings and the statement leave in one flush under one Sync: outside a
// transaction that makes them one of their own, whose end undoes the settings.
// A setting that fails takes the statement with it. The settings named in stale
// go back to their defaults.
func (p *Pool) run(ctx context.Context, st statement, newRows func() *rows, call *providers.Call, stale []string) (err error) {
	if err := scopable(call); err != nil {
		st.end()
		return err
	}
	if call.Kind == providers.CallQuery { // the rows end the statement
		if len(call.Scope) == 0 {
			call.Rows, err = p.query(ctx, newRows(), st)
		} else {
			call.Rows, err = p.queryScoped(ctx, newRows(), st, call.Scope, stale)
		}
		return err
	}
	defer st.end()
	if len(call.Scope) == 0 {
		call.Tag, err = p.exec(ctx, st.lease.conn(), st.sql, st.args)
	} else {
		call.Tag, err = p.execScoped(ctx, st, call.Scope, stale)
	}
	return err
}
