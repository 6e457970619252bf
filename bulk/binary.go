package bulk

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Binary is COPY's binary format: the values as the server's types send them.
// It depends on the types of the columns, and may differ between versions.
type Binary struct {
	// Encoding of text in the data, by PostgreSQL's name. Default: UTF8.
	Encoding string
}

var _ Format = Binary{}

func (Binary) name() string { return "binary" }

func (Binary) header() Header { return NoHeader }

func (b Binary) options(o *optionList) { o.text("encoding", b.Encoding) }

func (b Binary) validate(f *faults, _ bool, _ []string) { f.noNUL("Format.Encoding", b.Encoding) }

func (Binary) encoder() recordEncoder { return binaryEncoder{} }

// binaryEncoder writes fields that are in the binary form of their types.
type binaryEncoder struct{}

// binaryBegin is the signature, no flags, and no header extension.
const binaryBegin = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func (binaryEncoder) begin(dst []byte) []byte { return append(dst, binaryBegin...) }

func (binaryEncoder) end(dst []byte) []byte { return append(dst, 0xff, 0xff) }

func (binaryEncoder) record(dst []byte, fields [][]byte) ([]byte, error) {
	if err := checkFields(fields); err != nil {
		return dst, err
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(fields))) //nolint:gosec // checked above
	for _, field := range fields {
		if field == nil {
			dst = append(dst, 0xff, 0xff, 0xff, 0xff)
			continue
		}
		if len(field) > math.MaxInt32 {
			return dst, fmt.Errorf("pgkeel: bulk: a field of %d bytes is more than the protocol can tell", len(field))
		}
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(field))) //nolint:gosec // checked above
		dst = append(dst, field...)
	}
	return dst, nil
}
