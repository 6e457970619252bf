package stdsql

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// control runs a statement of the provider's own.
func (l *lease) control(ctx context.Context, sql string, args ...any) error {
	bound, done := l.bound(ctx)
	defer done()
	_, err := l.conn.ExecContext(bound, sql, args...)
	return err
}

// declared adds to a scope what the context declares.
func declared(ctx context.Context, scope []providers.Setting) []providers.Setting {
	const setting = "transaction_read_only"
	if !providers.IsReadOnly(ctx) || slices.ContainsFunc(scope, func(s providers.Setting) bool { return s.Name == setting }) {
		return scope
	}
	return append(slices.Clip(scope), providers.Setting{Name: setting, Value: "on"})
}

// execInScope runs a statement without rows in a transaction whose settings come
// first, so that a setting that fails takes the statement with it, and the end of
// the transaction undoes them.
func (st *statement) execInScope(ctx context.Context) (tag pgconn.CommandTag, err error) {
	ctx, f := st.lease.pool.startHook(ctx, providers.EventExec, st.sql)
	f.SetPID(st.lease.pid)
	err = errPanicked
	defer func() { f.End(tag.RowsAffected(), err) }()
	if err = st.ready(ctx, opExec); err != nil {
		return tag, err
	}
	if err = st.openScope(ctx); err != nil {
		return tag, err
	}
	tag, err = st.send(ctx)
	err = st.closeScope(ctx, opExec, st.lease.fault(ctx, opExec, err))
	return tag, err
}

// openScope begins a transaction with settings of its own.
func (st *statement) openScope(ctx context.Context) error {
	l := st.lease
	if l.begunInSQL() { // the scope's end would be its end
		return refused(errSQLTx)
	}
	l.inTx.Store(true) // whatever happens from here, until its end is known
	err := l.control(ctx, "begin")
	if err == nil {
		err = l.set(ctx, st.scope, nil)
	}
	if err != nil {
		return st.closeScope(ctx, "scope", l.fault(ctx, "scope", err))
	}
	return nil
}

// closeScope ends the transaction of openScope: it commits, unless err tells
// that the statement failed. What failed before COMMIT was sent is undone.
func (st *statement) closeScope(ctx context.Context, op string, err error) error {
	l := st.lease
	if err == nil {
		if err = l.control(ctx, "commit"); err == nil {
			l.inTx.Store(false)
			return nil
		}
		committing := !isUnsent(err)
		if err = l.fault(ctx, op, err); committing {
			l.undo(ctx)
			return err
		}
	}
	l.undo(ctx)
	return undone(err)
}

// undo rolls back. Where that fails the connection is closed, which does so, too.
func (l *lease) undo(ctx context.Context) {
	if l.gone.Load() {
		return
	}
	ctx, stop := detached(ctx)
	defer stop()
	if err := l.control(ctx, "rollback"); err != nil {
		l.gone.Store(true)
		return
	}
	l.inTx.Store(false)
}

// undone says of an error that cannot tell that the work was rolled back.
func undone(err error) error {
	if providers.OutcomeOf(err) != providers.OutcomeUnknown {
		return err
	}
	return &outcomeError{err, providers.OutcomeRolledBack}
}

// set makes settings in a statement of their own.
func (l *lease) set(ctx context.Context, scope []providers.Setting, stale []string) error {
	sql, args := settingsSQL(scope, stale)
	return l.control(ctx, sql, args...)
}

// settingsSQL is the statement that makes the settings, all in one. Names and
// values are arguments: whatever they contain, they stay data. A NULL sets a
// parameter to its default.
func settingsSQL(scope []providers.Setting, stale []string) (string, []any) {
	var b strings.Builder
	args := make([]any, 0, 2*(len(scope)+len(stale)))
	add := func(name string, value any) {
		separator := ", "
		if len(args) == 0 {
			separator = "select "
		}
		b.WriteString(separator + "pg_catalog.set_config($" + strconv.Itoa(len(args)+1) + ", $" + strconv.Itoa(len(args)+2) + ", true)")
		args = append(args, name, value)
	}
	for _, name := range stale {
		add(name, nil)
	}
	for _, s := range scope {
		add(s.Name, s.Value)
	}
	return b.String(), args
}

// settle has the transaction's settings be those that it is confined to and those
// of scope: settings of an earlier call that are not among them go back to their
// defaults.
func (t *Tx) settle(ctx context.Context, op string, scope []providers.Setting) error {
	r := t.root
	if len(scope) == 0 && r.isSettled() {
		return nil
	}
	want := providers.WithinScope(r.confined, scope)
	stale := providers.StaleSettings(r.applied, want)
	if r.tainted { // a ROLLBACK TO of the application's own can bring back any of them
		stale = providers.StaleSettings(r.touched, want)
	}
	for _, s := range scope {
		if !slices.Contains(r.touched, s) {
			r.touched = append(r.touched, s)
		}
	}
	if err := r.lease.set(ctx, want, stale); err != nil {
		wasTainted := r.tainted
		r.tainted = true
		err = r.lease.fault(ctx, op, err)
		if len(scope) == 0 && wasTainted && hasCode(err, codeFailedTx) {
			return nil // the server now takes nothing but an end, and says so itself
		}
		return err
	}
	r.applied = want
	return nil
}

// isSettled reports whether the settings in force are just those that the
// transaction is confined to.
func (t *Tx) isSettled() bool {
	return slices.Equal(t.applied, t.confined) && (!t.tainted || len(t.touched) == 0)
}
