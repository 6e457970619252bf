package pgx

import (
	"bytes"
	"encoding/binary"
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

// wire is a proxy that understands messages: it counts what the client flushes,
// and can lose a message or the answer to one.
type wire struct {
	mu      sync.Mutex
	flushes int
	rule    func(kind byte, body []byte) verdict
}

func newWire(t testing.TB, dsn string) (*wire, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{}
	return w, withAddress(t, dsn, listen(t, func(client net.Conn) { w.serve(client, u.Host) }))
}

func (w *wire) serve(client net.Conn, host string) {
	defer client.Close()
	server, err := net.Dial("tcp", host)
	if err != nil {
		return
	}
	start, err := readMessage(client, 4)
	if err == nil {
		_, err = server.Write(start)
	}
	var swallowing atomic.Bool
	var back sync.WaitGroup
	back.Go(func() {
		defer client.Close()
		for {
			raw, err := readMessage(server, 5)
			if err != nil {
				return
			}
			switch {
			case !swallowing.Load():
				_, _ = client.Write(raw)
			case raw[0] == 'Z':
				return
			}
		}
	})
	for err == nil {
		var raw []byte
		if raw, err = readMessage(client, 5); err != nil {
			break
		}
		switch w.judge(raw[0], raw[5:]) {
		case cutBefore:
			err = io.EOF
			continue
		case cutAfter:
			swallowing.Store(true)
		case forward:
		}
		_, err = server.Write(raw)
	}
	if !swallowing.Load() {
		_ = server.Close()
	}
	back.Wait()
	_ = server.Close()
}

func (w *wire) judge(kind byte, body []byte) verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	if kind == 'S' || kind == 'Q' {
		w.flushes++
	}
	if w.rule == nil {
		return forward
	}
	return w.rule(kind, body)
}

// on has every message that contains the text judged so.
func (w *wire) on(text string, v verdict) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rule = func(_ byte, body []byte) verdict {
		if bytes.Contains(body, []byte(text)) {
			return v
		}
		return forward
	}
}

// count returns how many round trips do costs: a server answers each Sync and
// each simple query once.
func (w *wire) count(do func()) int {
	w.mu.Lock()
	before := w.flushes
	w.mu.Unlock()
	do()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flushes - before
}

// readMessage reads a message: its head of so many bytes, the last four of which are
// the length, and its body.
func readMessage(r io.Reader, head int) ([]byte, error) {
	raw := make([]byte, head)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, err
	}
	raw = slices.Concat(raw, make([]byte, binary.BigEndian.Uint32(raw[head-4:])-4))
	_, err := io.ReadFull(r, raw[head:])
	return raw, err
}
