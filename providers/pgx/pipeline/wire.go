package pipeline

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5/pgproto3"
)

// The kinds of the server's messages that the engine tells apart. All others
// (notifications, parameters) change nothing for a statement.
const (
	msgParseComplete   = '1'
	msgBindComplete    = '2'
	msgNoData          = 'n'
	msgParameters      = 't'
	msgRowDescription  = 'T'
	msgDataRow         = 'D'
	msgCommandComplete = 'C'
	msgEmptyQuery      = 'I'
	msgNotice          = 'N'
	msgError           = 'E'
	msgReady           = 'Z'
)

// headerSize is a message's kind and length.
const headerSize = 5

// inboxSize is how much is read at a time.
const inboxSize = 64 << 10

// maxMessage bounds a message that must be held whole: the server makes none that is
// larger, though errors that quote a value come close. Rows are bounded by the engine's
// limit on results instead.
const maxMessage = 1 << 30

// inbox cuts what arrives into messages, without copying them.
type inbox struct {
	buf  []byte
	r, w int
	// skip is how much of a message that nobody wants is still to come.
	skip int
}

// next returns the next whole message, valid until fill. A row for which
// wanted says no is dropped as it arrives, however large it is; its body is
// then nil.
func (in *inbox) next(wanted func(size int) bool) (kind byte, body []byte, ok bool, err error) {
	if in.skip > 0 {
		n := min(in.skip, in.w-in.r)
		in.r += n
		in.skip -= n
	}
	if in.skip > 0 || in.w-in.r < headerSize {
		return 0, nil, false, nil
	}
	kind = in.buf[in.r]
	size := int(binary.BigEndian.Uint32(in.buf[in.r+1:])) - 4
	if size < 0 {
		return 0, nil, false, fmt.Errorf("message %q of %d bytes", kind, size)
	}
	if kind == msgDataRow && !wanted(size) {
		in.r += headerSize
		in.skip = size
		return kind, nil, true, nil
	}
	if in.w-in.r < headerSize+size {
		if size > maxMessage && kind != msgDataRow {
			return 0, nil, false, fmt.Errorf("message %q of %d bytes, more than the %d that are held", kind, size, maxMessage)
		}
		// A length alone is not believed: there is room for twice what has come.
		in.reserve(min(headerSize+size, max(inboxSize, 2*(in.w-in.r))))
		return 0, nil, false, nil
	}
	body = in.buf[in.r+headerSize : in.r+headerSize+size]
	in.r += headerSize + size
	return kind, body, true, nil
}

// reserve makes room for a message of that size.
func (in *inbox) reserve(size int) {
	if size <= len(in.buf)-in.r {
		return
	}
	to := in.buf
	if size > len(in.buf) {
		to = make([]byte, size)
	}
	in.w = copy(to, in.buf[in.r:in.w])
	in.r, in.buf = 0, to
}

// fill reads once. What next returned before is no longer valid.
func (in *inbox) fill(conn net.Conn) error {
	if in.r == in.w {
		in.r, in.w = 0, 0
		if len(in.buf) > inboxSize || in.buf == nil {
			in.buf = make([]byte, inboxSize) // a large one was for one large message
		}
	}
	if in.w == len(in.buf) {
		in.reserve(in.w - in.r + 1)
	}
	n, err := conn.Read(in.buf[in.w:])
	in.w += n
	if n > 0 {
		return nil
	}
	return err
}

// What is sent is built by the driver's own encoders; none of these can fail
// but for counts over 65,535, which encoding refused before.

func appendSync(b []byte) []byte {
	b, _ = (&pgproto3.Sync{}).Encode(b)
	return b
}

func appendExecute(b []byte) []byte {
	b, _ = (&pgproto3.Execute{}).Encode(b)
	return b
}

func appendPrepare(b []byte, s *statement) []byte {
	parse := pgproto3.Parse{Name: s.name, Query: s.sql, ParameterOIDs: s.paramOIDs}
	b, _ = parse.Encode(b)
	describe := pgproto3.Describe{ObjectType: 'S', Name: s.name}
	b, _ = describe.Encode(b)
	return b
}

func appendForget(b []byte, name string) []byte {
	forget := pgproto3.Close{ObjectType: 'S', Name: name}
	b, _ = forget.Encode(b)
	return b
}
