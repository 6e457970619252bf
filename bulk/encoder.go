package bulk

import (
	"io"
)

// Encoder writes records in a COPY format, quoted and escaped as COPY FROM
// reads them back. It is not safe for concurrent use.
type Encoder struct {
	w      io.Writer
	format recordEncoder
	buffer []byte
	begun  bool
	err    error
}

// NewEncoder returns an encoder that writes to w. Faults of the format are
// [*OptionError]s. A header is the caller's to write, as a record of names.
func NewEncoder(w io.Writer, format Format) (*Encoder, error) {
	var f faults
	f.addf(w == nil, "w", "is nil")
	format = plain(format)
	checkFormat(&f, format, true, nil)
	if err := f.join(); err != nil {
		return nil, err
	}
	return &Encoder{w: w, format: format.encoder()}, nil
}

// Encode writes a record, one field a column, each in the text form of its
// type, or in the binary form for [Binary]. nil is NULL.
func (e *Encoder) Encode(fields ...[]byte) error {
	if e.err != nil {
		return e.err
	}
	e.buffer = e.buffer[:0]
	e.begin()
	var err error
	if e.buffer, err = e.format.record(e.buffer, fields); err != nil {
		return err // nothing was written, so the next record may be
	}
	e.begun = true
	_, e.err = e.w.Write(e.buffer)
	return e.err
}

func (e *Encoder) begin() {
	if !e.begun {
		e.buffer = e.format.begin(e.buffer)
	}
}

// Close writes what ends the data. It does not close the writer.
func (e *Encoder) Close() error {
	if e.err != nil {
		return e.err
	}
	e.buffer = e.buffer[:0]
	e.begin()
	e.begun = true
	if e.buffer = e.format.end(e.buffer); len(e.buffer) > 0 {
		_, e.err = e.w.Write(e.buffer)
	}
	return e.err
}
