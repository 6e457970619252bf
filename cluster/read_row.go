package cluster

import "github.com/jackc/pgx/v5"

// row is the first row of a statement, from a server, or from another one if the
// first fails: until Scan returns nobody has seen anything of it.
type row struct {
	trip

	sql  string
	args []any
	row  pgx.Row // nil if there was no server to send to, because of err
	err  error
}

// send sends the statement to the next server.
func (r *row) send() {
	on, pool, err := r.place()
	if err != nil {
		r.row, r.err = nil, err
		return
	}
	r.row = pool.QueryRow(on, r.sql, r.args...)
}

// Scan reads the row into dest. Without a row the error is [pgx.ErrNoRows].
func (r *row) Scan(dest ...any) error {
	defer r.leave() // also if a Scanner of the application panics
	for r.row != nil {
		err := r.row.Scan(dest...)
		if r.ended(&err) {
			return err
		}
		r.send()
	}
	return r.err
}
