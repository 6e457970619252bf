package bulk

import (
	"compress/gzip"
	"errors"
	"io"
)

// Codec is a way to compress. [Gzip] is one; package bulk/zstd, a module of its
// own, has another; any other library fits into a few lines.
type Codec interface {
	// NewReader returns a reader of what r holds compressed.
	NewReader(r io.Reader) (io.ReadCloser, error)
	// NewWriter returns a writer whose Close ends the compressed data, and
	// leaves w open.
	NewWriter(w io.Writer) (io.WriteCloser, error)
}

// Gzip is the gzip format.
type Gzip struct {
	// Level is how hard to compress, from 1 to 9. Default: that of
	// compress/gzip.
	Level int
}

var _ Codec = Gzip{}

// NewReader returns a reader of what r holds compressed.
func (Gzip) NewReader(r io.Reader) (io.ReadCloser, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err // not a nil pointer in an interface
	}
	return z, nil
}

// NewWriter returns a writer whose Close ends the compressed data.
func (g Gzip) NewWriter(w io.Writer) (io.WriteCloser, error) {
	if g.Level == 0 {
		return gzip.NewWriter(w), nil
	}
	return gzip.NewWriterLevel(w, g.Level)
}

// decompress returns a reader of the plain data. It opens at the first Read,
// since most codecs read a header at once. close frees what it holds.
func decompress(r io.Reader, codec Codec) io.Reader {
	if codec == nil {
		return r
	}
	return &lazyReader{r: r, codec: codec}
}

type lazyReader struct {
	r     io.Reader
	codec Codec
	plain io.ReadCloser
	err   error
}

// Read reads plain data.
func (l *lazyReader) Read(b []byte) (int, error) {
	if l.plain == nil && l.err == nil {
		if l.plain, l.err = l.codec.NewReader(l.r); l.err != nil {
			l.plain = nil // whatever it is, it is not to be closed
			if errors.Is(l.err, io.EOF) {
				l.err = io.ErrUnexpectedEOF // no data is not no archive
			}
		}
	}
	if l.err != nil {
		return 0, l.err
	}
	return l.plain.Read(b)
}

// Close frees what the codec holds, and leaves the reader underneath alone.
func (l *lazyReader) Close() error {
	if l.plain == nil {
		return nil
	}
	return l.plain.Close()
}

// cutOff is a writer that can be cut off from the one underneath, so that a
// codec may be closed without making a torso look whole.
type cutOff struct {
	w    io.Writer
	gone bool
}

// Write passes on, or drops.
func (c *cutOff) Write(b []byte) (int, error) {
	if c.gone {
		return len(b), nil
	}
	return c.w.Write(b)
}
