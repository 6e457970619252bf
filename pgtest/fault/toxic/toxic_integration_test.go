package toxic_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
	"github.com/pgkeel/pgkeel/pgtest/fault/toxic"
)

func TestMain(m *testing.M) { pgtest.Main(m, func() error { return goleak.Find() }) }

// patience is how long a test waits for what is bound to happen.
const patience = 30 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func connect(t testing.TB, p *toxic.Proxy) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(within(t, patience), p.DSN())
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// takes returns how long it takes to get so many bytes from the server.
func takes(t testing.TB, conn *pgx.Conn, bytes int) time.Duration {
	t.Helper()
	began := time.Now()
	rows, err := conn.Query(within(t, patience), "select repeat('x', $1)", pgx.QueryExecModeExec, bytes)
	must(t, err)
	rows.Close()
	must(t, rows.Err())
	return time.Since(began)
}

func TestLatency(t *testing.T) {
	p := toxic.New(t, pgtest.NewDB(t))
	conn := connect(t, p)
	for _, tc := range []struct {
		d        fault.Direction
		want     time.Duration
		latency  time.Duration
		jitter   time.Duration
		newcomer bool
	}{
		{fault.ToServer, 100 * time.Millisecond, 100 * time.Millisecond, 0, false},
		{fault.Both, 200 * time.Millisecond, 100 * time.Millisecond, 0, false},
		{fault.ToServer, 150 * time.Millisecond, 150 * time.Millisecond, 100 * time.Millisecond, false}, // and 100 ms back
		{fault.ToClient, 50 * time.Millisecond, 0, 0, true},
	} {
		must(t, p.Latency(tc.d, tc.latency, tc.jitter))
		if tc.newcomer {
			conn = connect(t, p)
		}
		if took := takes(t, conn, 1); took < tc.want {
			t.Errorf("%v by %v: a round trip took %v", tc.d, tc.latency, took)
		}
	}
}

// Latency delays what is sent, and lets as much through as before.
func TestLatencyLeavesTheBandwidth(t *testing.T) {
	const size = 8 << 20
	p := toxic.New(t, pgtest.NewDB(t))
	conn := connect(t, p)
	must(t, p.Latency(fault.ToClient, 50*time.Millisecond, 0))
	if took := takes(t, conn, size); took > 5*time.Second { // one buffer at a time would take 12
		t.Errorf("it took %v", took)
	}
}

func TestNothingIsLost(t *testing.T) {
	p := toxic.New(t, pgtest.NewDB(t))
	conn := connect(t, p)
	must(t, p.Latency(fault.ToClient, 5*time.Millisecond, 5*time.Millisecond))
	must(t, p.Bandwidth(fault.ToClient, 50<<20))
	rows, err := conn.Query(within(t, patience), "select i, repeat('x', i % 5001) from generate_series(1, 4000) i")
	must(t, err)
	n := 0
	for rows.Next() {
		var i int
		var text string
		must(t, rows.Scan(&i, &text))
		if n++; i != n || len(text) != i%5001 {
			t.Fatalf("row %d is %d, of %d bytes", n, i, len(text))
		}
	}
	must(t, rows.Err())
	if n != 4000 {
		t.Errorf("%d rows", n)
	}
}

func TestBandwidth(t *testing.T) {
	const size = 100_000
	p := toxic.New(t, pgtest.NewDB(t))
	conn := connect(t, p)
	must(t, p.Bandwidth(fault.ToClient, 4*size))
	if took := takes(t, conn, size); took < 240*time.Millisecond || took > 5*time.Second {
		t.Errorf("a quarter of a second's worth took %v", took)
	}
	must(t, p.Bandwidth(fault.ToClient, 1))
	done := make(chan time.Duration)
	go func() { done <- takes(t, conn, size) }()
	must(t, p.Bandwidth(fault.Both, 0)) // also for what is on its way
	<-done
}

func TestHeal(t *testing.T) {
	rule := fault.On(fault.SQL("repeat"), fault.Cut)
	p := toxic.New(t, pgtest.NewDB(t), rule)
	conn := connect(t, p)
	must(t, p.Latency(fault.Both, time.Hour, time.Hour))
	must(t, p.Bandwidth(fault.Both, 1))
	p.BlackHole(fault.Both)
	done := make(chan time.Duration)
	go func() { done <- takes(t, conn, 100) }()
	p.Heal()
	<-done
	if rule.Times() != 0 {
		t.Error("the rule should be gone")
	}
}

