package pgx

import (
	"errors"

	"github.com/jackc/pgx/v5"
)

// part is one result of a batch as rows. It occupies nothing itself, and is much
// smaller than the rows of a statement, as a batch can have many.
type part struct {
	pgx.Rows

	results *batchResults
	err     error
	done    bool
}

// Next moves to the next row.
func (r *part) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Scan reads the row. An error closes the rows, as in pgx.
func (r *part) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

// Values reads the row. An error closes the rows, as in pgx.
func (r *part) Values() ([]any, error) {
	values, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return values, err
}

// Err is what went wrong, known for certain once the rows are closed.
func (r *part) Err() error {
	if r.done {
		return r.err
	}
	return r.results.mapped(r.Rows.Err())
}

// Close reads the rest of the result.
func (r *part) Close() {
	if r.done {
		return
	}
	r.Rows.Close()
	r.done, r.err = true, r.results.mapped(r.Rows.Err())
}

// Abandon closes the rows. A statement that was stopped would fail the batch, so the
// rest is read after all.
func (r *part) Abandon() { r.Close() }

// Conn returns the raw connection, which is closed afterwards instead of reused.
// It is nil after the end, and where it would be confined to a scope until then
// only.
func (r *part) Conn() *pgx.Conn {
	s := r.results.st.lease.s
	if r.done || r.results.isScoped && r.results.tx == nil {
		return nil
	}
	s.retire()
	return r.Rows.Conn()
}

// partRow is one result of a batch of which only the first row is read.
type partRow struct {
	pgx.Row

	results *batchResults
}

// Scan reads the first row into dest and ends the result. Without a row the error
// is [pgx.ErrNoRows].
func (r *partRow) Scan(dest ...any) error {
	if r.Row == nil {
		return errScannedTwice
	}
	row := r.Row
	r.Row = nil
	err := row.Scan(dest...)
	if err != nil {
		err = r.results.mapped(err)
	}
	return err
}

// mostParts is how many are allocated at once.
const mostParts = 64

// next makes rows of the next result.
func (r *batchResults) next() *part {
	if len(r.parts) == 0 {
		r.parts = make([]part, min(max(r.batch.Len(), 1), mostParts))
	}
	next := &r.parts[0]
	r.parts = r.parts[1:]
	r.advance()
	next.results = r
	next.Rows, _ = r.BatchResults.Query() // its error is the rows' own
	r.lastPart = next
	return next
}

// nextRow makes a row of the next result.
func (r *batchResults) nextRow() *partRow {
	if len(r.rows) == 0 {
		r.rows = make([]partRow, min(max(r.batch.Len(), 1), mostParts))
	}
	next := &r.rows[0]
	r.rows = r.rows[1:]
	r.advance()
	next.Row, next.results = r.BatchResults.QueryRow(), r
	r.lastRow = next
	return next
}

// pass ends what was handed out last. The driver's own rows would go on with the next
// result, and then with those of the next borrower.
func (r *batchResults) pass() {
	if r.lastPart != nil {
		r.lastPart.Close()
		r.lastPart = nil
	}
	if r.lastRow != nil {
		if r.lastRow.Row != nil {
			r.lastRow.Row = passedRow{}
		}
		r.lastRow = nil
	}
}

var errPassed = errors.New("pgkeel: the row was not scanned before the batch went on")

// passedRow is a row that nobody scanned.
type passedRow struct{}

// Scan says that it is too late.
func (passedRow) Scan(...any) error { return errPassed }
