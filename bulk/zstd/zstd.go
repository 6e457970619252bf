package zstd

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/pgkeel/pgkeel/bulk"
)

// DefaultMaxWindow is how much of the data before it a stream may refer to, in
// bytes. It is held in memory.
const DefaultMaxWindow = 64 << 20

// Codec is the Zstandard format. The zero Codec has the defaults.
type Codec struct {
	// Level is how hard to compress, as the zstd program counts: from 1 to 22.
	// Default: 3.
	Level int
	// MaxWindow bounds the memory that reading takes, in bytes. A stream that
	// asks for more is an error. Default: 64 MiB.
	MaxWindow uint64
}

var _ bulk.Codec = Codec{}

// NewReader returns a reader of what r holds compressed.
func (c Codec) NewReader(r io.Reader) (io.ReadCloser, error) {
	window := c.MaxWindow
	if window == 0 {
		window = DefaultMaxWindow
	}
	// With one goroutine there is none to be left behind.
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

// NewWriter returns a writer whose Close ends the compressed data.
func (c Codec) NewWriter(w io.Writer) (io.WriteCloser, error) {
	level := c.Level
	if level == 0 {
		level = 3
	}
	if level < 1 || level > 22 {
		return nil, fmt.Errorf("pgkeel: zstd: level %d; from 1 to 22, or 0 for 3", c.Level)
	}
	return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)))
}
