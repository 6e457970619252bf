package pgkeel_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// lossy stands before a server and loses the connection at a message of the
// client's that contains a text.
type lossy struct {
	server string

	mu      sync.Mutex
	text    string
	deliver bool
	lost    int
}

// newLossy returns one that loses nothing so far, and the DSN that leads to it.
func newLossy(t testing.TB, dsn string) (*lossy, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	l := &lossy{server: u.Host}
	u.Host = listen(t, l.serve)
	return l, u.String()
}

// lose has the connection lost at the text: if deliver is set, after the server
// has done as the message asks, else before it sees it.
func (l *lossy) lose(text string, deliver bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text, l.deliver = text, deliver
}

func (l *lossy) losses() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

func (l *lossy) judge(message []byte) (lose, deliver bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text == "" || !bytes.Contains(message, []byte(l.text)) {
		return false, false
	}
	l.lost++
	return true, l.deliver
}

func (l *lossy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", l.server)
	if err != nil {
		return
	}
	defer server.Close()
	var silent atomic.Bool
	var back sync.WaitGroup
	defer back.Wait()
	back.Go(func() {
		defer client.Close()
		for {
			message, err := readMessage(server, 1)
			if err != nil || silent.Load() && message[0] == 'Z' {
				return // lost, or ready for the next: it has done as asked
			}
			if !silent.Load() {
				_, _ = client.Write(message)
			}
		}
	})
	message, err := readMessage(client, 0) // the first has no kind
	for err == nil {
		lose, deliver := l.judge(message)
		if lose && !deliver {
			_ = server.Close()
			return
		}
		if lose {
			silent.Store(true)
		}
		if _, err = server.Write(message); err == nil {
			message, err = readMessage(client, 1)
		}
	}
	if !silent.Load() {
		_ = server.Close()
	}
}

// readMessage reads one message with a head of that many bytes before its length.
func readMessage(r io.Reader, head int) ([]byte, error) {
	message := make([]byte, head+4)
	if _, err := io.ReadFull(r, message); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(message[head:])-4)
	_, err := io.ReadFull(r, body)
	return append(message, body...), err
}

// listen accepts connections and hands each to serve until the test is over.
func listen(t testing.TB, serve func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	over := false
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			if over {
				_ = c.Close()
			}
			mu.Unlock()
			all.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		over = true
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}
