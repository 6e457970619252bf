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

	"github.com/pgkeel/pgkeel/providers"
)

// verdict is what becomes of a message of the client.
type verdict int

const (
	forward verdict = iota
	// cutBefore closes both sides, so that the server never sees the message.
	cutBefore
	// cutAfter lets the server do as asked, and the client never hears of it.
	cutAfter
	// hold swallows the message and leaves the client waiting.
	hold
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
	start, err := readStartup(client)
	if err == nil {
		_, err = server.Write(start)
	}
	var swallowing atomic.Bool
	var back sync.WaitGroup
	back.Go(func() {
		defer client.Close()
		for {
			raw, err := readMessage(server)
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
		if raw, err = readMessage(client); err != nil {
			break
		}
		switch w.judge(raw[0], raw[5:]) {
		case cutBefore:
			err = io.EOF
			continue
		case hold:
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

func readStartup(r io.Reader) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	raw := slices.Concat(head, make([]byte, binary.BigEndian.Uint32(head)-4))
	_, err := io.ReadFull(r, raw[4:])
	return raw, err
}

func readMessage(r io.Reader) ([]byte, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	raw := slices.Concat(head, make([]byte, binary.BigEndian.Uint32(head[1:])-4))
	_, err := io.ReadFull(r, raw[5:])
	return raw, err
}

// balanced opens a pool of few connections that must all be back when the test
// is over.
func balanced(t testing.TB, cfg providers.Config) *Pool {
	t.Helper()
	if cfg.Pool.MaxSize == 0 {
		cfg.Pool.MaxSize = 1
	}
	if cfg.AcquireTimeout > 0 && cfg.Pool.InitialSize == 0 {
		cfg.Pool.InitialSize = cfg.Pool.MaxSize // the limit is for waits, not for connecting on a busy machine
	}
	p := openPool(t, cfg)
	t.Cleanup(func() {
		eventually(t, "every connection is back", func() bool { return p.Stats().InUse == 0 })
	})
	return p
}

func begin(t testing.TB, p *Pool, opts providers.TxOptions) *Tx {
	t.Helper()
	tx, err := p.Begin(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return tx.(*Tx)
}

func savepoint(t testing.TB, tx *Tx, name string) *Tx {
	t.Helper()
	sp, err := tx.Savepoint(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return sp.(*Tx)
}

func mustCommit(t testing.TB, tx providers.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mustRollback(t testing.TB, tx providers.Tx) {
	t.Helper()
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}
