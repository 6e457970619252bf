package pgx

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/pgx/pipeline"
)

// rows are the driver's rows, whose errors say what happened and whose end
// gives the connection back.
type rows struct {
	pgx.Rows

	lease lease
	// use is that of the statement.
	use *use
	ctx context.Context //nolint:containedctx // that of the statement, whose results these are
	err error
	// begun says that it is too late to run the statement again.
	begun bool
	done  bool
}

// running is the statement whose rows are being read, and what they are a part of.
// A session has one at a time, while result objects are never used again: what is
// gone with the statement stands here, so that they are small.
type running struct {
	statement

	// around is what the rows are a part of. Optional.
	around interface{ Close() error }
	// scope is that of a scoped statement; inScope says that it runs in a
	// transaction of its own because of it.
	scope   []providers.Setting
	inScope bool
}

// running is nobody else's until the rows are done.
func (r *rows) running() *running { return &r.lease.s.running }

func (r *rows) start(ctx context.Context, st *statement) {
	r.lease, r.use = st.lease, st.use
	r.ctx, st.firing = st.lease.s.pool.observe(ctx, providers.EventQuery, st)
	run := r.running()
	run.statement = *st
	run.use = nil // a part of the borrower's object, of which the session keeps nothing
}

// failIfPanicking gives everything back when an argument of the application
// panicked before there was a result.
func (r *rows) failIfPanicking() {
	if r.Rows == nil {
		r.Rows = failedRows(errPanicked)
		r.begun = true
		r.Close()
	}
}

// Next moves to the next row. After the last one, or an error, everything is
// given back.
func (r *rows) Next() bool {
	if r.Rows.Next() {
		r.begun = true
		return true
	}
	if r.retry(r.Rows.Err()) {
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
		return r.lease.s.pool.mapError(r.ctx, opQuery, r.Rows.Err())
	}
	return nil
}

// Conn returns the raw connection, which is closed afterwards instead of
// reused, since whoever has it could go on using it. It is nil after the end, and
// where it would be confined to a scope (a tenant) until then only.
func (r *rows) Conn() *pgx.Conn {
	if r.done || len(r.running().scope) > 0 && r.lease.s.pool.cfg.Scope != nil {
		return nil
	}
	r.lease.s.retire()
	return r.Rows.Conn()
}

// Close ends the rows and gives the connection back. pgx reads what the server
// still sends, so cancel the context first to abandon a long result.
func (r *rows) Close() {
	if r.done {
		return
	}
	r.Rows.Close()
	if r.retry(r.Rows.Err()) {
		r.Rows.Close()
	}
	err := r.lease.s.replicated(r.ctx, opQuery, r.closeAround(r.Rows.Err()))
	if err != nil {
		err = r.lease.s.pool.mapError(r.ctx, opQuery, err)
	}
	r.running().order.tell(r.ctx, err)
	r.finish(err)
}

// closeAround closes what the rows are part of.
func (r *rows) closeAround(err error) error {
	switch run := r.running(); {
	case run.around != nil:
		if closeErr := run.around.Close(); err == nil {
			err = closeErr
		}
	case run.inScope:
		err = r.lease.s.pool.closeScope(r.ctx, r.lease.conn(), err)
	}
	return err
}

func (r *rows) finish(err error) {
	r.done, r.err = true, err
	run := r.running()
	st := run.statement
	st.use = r.use
	*run = running{}
	st.firing.End(r.Rows.CommandTag().RowsAffected(), err)
	st.end()
	// The object may outlive the query by long: keep no more than its errors.
	r.ctx, r.use, r.lease = nil, nil, lease{}
}

// retry runs the statement again if its cached plan did not fit the schema any
// more. Inside a transaction that is not possible: the server has already failed
// the transaction.
func (r *rows) retry(err error) bool {
	if err == nil || r.begun || r.done {
		return false
	}
	conn, run := r.lease.conn(), r.running()
	if run.around != nil {
		_ = run.around.Close() // err is why; the server's state is known only now
		r.lease.s.forgetStale(err)
		if !needsSettingsFirst(conn, err, run.sql) {
			return false
		}
		r.begun, run.around = true, nil
		if err := r.reopen(); err != nil {
			r.Rows = failedRows(err)
			return false
		}
	} else if !isRepeatable(conn, err, run.sql) {
		return false
	}
	r.begun = true
	return r.ask() == nil
}

