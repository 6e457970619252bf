package notify

import (
	"context"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	pgxprovider "github.com/pgkeel/pgkeel/providers/pgx"
)

// openPool opens a pool on a database of its own, unless cfg has a DSN.
func openPool(t testing.TB, cfg providers.Config) *pgxprovider.Pool {
	t.Helper()
	if cfg.DSN == "" {
		cfg.DSN = pgtest.NewDB(t)
	}
	if cfg.Logger == nil {
		cfg.Logger = quiet()
	}
	p, err := pgxprovider.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}

// listenOn starts a listener, which is closed when the test is over.
func listenOn(t testing.TB, p providers.Listener, o Options) *Listener {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet()
	}
	l, err := New(p, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeListener(t, l) })
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

func mustExec(t testing.TB, q providers.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func mustNotify(t testing.TB, q providers.Querier, channel, payload string) {
	t.Helper()
	if err := Notify(t.Context(), q, channel, payload); err != nil {
		t.Fatal(err)
	}
}

func begin(t testing.TB, p providers.Pool) providers.Tx {
	t.Helper()
	tx, err := p.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) }) // after an end it does nothing
	return tx
}

func commit(t testing.TB, tx providers.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// hole is a network between client and server that can swallow everything.
type hole struct {
	mu     sync.Mutex
	frozen map[net.Conn]bool
}

// newHole returns it and the DSN that goes through it.
func newHole(t testing.TB, dsn string) (*hole, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	in, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{frozen: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := in.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			h.frozen[client] = false
			h.mu.Unlock()
			all.Go(func() { h.forward(client, server) })
		}
	})
	t.Cleanup(func() {
		_ = in.Close()
		h.mu.Lock()
		for client := range h.frozen {
			_ = client.Close()
		}
		h.mu.Unlock()
		all.Wait()
	})
	u.Host = in.Addr().String()
	return h, u.String()
}

func (h *hole) forward(client net.Conn, address string) {
	server, err := net.Dial("tcp", address)
	if err != nil {
		_ = client.Close()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { h.copy(server, client, client); _ = server.Close() })
	both.Go(func() { h.copy(client, server, client) })
	both.Wait()
	_ = client.Close()
}

func (h *hole) copy(to, from, client net.Conn) {
	buf := make([]byte, 8192)
	for {
		n, err := from.Read(buf)
		h.mu.Lock()
		frozen := h.frozen[client]
		h.mu.Unlock()
		if err != nil {
			if !frozen {
				_ = to.Close()
			}
			return
		}
		if frozen {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// freeze swallows everything on the connections that there are.
func (h *hole) freeze() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.frozen {
		h.frozen[c] = true
	}
}
