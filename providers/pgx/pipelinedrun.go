package pgx

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
	"github.com/pgkeel/pgkeel/providers/pgx/pipeline"
)

// statement prepares a call for the engine. It reports false for what needs a
// connection of its own.
func (pl *pipelined) statement(ctx context.Context, sql string, args []any, scope []providers.Setting) (st pipeline.Statement, ok bool) {
	if pl == nil || pl.pool.closing.Load() || providers.CausalityOf(ctx) != nil {
		return st, false
	}
	st = pipeline.Statement{SQL: sql, Args: args, ReadOnly: pl.pool.readsOnly || providers.IsReadOnly(ctx)}
	if !pl.wants(ctx, st.ReadOnly) || changesMeaning(scope, nil) || !st.ReadOnly && pl.mayLock(ctx) {
		return st, false
	}
	if len(args) > 0 {
		if st.SQL, st.Args, ok = rewrite(ctx, sql, args); !ok {
			return st, false
		}
	}
	if !pl.engine.Knows(&st) && (!isShareable(st.SQL) || pl.pool.classifier.classify(st.SQL) != 0) {
		return st, false
	}
	for _, s := range scope {
		st.Settings = append(st.Settings, s.Name, s.Value)
	}
	return st, true
}

// wants reports whether the call is of the traffic that is pipelined.
func (pl *pipelined) wants(ctx context.Context, readOnly bool) bool {
	if wanted, said := providers.WantsPipelined(ctx); said {
		return wanted && (readOnly || pl.traffic != providers.PipelineReads)
	}
	switch pl.traffic {
	case providers.PipelineAll:
		return true
	case providers.PipelineReads:
		return readOnly
	default:
		return false
	}
}

// mayLock reports a statement beside a transaction of the same call chain. A write
// ahead of it that wants a lock of that transaction would have it wait for itself,
// unseen by the server.
func (pl *pipelined) mayLock(ctx context.Context) bool {
	return ctx.Value(pl.held) != nil && pl.room() > 0
}

// rewrite resolves named arguments. It reports false for all other options of
// pgx's, which are about a connection.
func rewrite(ctx context.Context, sql string, args []any) (string, []any, bool) {
	switch first := args[0].(type) {
	case pgx.NamedArgs, pgx.StrictNamedArgs:
		if len(args) > 1 {
			return sql, args, false
		}
		rewritten, positional, err := first.(pgx.QueryRewriter).RewriteQuery(ctx, nil, sql, nil)
		return rewritten, positional, err == nil
	case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID, pgx.QueryRewriter:
		return sql, args, false
	default:
		return sql, args, true
	}
}

// shareable are the first words of statements that need no connection of their
// own.
var shareable = map[string]bool{
	"select": true, "insert": true, "update": true, "delete": true, "merge": true,
	"with": true, "values": true, "table": true,
}

// isShareable reports whether a text is a single statement of that kind.
func isShareable(sql string) bool {
	if strings.IndexByte(sql, 0) >= 0 || sqltext.IsSeveral(sql) {
		return false
	}
	first, _ := sqltext.First(sql)
	return shareable[first]
}

// do runs a statement. Where it returns pipeline.ErrElsewhere, nothing was done
// that running it on a connection of the pool would do twice.
func (pl *pipelined) do(ctx context.Context, op string, st pipeline.Statement, firing *providers.Firing) (pipeline.Result, error) {
	panicking := firing != nil
	defer func() {
		if panicking { // as an argument of the application can
			firing.End(0, errPanicked)
		}
	}()
	result, err := pl.engine.Do(ctx, st)
	panicking = false
	if err != nil {
		if errors.Is(err, pipeline.ErrElsewhere) {
			return pipeline.Result{}, err
		}
		return pipeline.Result{}, pl.mapError(ctx, op, err)
	}
	firing.SetPID(result.PID())
	err = result.Err()
	if result.Unreplicated() {
		err = errUnreplicated(ctx, op)
	}
	if err != nil {
		result.SetErr(pl.pool.mapError(ctx, op, err))
	}
	return result, nil
}

// mapError makes the error of a statement without a result say what happened.
func (pl *pipelined) mapError(ctx context.Context, op string, err error) error {
	var lost *pipeline.LostError
	var large *pipeline.TooLargeError
	var notSent *pipeline.NotSentError
	switch {
	case errors.As(err, &lost):
		return pl.pool.mapError(ctx, op, &lostError{lost.Cause})
	case errors.As(err, &large):
		return &doneError{fmt.Errorf("pgkeel: %s: %w; run it with WithPipelined(ctx, false), or raise Pipelining.MaxResultBytes", op, large)}
	case errors.As(err, &notSent):
		return pl.pool.mapError(ctx, op, &notSentError{notSent.Cause})
	default:
		return pl.pool.mapError(ctx, op, err)
	}
}

