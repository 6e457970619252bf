package pgx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

func (p *Pool) queryScoped(ctx context.Context, r *rows, st *statement, scope []providers.Setting, stale []string) (pgx.Rows, error) {
	r.start(ctx, st)
	defer r.failIfPanicking()
	r.running().scope = scope
	err := p.querySettled(r, st, stale)
	if err != nil && !r.retry(err) {
		r.Close()
		return r, r.err
	}
	return r, nil
}

// querySettled sends the settings and the statement, and makes rows of its result.
func (p *Pool) querySettled(r *rows, st *statement, stale []string) error {
	if p.needsBlock(st.lease.conn(), st.sql) {
		return p.queryInBlock(r, st)
	}
	if len(stale) == 0 {
		m, err := p.sendPrepared(r.ctx, st, r.running().scope, true)
		if err != nil {
			r.Rows = failedRows(err)
			return err
		}
		if m != nil {
			return r.queryPrepared(m)
		}
	}
	results := p.sendScoped(r.ctx, st, r.running().scope, stale)
	r.running().around = results
	_, err := results.Exec()
	if err == nil {
		r.Rows, err = results.Query()
	} else {
		r.Rows = failedRows(err)
	}
	return err
}

// needsBlock reports a statement that could end the implicit transaction, and
// with it the scope, from inside: a COMMIT of DO or of a procedure, which the
// server refuses in a transaction that was begun.
func (p *Pool) needsBlock(conn *pgx.Conn, sql string) bool {
	return p.cfg.Scope != nil && conn.PgConn().TxStatus() == 'I' && p.classifier.classify(sql)&sqltext.Procedural != 0
}

// queryInBlock runs such a statement.
func (p *Pool) queryInBlock(r *rows, st *statement) error {
	r.begun = true // nothing is run again
	err := p.openScope(r.ctx, st.lease, r.running().scope)
	if err != nil {
		r.Rows = failedRows(err)
		return err
	}
	r.running().inScope = true
	return r.ask()
}

func (p *Pool) execScoped(ctx context.Context, st *statement, scope []providers.Setting, stale []string) (tag pgconn.CommandTag, err error) {
	ctx, f := p.observe(ctx, providers.EventExec, st)
	if f != nil {
		err = errPanicked // until the statement came back
		defer func() { f.End(tag.RowsAffected(), err) }()
	}
	tag, err = p.execWithin(ctx, st, scope, stale)
	return tag, p.mapError(ctx, opExec, st.lease.s.replicated(ctx, opExec, err))
}

// execWithin runs the statement with its settings, which go first if it turns out
// that they have to.
func (p *Pool) execWithin(ctx context.Context, st *statement, scope []providers.Setting, stale []string) (pgconn.CommandTag, error) {
	tag, err := p.execSettled(ctx, st, scope, stale)
	st.lease.s.forgetStale(err)
	if err != nil && needsSettingsFirst(st.lease.conn(), err, st.sql) {
		tag, err = p.execInScope(ctx, st, scope)
	}
	return tag, err
}

// execSettled sends the settings and the statement, and reads its tag.
func (p *Pool) execSettled(ctx context.Context, st *statement, scope []providers.Setting, stale []string) (tag pgconn.CommandTag, err error) {
	if p.needsBlock(st.lease.conn(), st.sql) {
		return p.execInScope(ctx, st, scope)
	}
	if len(stale) == 0 {
		m, err := p.sendPrepared(ctx, st, scope, false)
		if err != nil {
			return tag, err
		}
		if m != nil {
			return execPrepared(m)
		}
	}
	results := p.sendScoped(ctx, st, scope, stale)
	if _, err = results.Exec(); err == nil {
		tag, err = results.Exec()
	}
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	return tag, err
}