// reopen readies the connection for the statement's second attempt.
func (r *rows) reopen() error {
	run := r.running()
	if run.order != nil {
		run.order.known = false // it was the position behind the first
	}
	if len(run.scope) == 0 {
		return nil
	}
	err := r.lease.s.pool.openScope(r.ctx, r.lease, run.scope)
	run.inScope = err == nil
	return err
}

// ask sends the statement as it is. An argument that panics ends the rows.
func (r *rows) ask() (err error) {
	r.Rows = failedRows(errPanicked)
	panicking := true
	defer func() {
		if panicking {
			r.Close()
		}
	}()
	r.Rows, err = r.running().query(r.ctx)
	panicking = false
	return err
}

// row is rows of which only the first is read.
type row rows

// asRow makes a row of the rows of this package.
func asRow(r pgx.Rows) pgx.Row {
	switch r := r.(type) {
	case *rows:
		return (*row)(r)
	case *pipeline.Rows:
		return (*pipelinedRow)(r)
	default:
		return providers.FirstRow(r) // refused
	}
}

// Scan reads the first row into dest and gives the connection back. Without a
// row the error is [pgx.ErrNoRows].
func (r *row) Scan(dest ...any) error {
	rs := (*rows)(r)
	if rs.done {
		return rs.scanned()
	}
	return providers.ScanFirst(rs, dest)
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

const (
	// abandonTimeout bounds the request to stop the server's work.
	abandonTimeout = 2 * time.Second
	// abandonGrace is how long the rest of a result may take to be read. Most
	// results are over by then; a request to stop that comes too late costs the
	// connection.
	abandonGrace = 5 * time.Millisecond
)

// Abandon closes the rows without reading a long rest: it has the server stop.
// Inside a transaction, which a stopped statement would fail, the rest is read
// after all.
func (r *rows) Abandon() {
	if r.done {
		return
	}
	r.begun = true // nothing is run again
	if r.lease.conn().PgConn().TxStatus() != 'I' {
		r.Close()
		return
	}
	stopped := r.stopAfter(abandonGrace)
	r.Rows.Close()
	err := r.closeAround(r.Rows.Err())
	if stopped() && !isStopped(err) {
		// The request could still reach the server, and hit the next statement.
		r.lease.s.retire()
	}
	r.finish(nil) // the end is as asked
}

// stopAfter asks the server to stop after a time. The function that it returns
// calls that off, and reports whether it was too late to.
func (r *rows) stopAfter(grace time.Duration) func() bool {
	p, ctx, conn := r.lease.s.pool, r.ctx, r.lease.conn()
	asked := make(chan struct{})
	timer := time.AfterFunc(grace, func() {
		defer close(asked)
		p.stopServer(ctx, conn)
	})
	return func() bool {
		if timer.Stop() {
			return false
		}
		<-asked
		return true
	}
}

// stopServer asks the server to stop, or closes the connection where that
// request could be misdirected: the socket, since somebody else may be reading
// from it. It reports whether it closed.
func (p *Pool) stopServer(ctx context.Context, conn *pgx.Conn) (cut bool) {
	if p.cfg.Profile != providers.ProfilePgBouncer {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
		defer cancel()
		if conn.PgConn().CancelRequest(ctx) == nil {
			return false
		}
	}
	_ = conn.PgConn().Conn().Close()
	return true
}

// isStopped reports that the server carried out a request to stop, so that no
// such request is under way any more.
func isStopped(err error) bool {
	if err == nil {
		return false
	}
	pg := providers.NewPGError(err)
	return pg != nil && pg.IsQueryCanceled() && serverLimit(pg) == ""
}
