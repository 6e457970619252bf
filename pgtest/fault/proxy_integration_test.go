package fault_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
)

func contains(t testing.TB, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("%v, want %q", err, text)
	}
}

func TestEverythingPassesWithoutRules(t *testing.T) {
	p := start(t)
	conn := connect(t, p.DSN())
	src := pgx.CopyFromSlice(20000, func(i int) ([]any, error) { return []any{int32(i)}, nil })
	_, err := conn.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n"}, src)
	must(t, err)
	var large string
	must(t, conn.QueryRow(t.Context(), "select repeat('x', $1)", 3<<20).Scan(&large))
	if len(large) != 3<<20 || rows(t, p) != 20000 {
		t.Errorf("%d bytes, %d rows", len(large), rows(t, p))
	}
	if p.Count(fault.ToServer) < 5 || p.Count(fault.ToClient) < 10 ||
		p.Count(fault.Both) < p.Count(fault.ToServer)+p.Count(fault.ToClient) {
		t.Errorf("%d and %d messages", p.Count(fault.ToServer), p.Count(fault.ToClient))
	}
}

func TestCutAndReset(t *testing.T) {
	p := start(t)
	for name, end := range map[string]func(){"cut": p.Cut, "reset": p.Reset} {
		t.Run(name, func(t *testing.T) {
			raw := dial(t, p)
			send(t, raw, startup(t, p))
			must(t, readUntil(raw, 'Z'))
			end()
			_, err := raw.Read(make([]byte, 1))
			if name == "cut" && !errors.Is(err, io.EOF) || name == "reset" && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client sees %v", err)
			}
			must(t, exec(t.Context(), connect(t, p.DSN()), "select 1")) // new ones pass
		})
	}
}

func TestBlackHole(t *testing.T) {
	for name, tc := range map[string]struct {
		direction fault.Direction
		rows      int
	}{"to server": {fault.ToServer, 0}, "to client": {fault.ToClient, 1}, "both": {fault.Both, 0}} {
		t.Run(name, func(t *testing.T) {
			p := start(t)
			defer p.Close() // or the client waits, in the background, to hear of its end
			conn := connect(t, p.DSN())
			p.BlackHole(tc.direction)
			waits(t, exec(within(t, 3*soon), conn, "insert into t values (1)"))
			if n := rows(t, p); n != tc.rows {
				t.Errorf("%d rows", n)
			}
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()
			if _, err := pgx.Connect(ctx, p.DSN()); !pgconn.Timeout(err) {
				t.Errorf("new connections hear nothing: %v", err)
			}
		})
	}
}

// Neither side hears of the other's end, until the network is well again.
func TestBlackHoleHidesTheEnd(t *testing.T) {
	p := start(t)
	conn, other := connect(t, p.DSN()), connect(t, p.Upstream())
	pid := conn.PgConn().PID()
	p.BlackHole(fault.Both)
	closeConn(t, conn)
	alive := func() (n int) {
		must(t, other.QueryRow(t.Context(), "select count(*) from pg_stat_activity where pid = $1", pid).Scan(&n))
		return n
	}
	if alive() != 1 {
		t.Error("the server should not know that the client is gone")
	}
	p.Heal()
	for ctx := within(t, patience); alive() == 1; must(t, ctx.Err()) {
	}
}

func TestHealLetsPassWhatWasHeld(t *testing.T) {
	hole := fault.On(fault.SQL("insert"), fault.BlackHole)
	p := start(t, hole, fault.On(fault.SQL("select 1"), fault.Cut))
	conn := connect(t, p.DSN())
	done := make(chan error, 1)
	go func() { done <- exec(within(t, patience), conn, "insert into t values (1)") }()
	fires(t, hole)
	must(t, exec(t.Context(), connect(t, p.DSN()), "select 2")) // the others go on
	p.Heal()
	must(t, <-done)
	must(t, exec(t.Context(), conn, "select 1")) // without the rule
}

// slowly is a line that gives a byte at a time.
type slowly struct{ closed *atomic.Int32 }

func (l slowly) Lay(_ fault.Direction, from io.Reader) io.ReadCloser {
	return &slow{iotest.OneByteReader(from), l.closed}
}

type slow struct {
	io.Reader
	closed *atomic.Int32
}

func (s *slow) Close() error {
	s.closed.Add(1)
	return nil
}

func TestThroughALine(t *testing.T) {
	line := slowly{new(atomic.Int32)}
	p := start(t, fault.Through(line))
	must(t, exec(t.Context(), connect(t, p.DSN()), "insert into t values (1)"))
	must(t, p.Close())
	if n := line.closed.Load(); n != 2 {
		t.Errorf("%d readers closed", n)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	p, err := fault.Start(withTable(t))
	must(t, err)
	conn := connect(t, p.DSN())
	p.BlackHole(fault.Both)
	silent := dial(t, p)
	send(t, silent, startup(t, p))
	waits(t, exec(within(t, soon), conn, "select 1"))
	for range 2 {
		must(t, p.Close())
	}
	if _, err := silent.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection should be closed: %v", err)
	}
	if _, err := net.Dial("tcp", silent.RemoteAddr().String()); err == nil {
		t.Error("the proxy should not listen")
	}
}