// What a toxic has let through waits before a black hole; the toxic can be
// replaced all the same.
func TestLatencyIsSetBehindABlackHole(t *testing.T) {
	hole := fault.On(fault.Backend('D'), fault.BlackHole)
	p := toxic.New(t, pgtest.NewDB(t), hole)
	conn := connect(t, p)
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(within(t, patience), "select repeat('x', 1000) from generate_series(1, 10000)")
		done <- err
	}()
	<-hole.Fired()
	must(t, p.Latency(fault.ToClient, 10*time.Millisecond, 0))
	p.Heal()
	must(t, <-done)
}

// An hour of latency does not hold up the end, of a connection or of the proxy.
func TestTheEndComesAtOnce(t *testing.T) {
	for name, end := range map[string]func(p *toxic.Proxy){
		"cut":   func(p *toxic.Proxy) { p.Cut() },
		"reset": func(p *toxic.Proxy) { p.Reset() },
		"close": func(p *toxic.Proxy) { _ = p.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			p := toxic.New(t, pgtest.NewDB(t))
			conn := connect(t, p)
			must(t, p.Latency(fault.Both, time.Hour, 0))
			must(t, p.Bandwidth(fault.Both, 1))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			conn.PgConn().Frontend().SendQuery(&pgproto3.Query{String: "select 1"})
			must(t, conn.PgConn().Frontend().Flush())
			end(p)
			if _, err := conn.PgConn().ReceiveMessage(ctx); err == nil || pgconn.Timeout(err) {
				t.Errorf("the client should see the end: %v", err)
			}
		})
	}
}

// A client that goes away while the server sends leaves nothing behind.
func TestAbandonedResult(t *testing.T) {
	p := toxic.New(t, pgtest.NewDB(t))
	conn := connect(t, p)
	rows, err := conn.Query(t.Context(), "select repeat('x', 1000) from generate_series(1, 1000000)")
	must(t, err)
	if !rows.Next() {
		t.Fatal(rows.Err())
	}
	must(t, conn.PgConn().Conn().Close())
	rows.Close()
	must(t, p.Close())
}

// A rule fires when the message would arrive.
func TestRulesLieBehindTheLine(t *testing.T) {
	rule := fault.On(fault.Backend('C').Matching("SELECT"), fault.CutAfter)
	p := toxic.New(t, pgtest.NewDB(t), rule)
	conn := connect(t, p)
	must(t, p.Latency(fault.ToClient, 100*time.Millisecond, 0))
	began := time.Now()
	result := conn.PgConn().Exec(within(t, patience), "select 1")
	if !result.NextResult() {
		t.Error("the result should be there")
	}
	if tag, err := result.ResultReader().Close(); err != nil || !tag.Select() {
		t.Errorf("the CommandComplete should have arrived: %v, %v", tag, err)
	}
	if err := result.Close(); err == nil || time.Since(began) < 100*time.Millisecond {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	<-rule.Fired()
}

func TestWhatMakesNoSense(t *testing.T) {
	p := toxic.New(t, pgtest.NewDB(t))
	for want, err := range map[string]error{
		"whole milliseconds":     p.Latency(fault.Both, time.Microsecond, 0),
		"and the jitter from 0":  p.Latency(fault.Both, time.Second, 2*time.Second),
		"latency -1s and jitter": p.Latency(fault.Both, -time.Second, 0),
		"cannot be negative":     p.Bandwidth(fault.Both, -1),
		"0 is not a direction":   p.Bandwidth(0, 1),
		"4 is not a direction":   p.Latency(4, time.Second, 0),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := toxic.Start("postgres://h:x/a"); err == nil {
		t.Error("no error")
	}
	var failed tester
	failed.run(func() { toxic.New(&failed, "postgres://h:x/a") })
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

func Example() {
	test := func(t *testing.T) { // func TestFarAway(t *testing.T)
		p := toxic.New(t, pgtest.NewDB(t))
		if err := p.Latency(fault.Both, 20*time.Millisecond, 5*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.Connect(t.Context(), p.DSN())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		p.Cut()
		if _, err := conn.Exec(t.Context(), "select 1"); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
	_ = test
}
