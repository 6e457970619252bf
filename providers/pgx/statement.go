package pgx

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
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
	// firing is there when hooks have seen the statement begin.
	firing *providers.Firing
	// order is what the context holds the statement to; nil for most.
	order *order
}

// end gives back what the statement occupied.
func (st *statement) end() {
	if st.owned {
		st.lease.release()
	} else {
		st.lease.unwatch()
	}
	if st.cancel != nil {
		st.cancel()
	}
	if st.use != nil {
		st.use.leave()
	}
}

// query runs a statement and hands out its rows.
func (p *Pool) query(ctx context.Context, r *rows, st *statement) (pgx.Rows, error) {
	r.start(ctx, st)
	defer r.failIfPanicking()
	inner, err := st.query(r.ctx)
	r.Rows = inner
	if err != nil && !r.retry(err) {
		r.Close()
		return r, r.err
	}
	return r, nil
}

// exec runs a statement without rows.
func (p *Pool) exec(ctx context.Context, st *statement) (tag pgconn.CommandTag, err error) {
	ctx, f := p.observe(ctx, providers.EventExec, st)
	if f != nil {
		err = errPanicked // until the statement came back
		defer func() { f.End(tag.RowsAffected(), err) }()
	}
	tag, err = st.exec(ctx)
	if err = st.lease.s.replicated(ctx, opExec, err); err != nil {
		err = p.mapError(ctx, opExec, err)
	}
	return tag, err
}

// exec sends the statement as it is, once more if its plan was stale.
func (st *statement) exec(ctx context.Context) (pgconn.CommandTag, error) {
	conn := st.lease.conn()
	tag, err := conn.Exec(ctx, st.sql, st.args...)
	if err != nil && (isRepeatable(conn, err, st.sql) || isMisfit(conn, err)) {
		tag, err = conn.Exec(ctx, st.sql, st.args...)
	}
	return tag, err
}

// query sends the statement as it is, once more if its arguments did not fit.
func (st *statement) query(ctx context.Context) (pgx.Rows, error) {
	conn := st.lease.conn()
	rows, err := conn.Query(ctx, st.sql, st.args...)
	if err != nil && isMisfit(conn, err) {
		rows, err = conn.Query(ctx, st.sql, st.args...)
	}
	return rows, err
}

// observe fires the Before hooks of a statement, unless they have seen it, and
// has its context watched until its end.
func (p *Pool) observe(ctx context.Context, e providers.HookEvent, st *statement) (context.Context, *providers.Firing) {
	f := st.firing
	if f == nil {
		ctx, f = p.startHook(ctx, e, st.sql, st.lease.s.pid)
	} else {
		f.SetPID(st.lease.s.pid)
	}
	return st.lease.s.watch(ctx), f
}

func pidOf(conn *pgx.Conn) uint32 { return conn.PgConn().PID() }

// run executes a call on a connection, in a scope. The settings named in stale go back to
// their defaults.
func (p *Pool) run(ctx context.Context, st *statement, newRows func() *rows, call *providers.Call, scope []providers.Setting, stale []string) (err error) {
	if call.Kind == providers.CallExec {
		call.Tag, err = p.execOn(ctx, st, scope, stale)
	} else {
		call.Rows, err = p.queryOn(ctx, newRows(), st, scope, stale)
	}
	return err
}

// queryOn runs a statement on its connection. Without a scope it is an ordinary
// one. With one, the settings and the statement leave in one flush under one
// Sync: outside a transaction that makes them one of their own, whose end undoes
// the settings. A setting that fails takes the statement with it.
func (p *Pool) queryOn(ctx context.Context, r *rows, st *statement, scope []providers.Setting, stale []string) (pgx.Rows, error) {
	if st.copiesIn() {
		err := &notSentError{errCopyIn}
		st.firing.End(0, err)
		st.end()
		return failedRows(err), err
	}
	if st.order = p.orderOf(ctx, st.lease.s, st.sql); st.order == nil && len(scope) == 0 {
		return p.query(ctx, r, st)
	}
	if err := scopable(st.args); err != nil && len(scope) > 0 {
		st.firing.End(0, err)
		st.end()
		return failedRows(err), err
	}
	if st.order != nil {
		return p.queryOrdered(ctx, r, st, scope, stale)
	}
	return p.queryScoped(ctx, r, st, scope, stale)
}

// execOn is queryOn for a statement without rows.
func (p *Pool) execOn(ctx context.Context, st *statement, scope []providers.Setting, stale []string) (pgconn.CommandTag, error) {
	defer st.end()
	if st.copiesIn() {
		err := &notSentError{errCopyIn}
		st.firing.End(0, err)
		return pgconn.CommandTag{}, err
	}
	if st.order = p.orderOf(ctx, st.lease.s, st.sql); st.order == nil && len(scope) == 0 {
		return p.exec(ctx, st)
	}
	if err := scopable(st.args); err != nil && len(scope) > 0 {
		st.firing.End(0, err)
		return pgconn.CommandTag{}, err
	}
	if st.order != nil {
		return p.execOrdered(ctx, st, scope, stale)
	}
	return p.execScoped(ctx, st, scope, stale)
}

// copiesIn reports whether a statement would wait for data that never comes. The
// server does not hear a cancel request while it does.
func (st *statement) copiesIn() bool { return st.lease.s.classify(st.sql)&sqltext.CopiesIn != 0 }

// declared adds to a scope what the context declares, or the pool for all, unless
// every session is held to that.
func (p *Pool) declared(ctx context.Context, scope []providers.Setting) []providers.Setting {
	if p.readsOnly || !p.cfg.ReadOnly && !providers.IsReadOnly(ctx) {
		return scope
	}
	return append(slices.Clip(scope), providers.Setting{Name: "transaction_read_only", Value: "on"})
}