// doneError adds that the work is done although there is an error.
type doneError struct{ error }

func (e *doneError) Unwrap() error              { return e.error }
func (e *doneError) Outcome() providers.Outcome { return providers.OutcomeCommitted }

// query runs a statement and hands out its rows. Where it returns ErrElsewhere,
// what hooks have seen begin goes on with the context and the firing.
func (pl *pipelined) query(ctx context.Context, sql string, args []any, scope []providers.Setting, gate providers.Gate) (pgx.Rows, context.Context, *providers.Firing, error) {
	st, ok := pl.statement(ctx, sql, args, scope)
	if !ok {
		return nil, ctx, nil, pipeline.ErrElsewhere
	}
	if err := pl.pool.enterGate(ctx, gate); err != nil {
		return failedRows(err), ctx, nil, err
	}
	defer leaveGate(gate)
	ctx, firing := pl.pool.startHook(ctx, providers.EventQuery, sql, 0)
	traced := pl.trace(ctx, &st, sql, args)
	result, err := pl.do(ctx, opQuery, st, firing)
	if err != nil {
		traced.end(pgconn.CommandTag{}, err)
		if !isElsewhere(err) {
			firing.End(0, err)
		}
		return failedRows(err), ctx, firing, err
	}
	rows := pipeline.NewRows(result)
	if firing != nil || traced != nil {
		rows.Finished = func(tag pgconn.CommandTag, err error) {
			traced.end(tag, err)
			firing.End(tag.RowsAffected(), err)
		}
	}
	return rows, ctx, nil, nil
}

// pipelinedRow is rows of which only the first is read.
type pipelinedRow pipeline.Rows

// Scan reads the first row into dest. Without a row the error is [pgx.ErrNoRows].
func (r *pipelinedRow) Scan(dest ...any) error {
	rows := (*pipeline.Rows)(r)
	switch {
	case !rows.Closed():
		return providers.ScanFirst(rows, dest)
	case rows.Err() != nil:
		return rows.Err()
	default:
		return errScannedTwice
	}
}

// exec runs a statement without rows, otherwise like query.
func (pl *pipelined) exec(ctx context.Context, sql string, args []any, scope []providers.Setting, gate providers.Gate) (pgconn.CommandTag, context.Context, *providers.Firing, error) {
	st, ok := pl.statement(ctx, sql, args, scope)
	if !ok {
		return pgconn.CommandTag{}, ctx, nil, pipeline.ErrElsewhere
	}
	if err := pl.pool.enterGate(ctx, gate); err != nil {
		return pgconn.CommandTag{}, ctx, nil, err
	}
	defer leaveGate(gate)
	ctx, firing := pl.pool.startHook(ctx, providers.EventExec, sql, 0)
	traced := pl.trace(ctx, &st, sql, args)
	st.NoRows = true
	result, err := pl.do(ctx, opExec, st, firing)
	var tag pgconn.CommandTag
	if err == nil {
		tag, err = result.Tag(), result.Err()
		result.Release()
	}
	traced.end(tag, err)
	if isElsewhere(err) {
		return tag, ctx, firing, err
	}
	firing.End(tag.RowsAffected(), err)
	return tag, ctx, nil, err
}

func isElsewhere(err error) bool { return err != nil && errors.Is(err, pipeline.ErrElsewhere) }

// traced is a statement that the user's tracer follows. A nil one follows nothing.
type traced struct {
	ctx    context.Context //nolint:containedctx // that of the statement; nil until it is sent
	tracer pgx.QueryTracer
	conn   *pgx.Conn
}

// trace has the user's tracer told of a statement once it is sent. One that was,
// and then runs elsewhere, is told of again: a tracer observes what happens on
// connections.
func (pl *pipelined) trace(ctx context.Context, st *pipeline.Statement, sql string, args []any) *traced {
	if pl.pool.cfg.Tracer == nil {
		return nil
	}
	t := &traced{tracer: pl.pool.cfg.Tracer}
	st.Sending = func() {
		if t.ctx == nil {
			t.conn = pl.conn.Load()
			t.ctx = t.tracer.TraceQueryStart(ctx, t.conn, pgx.TraceQueryStartData{SQL: sql, Args: args})
		}
	}
	return t
}

func (t *traced) end(tag pgconn.CommandTag, err error) {
	if t != nil && t.ctx != nil {
		t.tracer.TraceQueryEnd(t.ctx, t.conn, pgx.TraceQueryEndData{CommandTag: tag, Err: err})
	}
}
