package fault

import (
	"bufio"
	"io"
	"net"
	"sync"
	"time"
)

// dialTimeout is for a server that does not answer.
const dialTimeout = 30 * time.Second

// session is one connection of a client, and that to the server which belongs to
// it.
type session struct {
	p       *Proxy
	client  net.Conn
	replies *replies
	hole    Direction // guarded by the proxy's mutex

	mu     sync.Mutex
	server net.Conn
	lines  []io.Closer
	ended  bool
	over   chan struct{}
}

func newSession(p *Proxy, client net.Conn) *session {
	return &session{p: p, client: client, replies: newReplies(), over: make(chan struct{})}
}

func (s *session) serve() {
	defer s.p.leave(s)
	defer s.close(false)
	from := s.lay(ToServer, s.client)
	packet, cancel, err := s.greet(from)
	if err != nil {
		s.end(ToServer)
		return
	}
	if cancel {
		s.handle(Message{Direction: ToServer, Body: packet[8:]}, func() error { return s.cancel(packet) })
		return
	}
	if !s.open(ToServer) || s.dial(packet) != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { s.pump(ToClient, s.lay(ToClient, s.server), s.client) })
	s.pump(ToServer, from, s.server)
	back.Wait()
}

// lay puts the proxy's line, if it has one, behind a connection.
func (s *session) lay(d Direction, from net.Conn) *bufio.Reader {
	if s.p.line == nil {
		return bufio.NewReader(from)
	}
	line := s.p.line.Lay(d, from)
	s.mu.Lock()
	ended := s.ended
	if !ended {
		s.lines = append(s.lines, line)
	}
	s.mu.Unlock()
	if ended {
		_ = line.Close()
	}
	return bufio.NewReader(line)
}

// dial connects to the server and sends it the first packet.
func (s *session) dial(packet []byte) error {
	dialer := net.Dialer{Timeout: dialTimeout}
	server, err := dialer.DialContext(s.p.dialing, s.p.upstream.network, s.p.upstream.address)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.server = server
	ended := s.ended
	s.mu.Unlock()
	if ended {
		_ = server.Close()
	}
	_, err = server.Write(packet)
	return err
}

// cancel passes a request to cancel on. The server closes when it has seen to it,
// and the client waits for that.
func (s *session) cancel(packet []byte) error {
	err := s.dial(packet)
	if err == nil {
		_, err = io.Copy(io.Discard, s.server)
	}
	return err
}

// pump passes messages on in one direction until the connection ends.
func (s *session) pump(d Direction, from io.Reader, to net.Conn) {
	texts := newStatements()
	for {
		raw, err := readMessage(from, 5, maxMessage)
		if err != nil {
			s.end(d)
			return
		}
		m := Message{Direction: d, Type: raw[0], Body: raw[5:]}
		if d == ToServer {
			m.SQL = texts.follow(m.Type, m.Body)
		} else if lost, alive := s.loses(m.Type); lost {
			if !alive {
				return
			}
			continue
		}
		if !s.handle(m, func() error { _, err := to.Write(raw); return err }) {
			s.close(false)
			return
		}
	}
}

// end closes the connection because one side has, once that can be known.
func (s *session) end(d Direction) {
	if s.open(d) {
		s.close(false)
	}
}

// open waits out a black hole. It reports false if the session ends before.
func (s *session) open(d Direction) bool {
	for {
		s.p.mu.Lock()
		holed, healed := (s.p.hole|s.hole)&d != 0, s.p.healed
		s.p.mu.Unlock()
		if !holed {
			return true
		}
		select {
		case <-healed:
		case <-s.over:
			return false
		}
	}
}

// close ends both connections, in an orderly way or with a reset, and then their
// lines.
func (s *session) close(rst bool) {
	s.mu.Lock()
	first := !s.ended
	if first {
		s.ended = true
		close(s.over)
		for _, c := range []net.Conn{s.client, s.server} {
			shut(c, rst)
		}
	}
	lines := s.lines
	s.lines = nil
	s.mu.Unlock()
	for _, l := range lines {
		_ = l.Close()
	}
	if lost := s.replies.over(); lost != nil {
		lost.rule.acted()
	}
}

func shut(c net.Conn, rst bool) {
	if c == nil {
		return
	}
	if tcp, ok := c.(*net.TCPConn); ok && rst {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
