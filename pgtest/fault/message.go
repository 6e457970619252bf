package fault

import (
	"encoding/binary"
	"errors"
	"io"
)

// Direction is one way of a connection, or both.
type Direction uint8

// The directions.
const (
	ToServer Direction = 1 << iota
	ToClient
	Both = ToServer | ToClient
)

// String returns the name of the constant.
func (d Direction) String() string {
	switch d {
	case ToServer:
		return "ToServer"
	case ToClient:
		return "ToClient"
	case Both:
		return "Both"
	}
	return "no direction"
}

// Message is one message of the protocol, after the startup.
type Message struct {
	// Direction is ToServer for what the client sends, else ToClient.
	Direction Direction
	// Type is the protocol's letter for the message. A request to cancel has
	// none, and 0 here.
	Type byte
	// Body is what follows the length. It must not be changed or kept.
	Body []byte
	// SQL is the text of the statement that a Query or Execute runs, a Parse
	// prepares or a Bind binds, as far as it was sent on this connection.
	SQL string
}

// maxMessage is the size beyond which PostgreSQL itself sends and takes nothing.
const maxMessage = 1 << 30

var errProtocol = errors.New("this is not PostgreSQL's protocol")

// readMessage reads a head, of so many bytes the last four of which are the
// length, and what follows.
func readMessage(from io.Reader, head, limit int) ([]byte, error) {
	raw := make([]byte, head, 512)
	if _, err := io.ReadFull(from, raw); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(raw[head-4:])) - 4
	if n < 0 || n > limit {
		return nil, errProtocol
	}
	if cap(raw) < head+n {
		raw = append(make([]byte, 0, head+n), raw...)
	}
	raw = raw[:head+n]
	_, err := io.ReadFull(from, raw[head:])
	return raw, err
}
