package providertest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// verdict is what becomes of a message of the client.
type verdict int

const (
	forward verdict = iota
	// cutBefore closes both sides, so that the server never sees the message.
	cutBefore
	// cutAfter lets the server do as asked, and the client never hears of it.
	cutAfter
)

// maxMessage is what a peer that speaks something else could make of a length.
const maxMessage = 1 << 28

// wire is a proxy that understands messages, and can lose one or the answer to
// one.
type wire struct {
	mu    sync.Mutex
	text  []byte
	what  verdict
	times int
}

// newWire starts one before the server of dsn, and returns the DSN of its own.
func newWire(t testing.TB, dsn string) (*wire, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatalf("Target.DSN must return a URL with the server's address")
	}
	w := &wire{}
	return w, withAddress(t, dsn, listen(t, func(client net.Conn) { w.serve(client, u.Host) }))
}

// lose has the next message that contains the text, in any case, judged so.
func (w *wire) lose(text string, v verdict) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text, w.what, w.times = bytes.ToLower([]byte(text)), v, 1
}

// lost reports whether the message came by.
func (w *wire) lost() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.times == 0
}

func (w *wire) judge(body []byte) verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.times == 0 || !bytes.Contains(bytes.ToLower(body), w.text) {
		return forward
	}
	w.times--
	return w.what
}

func (w *wire) serve(client net.Conn, host string) {
	defer client.Close()
	server, err := net.Dial("tcp", host)
	if err != nil {
		return
	}
	if start, err := readMessage(client, 4); err == nil {
		_, _ = server.Write(start) // a failure shows at the next read
	}
	var swallowing atomic.Bool
	var back sync.WaitGroup
	back.Go(func() { passBack(client, server, &swallowing) })
	w.passOn(client, server, &swallowing)
	if !swallowing.Load() {
		_ = server.Close()
	}
	back.Wait()
	_ = server.Close()
}

// passOn forwards what the client sends.
func (w *wire) passOn(client, server net.Conn, swallowing *atomic.Bool) {
	for {
		raw, err := readMessage(client, 5)
		if err != nil {
			return
		}
		switch w.judge(raw[5:]) {
		case cutBefore:
			return
		case cutAfter:
			swallowing.Store(true)
		case forward:
		}
		if _, err := server.Write(raw); err != nil {
			return
		}
	}
}

// passBack forwards what the server answers, until an answer shall be lost: then
// it waits until the server is done.
func passBack(client, server net.Conn, swallowing *atomic.Bool) {
	defer client.Close()
	for {
		raw, err := readMessage(server, 5)
		if err != nil {
			return
		}
		switch {
		case !swallowing.Load():
			_, _ = client.Write(raw)
		case raw[0] == 'Z': // ready for the next statement
			return
		}
	}
}

// readMessage reads a message: its head of so many bytes, the last four of which
// are the length, and its body.
func readMessage(r io.Reader, head int) ([]byte, error) {
	raw := make([]byte, head)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(raw[head-4:])
	if n < 4 || n > maxMessage {
		return nil, errors.New("this is not PostgreSQL's protocol")
	}
	raw = slices.Concat(raw, make([]byte, n-4))
	_, err := io.ReadFull(r, raw[head:])
	return raw, err
}

// listen accepts connections and hands each to serve until the test is over.
func listen(t testing.TB, serve func(net.Conn)) string {
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
			if over {
				_ = c.Close()
			}
			open = append(open, c)
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

// silent is a server that accepts and never answers.
func silent(t testing.TB) string {
	t.Helper()
	return listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

// nobody is an address where nobody listens.
func nobody(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
