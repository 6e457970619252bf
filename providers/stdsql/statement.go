package stdsql

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// statement is one statement on its way to a connection.
type statement struct {
	lease *lease
	// owned says that the connection was taken for this statement alone, and
	// goes back after it.
	owned bool
	// use is what the statement occupies until its end. nil when owned.
	use *use
	// tx is the transaction that it is part of, if any.
	tx *Tx
	// cancel frees the statement's context at its end. Optional.
	cancel context.CancelFunc
	// scope are settings that it runs in a transaction of its own for.
	scope []providers.Setting
	// single says that the text must not hold several statements.
	single bool
	// order is what the context holds it to; nil for most.
	order *order
	sql   string
	args  []any
	// effects are those that the text shows.
	effects sqltext.Effects
}

// confine gives a statement that is no transaction's its scope: what it is
// confined to, what its call asks for, and what the context declares.
func (st *statement) confine(ctx context.Context, confined, scope []providers.Setting) {
	st.scope = declared(ctx, providers.WithinScope(confined, scope))
	st.single = len(st.scope) > 0
}

// end gives back what the statement occupied.
func (st *statement) end() {
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

// ready checks a statement, and prepares its arguments, before it is sent.
func (st *statement) ready(ctx context.Context, op string) error {
	if ctx.Err() != nil {
		return notSent(ctx, op, ctx.Err())
	}
	if st.lease.gone.Load() {
		return errConnLost
	}
	if err := st.prepareArgs(ctx); err != nil {
		return err
	}
	if strings.ContainsRune(st.sql, 0) {
		return refused(errNUL)
	}
	if st.effects&sqltext.CopiesIn != 0 {
		return refused(errCopyIn)
	}
	if err := st.keepScope(); err != nil {
		return err
	}
	if err := st.order.pass(ctx, op); err != nil {
		return err
	}
	st.lease.soil(st.effects)
	return nil
}

// failed notes in the transaction that a statement did not succeed.
func (st *statement) failed() {
	if st.tx != nil {
		st.tx.root.tainted = true
	}
}

// exec runs a statement without rows and ends it.
func (p *Pool) exec(ctx context.Context, st statement) (tag pgconn.CommandTag, err error) {
	defer st.end()
	st.holdToOrder(ctx)
	if len(st.scope) > 0 {
		tag, err = st.execInScope(ctx)
	} else {
		tag, err = st.exec(ctx)
	}
	st.order.tell(ctx, err)
	return tag, err
}

func (st *statement) exec(ctx context.Context) (tag pgconn.CommandTag, err error) {
	ctx, f := st.lease.pool.startHook(ctx, providers.EventExec, st.sql)
	f.SetPID(st.lease.pid)
	err = errPanicked // until the statement came back
	defer func() { f.End(tag.RowsAffected(), err) }()
	if err = st.ready(ctx, opExec); err != nil {
		return tag, err
	}
	tag, err = st.send(ctx)
	if err = st.lease.fault(ctx, opExec, err); err != nil {
		st.failed()
	}
	return tag, err
}

// errPanicked is what hooks see of a statement whose arguments panicked.
var errPanicked = errors.New("pgkeel: code of the application panicked or ended its goroutine")

// send has the driver run a statement without rows.
func (st *statement) send(ctx context.Context) (pgconn.CommandTag, error) {
	bound, done := st.lease.bound(ctx)
	defer done()
	var result sql.Result
	var err error
	if st.single && len(st.args) == 0 && sqltext.IsSeveral(st.sql) {
		// Without arguments a driver would let the server run all of them.
		var prepared *sql.Stmt
		if prepared, err = st.lease.conn.PrepareContext(bound, st.sql); err != nil {
			return pgconn.CommandTag{}, err
		}
		result, err = prepared.ExecContext(bound)
		err = closePrepared(prepared, err)
	} else {
		result, err = st.lease.conn.ExecContext(bound, st.sql, st.args...)
	}
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	n, err := result.RowsAffected()
	if err != nil {
		n = 0 // the driver knows no number for statements of this kind
	}
	return commandTag(st.sql, n), nil
}

// closePrepared closes a prepared statement and returns how it went. After a
// failure the close cannot succeed in a transaction, and would hide the first
// error.
func closePrepared(prepared *sql.Stmt, err error) error {
	if closeErr := prepared.Close(); err == nil {
		return closeErr
	}
	return err
}

// commandTag makes a tag of a statement's first word and a number of rows, since
// database/sql has none.
func commandTag(sql string, rows int64) pgconn.CommandTag {
	n := strconv.FormatInt(rows, 10)
	first, _ := sqltext.First(sql)
	switch command := strings.ToUpper(first); command {
	case "INSERT":
		return pgconn.NewCommandTag("INSERT 0 " + n)
	case "SELECT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "TABLE", "FETCH", "MOVE", "COPY":
		return pgconn.NewCommandTag(command + " " + n)
	default:
		if rows > 0 {
			return pgconn.NewCommandTag(strings.TrimSpace(command + " " + n))
		}
		return pgconn.NewCommandTag(command)
	}
}

// query runs a statement and hands out its rows.
func (p *Pool) query(ctx context.Context, st statement) (pgx.Rows, error) {
	r := newRows(ctx, st)
	return r.open()
}

// run executes a call.
func (p *Pool) run(ctx context.Context, st statement, call *providers.Call) (err error) {
	st.single = st.single || len(call.Scope) > 0
	if call.Kind == providers.CallQuery {
		call.Rows, err = p.query(ctx, st) // the rows end the statement
		return err
	}
	call.Tag, err = p.exec(ctx, st)
	return err
}

// failedRows are the result of a statement that was not sent.
func failedRows(err error) pgx.Rows {
	r, _ := pgx.FailedBatchResults(&pgx.Batch{}, err).Query()
	return r
}
