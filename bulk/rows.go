package bulk

import (
	"context"
	"iter"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// FromSource copies the rows of pgx's own kind of source, as it is.
func FromSource(src pgx.CopyFromSource) Source {
	return rowSource{missing(src == nil), func(_ context.Context, _ []string, m *meter) (stream, error) {
		return &driverStream{CopyFromSource: src, m: m}, nil
	}}
}

// FromSlice copies the elements of a slice. An element is one of:
//
//   - a []any: the values of the columns in their order;
//   - a struct, or a pointer to one: each column is the field with that name in
//     its db tag, or else the field whose name is the column's without regard to
//     case and underscores, as in pgkeel.One. Fields without a column are left
//     out, a column without a field is an error;
//   - a map[string]any: the values under the columns' names, all of which must
//     be there;
//   - anything else: the value of the only column.
//
// Values are what pgx can encode; nil is NULL.
func FromSlice[T any](items []T) Source {
	return rowSource{"", func(_ context.Context, columns []string, m *meter) (stream, error) {
		values, err := rowOf[T](columns)
		if err != nil {
			return nil, err
		}
		next := 0
		return &valueStream[T]{m: m, values: values, pull: func() (*T, error) {
			if next == len(items) {
				return nil, nil //nolint:nilnil // the end
			}
			next++
			return &items[next-1], nil
		}}, nil
	}}
}

// FromSeq copies what an iterator yields; see [FromSlice] for the elements. The
// iterator runs on a goroutine of its own, and is ended however the COPY ends.
func FromSeq[T any](seq iter.Seq[T]) Source {
	if seq == nil {
		return FromSeq2[T](nil)
	}
	return FromSeq2(func(yield func(T, error) bool) {
		for item := range seq {
			if !yield(item, nil) {
				return
			}
		}
	})
}

// FromSeq2 is [FromSeq] for an iterator that can fail: the first error ends the
// COPY, and nothing is copied. pgkeel.Each is such an iterator.
func FromSeq2[T any](seq iter.Seq2[T, error]) Source {
	return rowSource{missing(seq == nil), func(_ context.Context, columns []string, m *meter) (stream, error) {
		values, err := rowOf[T](columns)
		if err != nil {
			return nil, err
		}
		next, stop := iter.Pull2(seq)
		var item T
		return &valueStream[T]{m: m, values: values, end: stop, pull: func() (*T, error) {
			var err error
			var more bool
			if item, err, more = next(); !more || err != nil {
				return nil, err
			}
			return &item, nil
		}}, nil
	}}
}

// FromChan copies what comes out of a channel until it is closed, or the context
// of the call ends, which is an error; see [FromSlice] for the elements. A COPY
// that failed receives no more: whoever sends must stop by the context, too.
func FromChan[T any](items <-chan T) Source {
	return rowSource{missing(items == nil), func(ctx context.Context, columns []string, m *meter) (stream, error) {
		values, err := rowOf[T](columns)
		if err != nil {
			return nil, err
		}
		interrupted := make(chan struct{})
		var once sync.Once
		var item T
		pull := func() (*T, error) {
			var more bool
			select {
			case item, more = <-items:
				if !more {
					return nil, nil //nolint:nilnil // the end
				}
				return &item, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-interrupted:
				return nil, nil //nolint:nilnil // the server's error says why
			}
		}
		interrupt := func() { once.Do(func() { close(interrupted) }) }
		return &chanStream[T]{valueStream[T]{m: m, values: values, pull: pull}, interrupt}, nil
	}}
}

func missing(isNil bool) string {
	if isNil {
		return "is made of nil"
	}
	return ""
}

// valueStream makes rows of what is pulled.
type valueStream[T any] struct {
	m *meter
	// pull returns the next element, or nil at the end.
	pull   func() (*T, error)
	values func(item *T, row []any) ([]any, error)
	end    func()

	row  []any
	s    streamState
	over bool
}

// Next moves to the next row.
func (v *valueStream[T]) Next() bool {
	if v.over {
		return false
	}
	v.s.row = false
	item, err := v.pull()
	if err == nil && item != nil {
		v.row, err = v.values(item, v.row[:0])
	}
	if v.s.err = err; err != nil || item == nil {
		v.over = true
		return false
	}
	v.s.rows++
	v.s.row = true
	v.m.addRow()
	return true
}

// Values are those of the row, which is overwritten by the next.
func (v *valueStream[T]) Values() ([]any, error) { return v.row, nil }

// Err is why there are no more rows.
func (v *valueStream[T]) Err() error {
	if v.s.err != nil {
		return errSource
	}
	return nil
}

func (v *valueStream[T]) stop() {
	if v.end != nil {
		v.end()
	}
}

func (v *valueStream[T]) state() streamState { return v.s }

// chanStream is a stream that can wait.
type chanStream[T any] struct {
	valueStream[T]
	interrupt func()
}

var _ providers.Interrupter = (*chanStream[any])(nil)

// Interrupt ends the waiting.
func (c *chanStream[T]) Interrupt() { c.interrupt() }

// driverStream is a source of the driver's kind, with its rows counted.
type driverStream struct {
	pgx.CopyFromSource
	m *meter
	s streamState
}

// Next moves to the next row.
func (d *driverStream) Next() bool {
	d.s.row = d.CopyFromSource.Next()
	if d.s.row {
		d.s.rows++
		d.m.addRow()
	}
	return d.s.row
}

// Values are those of the row.
func (d *driverStream) Values() ([]any, error) {
	values, err := d.CopyFromSource.Values()
	return values, d.failed(err)
}

// Err is why there are no more rows.
func (d *driverStream) Err() error { return d.failed(d.CopyFromSource.Err()) }

func (d *driverStream) failed(err error) error {
	if err == nil {
		return nil
	}
	if d.s.err == nil {
		d.s.err = err
		if d.s.row {
			d.s.rows-- // the row at hand is the one that failed
		}
	}
	return errSource
}

// Interrupt passes on.
func (d *driverStream) Interrupt() {
	if waiting, ok := d.CopyFromSource.(providers.Interrupter); ok {
		waiting.Interrupt()
	}
}

func (*driverStream) stop() {}

func (d *driverStream) state() streamState { return d.s }