// sendScoped sends the settings and the statement.
func (p *Pool) sendScoped(ctx context.Context, st *statement, scope []providers.Setting, stale []string) pgx.BatchResults {
	batch := &pgx.Batch{}
	sql, args := settingsSQL(scope, stale)
	batch.Queue(sql, args...)
	text := st.sql
	if text == "" {
		text = " " // the same to the server; the driver panics over a batch with nothing
	}
	batch.Queue(text, st.args...)
	before := st.lease.s.dirt
	results := st.lease.conn().SendBatch(ctx, batch)
	// The settings end by themselves, so what they did to the session is no
	// reason for a reset. What the statement does is.
	st.lease.s.dirt = before
	st.lease.s.soil(st.sql)
	return results
}

// set makes settings in a flush of their own.
func (p *Pool) set(ctx context.Context, l lease, scope []providers.Setting, stale []string) error {
	sql, args := settingsSQL(scope, stale)
	before := l.s.dirt
	_, err := l.conn().Exec(ctx, sql, args...)
	l.s.dirt = before
	return err
}

// needsSettingsFirst reports that a scoped statement could not be prepared, or
// that its plan was stale. The driver prepares a statement ahead of the flush
// with the settings, where a search_path or a role is not yet in force, so it
// found the wrong table or none. Nothing ran.
func needsSettingsFirst(conn *pgx.Conn, err error, sql string) bool {
	if isRepeatable(conn, err, sql) {
		return true
	}
	var preparing pgx.ErrPreprocessingBatch
	if !errors.As(err, &preparing) || conn.PgConn().TxStatus() != 'I' {
		return false
	}
	pg := providers.NewPGError(err)
	return pg != nil && pg.Code != codeSyntaxError // which no setting mends
}

// codeSyntaxError is the SQLSTATE of a statement that cannot be parsed.
const codeSyntaxError = "42601"

// execInScope runs a statement in a transaction whose settings come first.
func (p *Pool) execInScope(ctx context.Context, st *statement, scope []providers.Setting) (pgconn.CommandTag, error) {
	if err := p.openScope(ctx, st.lease, scope); err != nil {
		return pgconn.CommandTag{}, err
	}
	// Not by Exec, which prepares nothing when there are no arguments: the next
	// call shall find the statement prepared.
	inner, _ := st.query(ctx) // its error is the rows'
	inner.Close()
	return inner.CommandTag(), p.closeScope(ctx, st.lease.conn(), inner.Err())
}

// openScope begins a transaction with settings of its own.
func (p *Pool) openScope(ctx context.Context, l lease, scope []providers.Setting) error {
	_, err := l.conn().Exec(ctx, "begin")
	if err == nil {
		err = p.set(ctx, l, scope, nil)
	}
	if err != nil {
		return p.closeScope(ctx, l.conn(), err)
	}
	return nil
}

// closeScope ends the transaction of openScope: it commits, unless err tells
// that the statement failed.
func (p *Pool) closeScope(ctx context.Context, conn *pgx.Conn, err error) error {
	if err == nil {
		_, err = conn.Exec(ctx, "commit")
	}
	if conn.PgConn().TxStatus() != 'I' {
		ctx, cancel := detached(ctx)
		defer cancel()
		if _, rollbackErr := conn.Exec(ctx, "rollback"); rollbackErr != nil {
			_ = conn.Close(ended()) // rolls back as well
		}
	}
	return err
}

// scopable refuses pgx's options for a single statement, which have no meaning
// for one that travels behind others.
func scopable(args []any) error {
	for _, arg := range args {
		switch arg.(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			return &notSentError{fmt.Errorf("pgkeel: %T cannot be given to a statement that has a scope "+
				"(a tenant, a deadline sent to the server); leave the option out, or set it for the pool", arg)}
		case pgx.QueryRewriter: // other options can follow
		default:
			return nil
		}
	}
	return nil
}

// settingsSQL is the statement that makes the settings, all in one, until the
// end of the transaction.
func settingsSQL(scope []providers.Setting, stale []string) (string, []any) {
	return setConfigSQL(scope, stale, "true")
}

