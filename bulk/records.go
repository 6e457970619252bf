package bulk

import (
	"context"
	"io"
	"iter"
)

// FromRecords copies records of fields that are text already, such as those of
// another file, and writes them in a format, [Text] for choice. nil is NULL.
// Unlike rows of Go values they can have every option of Into. The format must
// not have a Header. For [Binary] the fields are in the binary form of their
// types.
//
// The iterator may use the same slice for every record. The first error ends the
// COPY, and nothing is copied.
func FromRecords(seq iter.Seq2[[][]byte, error], format Format) Source {
	return recordSource{seq, plain(format)}
}

type recordSource struct {
	seq    iter.Seq2[[][]byte, error]
	format Format
}

func (s recordSource) validate(f *faults, into *Into) {
	f.addf(s.seq == nil, "src", "is made of nil")
	f.addf(into.Compression != nil, "Into.Compression", "has an effect with FromReader only")
	into.validateData(f, s.format)
	f.addf(s.format != nil && s.format.header() != NoHeader, "Format.Header", "records have none; leave it out")
}

func (s recordSource) needs(into *Into) []need { return readerSource{nil, s.format}.needs(into) }

func (s recordSource) load(ctx context.Context, on Target, into *Into, m *meter) (Result, error) {
	next, stop := iter.Pull2(s.seq)
	r := &recordReader{next: next, encoder: s.format.encoder(), gate: gate{free: stop}}
	idle := false
	defer func() {
		if !idle { // a panic of the iterator
			r.close()
		}
	}()
	res, err := readerSource{r, s.format}.load(ctx, on, into, m)
	if idle = r.close(); idle && err != nil && r.err != nil {
		return res, &SourceError{Row: r.records + 1, Err: r.err, server: err}
	}
	return res, err
}

// recordReader encodes records as they are asked for.
type recordReader struct {
	gate
	next    func() ([][]byte, error, bool)
	encoder recordEncoder
	buffer  []byte
	rest    []byte
	records int64
	begun   bool
	over    bool
	err     error
}

// Read fills b with as many records as there is room for.
func (r *recordReader) Read(b []byte) (n int, err error) {
	if !r.enter() {
		return 0, io.EOF
	}
	defer r.leave()
	for n < len(b) {
		if len(r.rest) == 0 && !r.fill() {
			break
		}
		k := copy(b[n:], r.rest)
		n, r.rest = n+k, r.rest[k:]
	}
	if n == 0 && len(b) > 0 {
		if r.err != nil {
			return 0, errSource
		}
		return 0, io.EOF
	}
	return n, nil
}

// fill encodes the next record.
func (r *recordReader) fill() bool {
	if r.over {
		return false
	}
	r.buffer = r.buffer[:0]
	if !r.begun {
		r.begun = true
		r.buffer = r.encoder.begin(r.buffer)
	}
	fields, err, more := r.next()
	switch {
	case err != nil:
		r.err = err
	case !more:
		r.buffer = r.encoder.end(r.buffer)
	default:
		if r.buffer, r.err = r.encoder.record(r.buffer, fields); r.err == nil {
			r.records++
		}
	}
	r.over = !more || r.err != nil
	if r.err != nil {
		return false
	}
	r.rest = r.buffer
	return len(r.rest) > 0
}
