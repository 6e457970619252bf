package fault

import (
	"encoding/binary"
	"io"
	"net"
)

// What a first packet says in place of a version.
const (
	cancelRequest = 80877102
	sslRequest    = 80877103
	gssRequest    = 80877104
)

// maxStartup is the limit of the server.
const maxStartup = 10000

// greet reads a client's first packet that is more than a question about
// encryption, which is answered with no.
func (s *session) greet(from io.Reader) (packet []byte, cancel bool, err error) {
	for {
		packet, err = readMessage(from, 4, maxStartup)
		if err != nil {
			return nil, false, err
		}
		if len(packet) < 8 {
			return nil, false, errProtocol
		}
		switch binary.BigEndian.Uint32(packet[4:]) {
		case sslRequest, gssRequest:
			if !s.open(Both) {
				return nil, false, net.ErrClosed
			}
			if _, err := s.client.Write([]byte{'N'}); err != nil {
				return nil, false, err
			}
		case cancelRequest:
			return packet, true, nil
		default:
			return packet, false, nil
		}
	}
}
