package cluster

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// rows are those of a server, or of another one if the first fails before it has
// returned any.
type rows struct {
	pgx.Rows
	trip

	sql   string
	args  []any
	scope []providers.Setting
	// handed says that a row was handed out, done that the rows are closed.
	handed, done bool
	err          error
}

// failedRows are the result of a statement that was not run.
func failedRows(err error) pgx.Rows {
	r, _ := pgx.FailedBatchResults(&pgx.Batch{}, err).Query()
	return r
}

// query runs a statement, with the settings of a call.
func (c *Cluster) query(ctx context.Context, sql string, args []any, scope []providers.Setting) (*rows, error) {
	r := &rows{sql: sql, args: args, scope: scope}
	r.statement(ctx, c)
	return r, r.ask()
}

// ask sends the statement to one server after the other, until one takes it.
func (r *rows) ask() error {
	for {
		ctx, pool, err := r.place()
		if err != nil {
			r.Rows = failedRows(err)
			r.finish(err)
			return err
		}
		if err = r.send(ctx, pool); err == nil {
			return nil
		}
		if !r.again(&err) {
			r.finish(err)
			return err
		}
	}
}

// send sends the statement to a server.
func (r *rows) send(ctx context.Context, pool providers.Pool) (err error) {
	if len(r.scope) > 0 {
		call := providers.Call{Kind: providers.CallQuery, SQL: r.sql, Args: r.args, Scope: r.scope}
		err = pool.Run(ctx, &call)
		r.Rows = call.Rows
	} else {
		r.Rows, err = pool.Query(ctx, r.sql, r.args...)
	}
	r.answered()
	if r.Rows == nil {
		r.Rows = failedRows(err)
	}
	return err
}

// Next moves to the next row.
func (r *rows) Next() bool {
	for !r.Rows.Next() {
		if !r.resend() {
			r.Close()
			return false
		}
	}
	r.handed = true
	return true
}

// resend runs a statement again that failed before it returned a row.
func (r *rows) resend() bool {
	if r.handed || r.done {
		return false
	}
	err := r.Rows.Err()
	if err == nil {
		return false
	}
	if !r.again(&err) {
		r.finish(err)
		return false
	}
	return r.ask() == nil
}

// Close ends the rows.
func (r *rows) Close() {
	for !r.done {
		r.Rows.Close()
		if !r.resend() && !r.done {
			r.finish(r.Rows.Err())
		}
	}
}

func (r *rows) finish(err error) {
	r.done, r.err = true, err
	r.Rows.Close()
	r.leave()
	if err == nil || !r.harmless {
		// The object may outlive the query by long: keep no more than its errors.
		r.trip, r.args, r.scope = trip{}, nil, nil
	}
}

// Err is what went wrong, known for certain once the rows are closed.
func (r *rows) Err() error {
	if r.err != nil || r.done {
		return r.err
	}
	return r.Rows.Err()
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

// Conn returns the raw connection. What is done with it stays on its server.
func (r *rows) Conn() *pgx.Conn {
	r.handed = true
	return r.Rows.Conn()
}

// Abandon closes the rows without reading a long rest, where the server's pool can.
func (r *rows) Abandon() {
	if r.done {
		return
	}
	if a, ok := r.Rows.(interface{ Abandon() }); ok {
		a.Abandon()
	}
	r.handed = true // nothing is run again
	r.Close()
}

// Restart runs a read from its beginning again, on another server, if it ended
// because its server was lost. It is for who has kept to itself what was read so
// far, and forgets it.
func (r *rows) Restart() bool {
	if !r.handed || !r.done || r.err == nil || !r.harmless {
		return false
	}
	err := r.err
	if !r.again(&err) {
		return false
	}
	r.handed, r.done, r.err = false, false, nil
	_ = r.ask() // its error waits for Err
	return true
}
