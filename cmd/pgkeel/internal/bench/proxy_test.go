package bench

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// serve has handle serve each connection to a new port of the loopback, and
// returns a DSN that names it.
func serve(t *testing.T, handle func(conn net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	return "host=127.0.0.1 port=" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func echo(conn net.Conn) { _, _ = io.Copy(conn, conn) }

// dialThrough connects through a new proxy.
func dialThrough(t *testing.T, dsn string, delay time.Duration) (*proxy, net.Conn) {
	t.Helper()
	p, err := newProxy(dsn, delay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	conn, err := net.Dial("tcp", p.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return p, conn
}

func TestTheProxyDelaysEachWayAndNotEachRead(t *testing.T) {
	const delay, words = 50 * time.Millisecond, 256
	_, conn := dialThrough(t, serve(t, echo), delay)
	begun := time.Now()
	word := make([]byte, 1)
	for i := range words {
		if _, err := conn.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range words {
		if _, err := io.ReadFull(conn, word); err != nil || word[0] != byte(i) {
			t.Fatalf("%d came as %d; %v", i, word[0], err)
		}
		if took := time.Since(begun); i == 0 && took < 2*delay {
			t.Errorf("the first answer took %v", took)
		}
	}
	if took := time.Since(begun); took > words*delay/2 {
		t.Errorf("%d at once took %v, as if one waited for the other", words, took)
	}
}

func TestTheProxyLosesNothing(t *testing.T) {
	sent := make([]byte, 8<<20)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	_, conn := dialThrough(t, serve(t, echo), time.Millisecond)
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	_, err := io.ReadFull(conn, got)
	if err := errors.Join(err, <-wrote); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("what came back is the same: %v; %v", bytes.Equal(got, sent), err)
	}
}

func TestTheEndOfAConnectionComesThroughBehindItsLastWords(t *testing.T) {
	_, conn := dialThrough(t, serve(t, func(conn net.Conn) { _, _ = io.WriteString(conn, "farewell") }), time.Millisecond)
	if got, err := io.ReadAll(conn); err != nil || string(got) != "farewell" {
		t.Errorf("%q, %v", got, err)
	}
	heard := make(chan string, 1)
	_, conn = dialThrough(t, serve(t, func(conn net.Conn) {
		got, _ := io.ReadAll(conn)
		heard <- string(got)
	}), time.Millisecond)
	if _, err := io.WriteString(conn, "bye"); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if got := <-heard; got != "bye" {
		t.Errorf("the server heard %q", got)
	}
}

func TestAProxyToNowhereEndsItsConnections(t *testing.T) {
	_, conn := dialThrough(t, "host=127.0.0.1 port=1", time.Millisecond)
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("there was something to read")
	}
}

func TestClosingAProxyEndsItsConnections(t *testing.T) {
	p, conn := dialThrough(t, serve(t, echo), time.Millisecond)
	word := make([]byte, 1)
	if _, err := conn.Write(word); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, word); err != nil {
		t.Fatal(err)
	}
	p.close()
	if _, err := conn.Read(word); err == nil {
		t.Error("the connection goes on")
	}
	_, late := net.Pipe()
	p.connect(late) // accepted just before
	if _, err := late.Write(word); err == nil {
		t.Error("one that came late goes on")
	}
}

func TestADSNThroughTheProxyIsOtherwiseTheSame(t *testing.T) {
	for _, dsn := range []string{
		"postgres://u:secret@db.example:6432/items?application_name=x&sslmode=disable",
		"postgresql://u:secret@/items?application_name=x&host=/run/postgresql&port=6432&sslmode=disable",
		"host=db.example port=6432 user=u password=secret dbname=items application_name=x sslmode=disable",
	} {
		p, err := newProxy(dsn, 0)
		if err != nil {
			t.Fatal(err)
		}
		p.close()
		if !strings.Contains(p.target, "6432") || p.network != "tcp" && p.network != "unix" {
			t.Errorf("%s: the proxy goes to %s %s", dsn, p.network, p.target)
		}
		through, err := p.through(dsn)
		if err != nil {
			t.Fatal(err)
		}
		c, err := pgx.ParseConfig(through)
		if err != nil {
			t.Fatal(err)
		}
		if addr := net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))); addr != p.listener.Addr().String() {
			t.Errorf("%s leads to %s", through, addr)
		}
		if c.User != "u" || c.Password != "secret" || c.Database != "items" || c.RuntimeParams["application_name"] != "x" {
			t.Errorf("%s became %s", dsn, through)
		}
	}
}

func TestASideThatCannotOpenFarAwayLeavesNoProxy(t *testing.T) {
	for name, dsn := range map[string]string{"its own error": "host=127.0.0.1 port=1", "no DSN": "port=nonsense"} {
		open := faraway(onPool(func(*pgxpool.Pool, Site) Op { return nil }))
		if name == "its own error" {
			open = faraway(refusing)
		}
		if _, err := open(t.Context(), Site{DSN: dsn}); err == nil {
			t.Errorf("%s: it opened", name)
		}
	} // what is left is a leak, for TestMain to find
}
