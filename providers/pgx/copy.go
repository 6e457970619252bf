package pgx

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// CopyFrom loads the rows of src into columns of table, and returns their
// number. An error means that none were loaded. A panic of src is the caller's.
func (p *Pool) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	if p.cfg.Scope != nil {
		return inScope(ctx, p, func(tx *Tx) (int64, error) { return tx.CopyFrom(ctx, table, columns, src) })
	}
	l, err := p.borrow(ctx, opCopy, nil)
	if err != nil {
		return 0, err
	}
	defer l.release()
	return p.copyFrom(ctx, l.conn(), table, columns, src)
}

func (p *Pool) copyFrom(ctx context.Context, conn *pgx.Conn, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (n int64, err error) {
	if p.observed(providers.EventCopy) {
		var f *providers.Firing
		ctx, f = p.hooks.Start(ctx, providers.HookInfo{Event: providers.EventCopy, Name: table.Sanitize(), PID: pidOf(conn)})
		err = errPanicked // until the source came back
		defer func() { f.End(n, err) }()
	}
	s := sessionOf(conn)
	o, behind := p.beginOrder(ctx, s, opCopy)
	if behind != nil {
		return 0, behind
	}
	defer func() { o.tell(ctx, err) }()
	guard := &s.source
	guard.inner = src
	if waiting, ok := src.(providers.Interrupter); ok {
		s.copying = waiting.Interrupt
	}
	n, err = conn.CopyFrom(ctx, table, columns, guard)
	failure, panicked := guard.err, guard.panicked
	*guard, s.copying = source{}, nil
	if panicked != nil {
		err = errPanicked
		panic(panicked)
	}
	if err != nil && failure != nil && !errors.Is(err, failure) {
		// The server only says that the client gave up; this is why.
		err = errors.Join(failure, err)
	}
	return n, p.mapError(ctx, opCopy, err)
}

// source is what rows are copied from. The driver asks it on a goroutine of its
// own, where a panic would end the program, so it is kept for the caller. Each
// session has one, so that a COPY costs no allocation for its own.
type source struct {
	inner pgx.CopyFromSource
	// values are those of the row, taken together with it: two protected calls
	// a row would cost twice as much as one.
	values    []any
	valuesErr error
	err       error
	panicked  any
}

// Next moves to the next row.
func (s *source) Next() (more bool) {
	defer s.recover()
	if !s.inner.Next() {
		return false
	}
	s.values, s.valuesErr = s.inner.Values()
	return true
}

// Values are those of the row.
func (s *source) Values() ([]any, error) {
	if s.err == nil {
		s.err = s.valuesErr
	}
	return s.values, s.valuesErr
}

// Err is why there are no more rows.
func (s *source) Err() (err error) {
	defer func() {
		if s.panicked != nil {
			err = errPanicked
		}
	}()
	defer s.recover()
	if s.panicked != nil {
		return nil
	}
	err = s.inner.Err()
	if s.err == nil {
		s.err = err
	}
	return err
}

func (s *source) recover() {
	if r := recover(); r != nil {
		s.panicked = r
	}
}