// setConfigSQL makes settings. Names and values are arguments: whatever they
// contain, they stay data. A NULL sets a parameter to its default.
func setConfigSQL(scope []providers.Setting, stale []string, local string) (string, []any) {
	var b strings.Builder
	args := make([]any, 0, 2*(len(scope)+len(stale)))
	add := func(name string, value any) {
		separator := ", "
		if len(args) == 0 {
			separator = "select "
		}
		b.WriteString(separator + "pg_catalog.set_config($" + strconv.Itoa(len(args)+1) + ", $" + strconv.Itoa(len(args)+2) + ", " + local + ")")
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

// runScoped executes a call with a scope. Settings of an earlier call that this
// one does not make go back to their defaults in the same flush.
func (t *Tx) runScoped(ctx context.Context, st *statement, call *providers.Call) error {
	r := t.root
	scope, stale := r.settingsBack(providers.StaleSettings(r.applied, call.Scope), call.Scope)
	before := r.applied
	// Until it is known how it went, both may be in force.
	r.applied = slices.Concat(before, call.Scope)
	for _, s := range call.Scope {
		if !slices.Contains(r.touched, s.Name) {
			r.touched = append(r.touched, s.Name)
		}
	}
	if changesMeaning(call.Scope, before) && scopable(call.Args) == nil {
		// A failure to prepare the statement would fail the transaction.
		if err := r.pool.set(ctx, r.lease, scope, stale); err != nil {
			st.end()
			return r.pool.mapError(ctx, call.Kind.String(), err)
		}
		stale = nil
	}
	err := r.pool.run(ctx, st, r.rows.next, call, scope, stale)
	if err == nil {
		r.applied = slices.Clone(call.Scope)
	}
	return err
}

// settingsBack is what ends settings of an earlier call: those that belong to the
// transaction's own scope are made again, in front of others, and the rest goes
// back to its defaults.
func (t *Tx) settingsBack(stale []string, scope []providers.Setting) ([]providers.Setting, []string) {
	if len(t.confined) == 0 {
		return scope, stale
	}
	scope = providers.WithinScope(t.confined, scope)[len(t.confined):] // within its limit of time
	if len(stale) == 0 {
		return scope, nil
	}
	var back []providers.Setting
	var rest []string
	for _, name := range stale {
		i := slices.IndexFunc(t.confined, func(s providers.Setting) bool { return strings.EqualFold(s.Name, name) })
		if i < 0 {
			rest = append(rest, name)
			continue
		}
		back = append(back, t.confined[i])
	}
	return append(back, scope...), rest
}

// changesMeaning reports whether the scope has settings, not yet in force, that
// decide what a statement's names mean. The driver prepares a statement ahead of
// the flush with the settings, so these must be there before.
func changesMeaning(scope, applied []providers.Setting) bool {
	return slices.ContainsFunc(scope, func(s providers.Setting) bool {
		switch strings.ToLower(s.Name) {
		case "search_path", "role", "session_authorization":
			return !slices.Contains(applied, s)
		}
		return false
	})
}

// isScoped reports whether settings of an earlier call can be in force. In a
// failed transaction the application's own ROLLBACK TO can bring them back.
func (t *Tx) isScoped() bool {
	r := t.root
	return len(r.applied) > 0 || len(r.touched) > 0 && r.lease.conn().PgConn().TxStatus() == 'E'
}

// restore ends the scope of the last call, for a statement that has none.
func (t *Tx) restore(ctx context.Context, op string) error {
	r := t.root
	if r.lease.conn().PgConn().TxStatus() == 'E' {
		// The server now takes nothing but an end.
		r.applied = r.applied[:0:0]
		for _, name := range r.touched {
			r.applied = append(r.applied, providers.Setting{Name: name})
		}
		return nil
	}
	scope, stale := r.settingsBack(providers.StaleSettings(r.applied, nil), nil)
	if err := r.pool.set(ctx, r.lease, scope, stale); err != nil {
		return r.pool.mapError(ctx, op, err)
	}
	r.applied = nil
	return nil
}
