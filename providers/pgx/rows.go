package pgx

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// rows are the driver's rows, whose errors say what happened and whose end
// gives the connection back.
type rows struct {
	pgx.Rows

	st     statement
	ctx    context.Context //nolint:containedctx // that of the statement, whose results these are
	row    pgx.Row
	batch  pgx.BatchResults
	firing *providers.Firing
	err    error
	begun  bool
	done   bool
}

func (r *rows) start(ctx context.Context, st statement) {
	r.st = st
	r.ctx, r.firing = st.lease.s.pool.startHook(ctx, providers.EventQuery, st.sql, st.lease.s.pid)
}

// Next moves to the next row. After the last one, or an error, everything is
// given back.
func (r *rows) Next() bool {
	if r.Rows.Next() {
		r.begun = true
		return true
	}
	if !r.begun && !r.done && r.retryStale(r.Rows.Err()) {
		return r.Next()
	}
	r.Close()
	return false
}

// Scan reads the row. An error closes the rows, as in pgx.
func (r *rows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

// Values reads the row. An error closes the rows, as in pgx.
func (r *rows) Values() ([]any, error) {
	values, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return values, err
}

// Err is what went wrong, known for certain once the rows are closed.
func (r *rows) Err() error {
	if r.err != nil {
		return r.err
	}
	if !r.done {
		return r.st.lease.s.pool.mapError(r.ctx, opQuery, r.Rows.Err())
	}
	return nil
}

// Conn returns the raw connection, which is closed afterwards instead of
// reused, since whoever has it could go on using it.
func (r *rows) Conn() *pgx.Conn {
	conn := r.Rows.Conn()
	if conn != nil && !r.done {
		r.st.lease.s.retire()
	}
	return conn
}

// Close ends the rows and gives the connection back. pgx reads what the server
// still sends, so cancel the context first to abandon a long result.
func (r *rows) Close() {
	if r.done {
		return
	}
	r.Rows.Close()
	err := r.Rows.Err()
	if r.batch != nil {
		if closeErr := r.batch.Close(); err == nil {
			err = closeErr
		}
	}
	r.finish(r.Rows.CommandTag(), err)
}

// fail ends rows that never began.
func (r *rows) fail(err error) {
	if r.batch != nil {
		_ = r.batch.Close() // err is why
	}
	r.finish(pgconn.CommandTag{}, err)
}

func (r *rows) finish(tag pgconn.CommandTag, err error) {
	r.done = true
	l := r.st.lease
	if err != nil {
		r.err = l.s.pool.mapError(r.ctx, opQuery, err)
	}
	r.firing.End(tag.RowsAffected(), r.err)
	r.st.end()
	// The object may outlive the query by long: keep no more than its errors.
	r.firing, r.st = nil, statement{lease: l}
}

// retryStale runs the statement again if its cached plan did not fit the schema
// any more. Inside a transaction that is not possible: the server has already
// failed the transaction.
func (r *rows) retryStale(err error) bool {
	conn := r.st.lease.conn()
	if !isStalePlan(err) || r.batch != nil || conn.PgConn().TxStatus() != 'I' {
		return false
	}
	inner, err := conn.Query(r.ctx, r.st.sql, r.st.args...)
	r.Rows, r.begun = inner, true
	return err == nil
}

// row is rows of which only the first is read.
type row rows

// Scan reads the first row into dest and gives the connection back. Without a
// row the error is [pgx.ErrNoRows].
func (r *row) Scan(dest ...any) error {
	rs := (*rows)(r)
	if rs.done {
		return rs.scanned()
	}
	defer func() {
		// A panic in a Scanner of the application must not keep the connection.
		if p := recover(); p != nil {
			rs.finish(pgconn.CommandTag{}, panicError(p))
			panic(p)
		}
	}()
	err := rs.row.Scan(dest...)
	conn := rs.st.lease.conn()
	if isStalePlan(err) && conn.PgConn().TxStatus() == 'I' {
		err = conn.QueryRow(rs.ctx, rs.st.sql, rs.st.args...).Scan(dest...)
	}
	var tag pgconn.CommandTag
	if err == nil {
		tag = pgconn.NewCommandTag("SELECT 1")
	}
	rs.finish(tag, err)
	return rs.err
}

func (r *rows) scanned() error {
	if r.err != nil {
		return r.err
	}
	return errScannedTwice
}

// failedRows are the result of a statement that was not sent.
func failedRows(err error) pgx.Rows {
	r, _ := pgx.FailedBatchResults(&pgx.Batch{}, err).Query()
	return r
}

// failedRow is failedRows for one row.
func failedRow(err error) pgx.Row { return pgx.FailedBatchResults(&pgx.Batch{}, err).QueryRow() }

// abandonTimeout bounds the request to stop the server's work.
const abandonTimeout = 2 * time.Second

// Abandon closes the rows without reading the rest: it has the server stop.
// The request could reach the server after the statement's end and hit the next
// one, so the connection is closed instead of reused. Inside a transaction,
// which a stopped statement would fail, the rest is read after all.
func (r *rows) Abandon() {
	if r.done {
		return
	}
	conn := r.st.lease.conn()
	if conn.PgConn().TxStatus() != 'I' {
		r.Close()
		return
	}
	r.st.lease.s.retire()
	if r.st.lease.s.pool.cfg.Profile == providers.ProfilePgBouncer {
		_ = conn.Close(ended())
	} else {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), abandonTimeout)
		defer cancel()
		if conn.PgConn().CancelRequest(ctx) != nil {
			_ = conn.Close(ended())
		}
	}
	r.Close()
	r.err = nil // the end is as asked
}
