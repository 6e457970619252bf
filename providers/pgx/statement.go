package pgx

import (
	"context"
	"fmt"
	"strconv"
	"strings"

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
	inner, err := st.lease.conn().Query(r.ctx, st.sql, st.args...)
	r.Rows = inner
	if err != nil {
		if r.retryStale(err) {
			return r, nil
		}
		r.fail(err)
		return r, r.err
	}
	return r, nil
}

// queryRow runs a statement and hands out its row.
func (p *Pool) queryRow(ctx context.Context, r *rows, st statement) pgx.Row {
	r.start(ctx, st)
	r.row = st.lease.conn().QueryRow(r.ctx, st.sql, st.args...)
	return (*row)(r)
}

// exec runs a statement without rows.
func (p *Pool) exec(ctx context.Context, conn *pgx.Conn, sql string, args []any) (pgconn.CommandTag, error) {
	ctx, f := p.startHook(ctx, providers.EventExec, sql, pidOf(conn))
	tag, err := conn.Exec(ctx, sql, args...)
	if err != nil && conn.PgConn().TxStatus() == 'I' && isStalePlan(err) {
		tag, err = conn.Exec(ctx, sql, args...)
	}
	if err != nil {
		err = p.mapError(ctx, opExec, err)
	}
	f.End(tag.RowsAffected(), err)
	return tag, err
}

func pidOf(conn *pgx.Conn) uint32 { return conn.PgConn().PID() }

// run executes a call. Without a scope it is an ordinary statement. With one,
// the settings and the statement leave in one flush under one Sync: outside a
// transaction that makes them one of their own, whose end undoes the settings.
// A setting that fails takes the statement with it. The settings named in stale
// go back to their defaults.
func (p *Pool) run(ctx context.Context, st statement, newRows func() *rows, call *providers.Call, stale []string) error {
	if err := scopable(call); err != nil {
		st.end()
		return err
	}
	var batch *pgx.Batch
	if len(call.Scope)+len(stale) > 0 {
		batch = &pgx.Batch{}
		sql, args := settingsSQL(call.Scope, stale)
		batch.Queue(sql, args...)
		batch.Queue(call.SQL, call.Args...)
	}
	var err error
	switch {
	case call.Kind == providers.CallQuery && batch == nil:
		call.Rows, err = p.query(ctx, newRows(), st)
		return err // the rows end the statement
	case call.Kind == providers.CallQuery:
		call.Rows, err = p.queryScoped(ctx, newRows(), st, batch)
		return err
	case batch == nil:
		call.Tag, err = p.exec(ctx, st.lease.conn(), st.sql, st.args)
	default:
		call.Tag, err = p.execScoped(ctx, st, batch)
	}
	st.end()
	return err
}

func (p *Pool) queryScoped(ctx context.Context, r *rows, st statement, batch *pgx.Batch) (pgx.Rows, error) {
	r.start(ctx, st)
	r.batch = st.lease.conn().SendBatch(r.ctx, batch)
	if _, err := r.batch.Exec(); err != nil {
		r.Rows = failedRows(err)
		r.fail(err)
		return r, r.err
	}
	r.Rows, _ = r.batch.Query() // its error is the rows' own
	return r, nil
}

func (p *Pool) execScoped(ctx context.Context, st statement, batch *pgx.Batch) (tag pgconn.CommandTag, err error) {
	conn := st.lease.conn()
	ctx, f := p.startHook(ctx, providers.EventExec, st.sql, pidOf(conn))
	results := conn.SendBatch(ctx, batch)
	if _, err = results.Exec(); err == nil {
		tag, err = results.Exec()
	}
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	err = p.mapError(ctx, opExec, err)
	f.End(tag.RowsAffected(), err)
	return tag, err
}

// scopable refuses pgx's options for a single statement, which have no meaning
// for one that travels behind others.
func scopable(call *providers.Call) error {
	if len(call.Scope) == 0 || len(call.Args) == 0 {
		return nil
	}
	switch call.Args[0].(type) {
	case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
		return fmt.Errorf("pgkeel: %T cannot be given to a statement that has a scope (a tenant, a deadline sent to the server); "+
			"leave the option out, or set it for the pool; nothing was sent", call.Args[0])
	}
	return nil
}

// settingsSQL is the statement that makes the settings, all in one. Names and
// values are arguments: whatever they contain, they stay data. A NULL sets a
// parameter to its default.
func settingsSQL(scope []providers.Setting, stale []string) (string, []any) {
	var b strings.Builder
	args := make([]any, 0, 2*(len(scope)+len(stale)))
	add := func(name string, value any) {
		b.WriteString(map[bool]string{true: "select ", false: ", "}[len(args) == 0])
		b.WriteString("pg_catalog.set_config($" + strconv.Itoa(len(args)+1) + ", $" + strconv.Itoa(len(args)+2) + ", true)")
		args = append(args, name, value)
	}
	for _, s := range scope {
		add(s.Name, s.Value)
	}
	for _, name := range stale {
		add(name, nil)
	}
	return b.String(), args
}