func TestUnixSocket(t *testing.T) {
	tcp, err := pgconn.ParseConfig(pgtest.NewDB(t))
	must(t, err)
	sockets := relaySocket(t, net.JoinHostPort(tcp.Host, fmt.Sprint(tcp.Port)))
	for _, dsn := range []string{
		fmt.Sprintf("postgres:///%s?host=%s&port=5432&user=%s", tcp.Database, url.QueryEscape(sockets), tcp.User),
		fmt.Sprintf("host=%s port=5432 dbname=%s user=%s", sockets, tcp.Database, tcp.User),
	} {
		p := fault.New(t, dsn)
		conn := connect(t, p.DSN())
		must(t, exec(t.Context(), conn, "select 1"))
		if conn.Config().Host != "127.0.0.1" || conn.Config().Database != tcp.Database {
			t.Errorf("%s", p.DSN())
		}
		p.Reset()
	}
}

// relaySocket leads from a unix socket to the address, for servers whose own is
// not known.
func relaySocket(t testing.TB, address string) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fault")
	must(t, err)
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	must(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { relay(c, address) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
		_ = os.RemoveAll(dir)
	})
	return dir
}

func relay(c net.Conn, address string) {
	defer c.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(c, server)
		_ = c.Close()
	})
	_, _ = io.Copy(server, c)
	_ = server.Close()
	back.Wait()
}

func TestPasswordsGoThrough(t *testing.T) {
	const password = `se'c\ret`
	c := pgtest.New(t, pgtest.Options{Password: password})
	keyword := fmt.Sprintf(`host=%s port=%d user=postgres dbname=postgres password='se\'c\\ret'`, c.Primary().Host(), c.Primary().Port())
	for _, dsn := range []string{c.Primary().DSN(""), keyword} {
		must(t, exec(t.Context(), connect(t, fault.New(t, dsn).DSN()), "select 1"))
	}
}

func TestDSNsThatCannotBe(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://h:x/a":                  "parse",
		"host=a,b port=1,2":                 "more than one server",
		"postgres://h/a?sslmode=require":    "insists on TLS",
		"host=h user=u sslmode=verify-full": "insists on TLS",
	} {
		_, err := fault.Start(dsn)
		contains(t, err, want)
	}
	var failed tester
	failed.run(func() { fault.New(&failed, "postgres://h:x/a") })
	if !failed.fatal {
		t.Error("New should fail the test")
	}
}

// tester notes a failure that ends a test.
type tester struct {
	testing.TB
	fatal bool
}

func (*tester) Helper()        {}
func (t *tester) Fatal(...any) { t.fatal = true; panic(t) }

func (t *tester) run(f func()) {
	defer func() { _ = recover() }()
	f()
}

// Whoever speaks something else is shown the door, and so is everybody while the
// server is away.
func TestStrangers(t *testing.T) {
	p := start(t)
	for name, packet := range map[string][]byte{
		"short":  {0, 0, 0, 4},
		"long":   {1, 0, 0, 0},
		"absurd": {0, 0, 0, 0},
		"http":   []byte("GET / HTTP/1.1\r\n\r\n"),
		"later":  append(startup(t, p), 'Q', 0xff, 0xff, 0xff, 0xff),
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, p)
			send(t, c, packet)
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection should be closed: %v", err)
			}
		})
	}
	away := fault.New(t, "postgres://postgres@127.0.0.1:"+unusedPort(t)+"/a")
	if _, err := pgx.Connect(within(t, patience), away.DSN()); err == nil || pgconn.Timeout(err) {
		t.Errorf("it should be closed at once: %v", err)
	}
}

func TestEncryptionIsRefused(t *testing.T) {
	p := start(t)
	for _, code := range []uint32{80877103, 80877104} {
		c := dial(t, p)
		ask := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, code)
		send(t, c, ask)
		answer := make([]byte, 1)
		_, err := io.ReadFull(c, answer)
		must(t, err)
		if answer[0] != 'N' {
			t.Errorf("the answer is %q", answer)
		}
		send(t, c, startup(t, p))
		must(t, readUntil(c, 'Z'))
		p.BlackHole(fault.Both)
		other := dial(t, p)
		send(t, other, ask)
		p.Heal()
		_, err = io.ReadFull(other, answer)
		must(t, err)
	}
}

func unusedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	return port
}

// dial connects to the proxy without a driver.
func dial(t testing.TB, p *fault.Proxy) net.Conn {
	t.Helper()
	u, err := url.Parse(p.DSN())
	must(t, err)
	c, err := net.Dial("tcp", u.Host)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	deadline, _ := within(t, patience).Deadline()
	must(t, c.SetDeadline(deadline))
	return c
}

func startup(t testing.TB, p *fault.Proxy) []byte {
	t.Helper()
	config, err := pgconn.ParseConfig(p.DSN())
	must(t, err)
	body := fmt.Sprintf("\x00\x03\x00\x00user\x00%s\x00database\x00%s\x00\x00", config.User, config.Database)
	return slices.Concat(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), []byte(body))
}

func send(t testing.TB, c net.Conn, packet []byte) {
	t.Helper()
	_, err := c.Write(packet)
	must(t, err)
}

// readUntil reads messages up to one of the type.
func readUntil(r io.Reader, kind byte) error {
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(r, head); err != nil {
			return err
		}
		var body bytes.Buffer
		if _, err := io.CopyN(&body, r, int64(binary.BigEndian.Uint32(head[1:]))-4); err != nil {
			return err
		}
		if head[0] == kind {
			return nil
		}
	}
}
