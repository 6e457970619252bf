package pgx

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
	"github.com/pgkeel/pgkeel/providers"
)

// patience is how long a condition may take on a slow machine.
const patience = 20 * time.Second

// openPool opens a pool on a database of its own, unless cfg has a DSN, and
// closes it when the test is over.
func openPool(t testing.TB, cfg providers.Config) *Pool {
	t.Helper()
	if cfg.DSN == "" {
		cfg.DSN = pgtest.NewDB(t)
	}
	p, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, p)
	return p
}

func closeAtEnd(t testing.TB, p *Pool) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = p.Close(ctx) // the test may have closed it itself, and said what it expects
	})
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

// eventually waits for a condition.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("it never came true: %s", what)
		}
	}
}

// acquireN takes n connections.
func acquireN(t testing.TB, p *Pool, n int) []providers.Conn {
	t.Helper()
	conns := make([]providers.Conn, n)
	for i := range conns {
		c, err := p.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c
	}
	return conns
}

func releaseAll(conns []providers.Conn) {
	for _, c := range conns {
		c.Release()
	}
}

// value reads one value.
func value[T any](t testing.TB, q providers.Querier, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := q.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func mustExec(t testing.TB, q providers.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// logBuffer collects what is logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBuffer) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(b, nil)) }

// withAddress replaces the address in a DSN.
func withAddress(t testing.TB, dsn, address string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = address
	return u.String()
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
	open := map[net.Conn]bool{}
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
			open[c] = true
			mu.Unlock()
			all.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		over = true
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// silent is a server that accepts and never answers.
func silent(t testing.TB) string {
	return listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

// closedPort is an address where nobody listens.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// refusing is a server that answers every start with an error.
func refusing(t testing.TB, code, message string) string {
	return listen(t, func(c net.Conn) {
		defer c.Close()
		b := pgproto3.NewBackend(c, c)
		if _, err := b.ReceiveStartupMessage(); err != nil {
			return
		}
		b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: code, Message: message})
		_ = b.Flush()
	})
}

// network leads to a server, and can freeze: then it swallows everything on the
// connections that there are, and what connects from then on goes another way.
type network struct {
	*fault.Proxy
	frozen atomic.Bool
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	return &network{Proxy: fault.New(t, pgtest.NewDB(t))}
}

func (n *network) route(context.Context) (string, error) {
	if n.frozen.Load() {
		return n.Upstream(), nil
	}
	return n.DSN(), nil
}

func (n *network) freeze() {
	n.frozen.Store(true)
	n.BlackHole(fault.Both)
}
