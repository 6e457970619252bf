//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func mustExec(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func get[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) (v T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestClusterSettings(t *testing.T) {
	begun := time.Now()
	c := New(t, Options{Settings: map[string]string{"work_mem": "7MB", "pgtest.quote": `it's`}})
	t.Logf("cluster of one started in %v", time.Since(begun).Round(time.Millisecond))
	conn := connect(t, c.Primary().DSN(""))
	for name, want := range map[string]string{
		"work_mem": "7MB", "pgtest.quote": "it's", "fsync": "off", "max_connections": "200", "TimeZone": "UTC",
		"server_encoding": "UTF8", "listen_addresses": "127.0.0.1", "port": fmt.Sprint(c.Primary().Port()),
	} {
		if got := get[string](t, conn, `select current_setting($1)`, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if c.Primary().Name() != "node0" || len(c.Standbys()) != 0 || c.Primary().Host() != "127.0.0.1" {
		t.Error("a cluster of one has a primary only")
	}
}

func TestClusterCloseLeavesNothing(t *testing.T) {
	c, err := Start(t.Context(), Options{Standbys: 1})
	must(t, err)
	var pids []int
	for _, n := range c.Nodes() {
		pids = append(append(pids, n.proc.pid), descendants(n.proc.pid)...)
	}
	pids = append(pids, c.guard.cmd.Process.Pid)
	must(t, c.Standbys()[0].Pause())
	must(t, c.Close(t.Context()))
	must(t, c.Close(t.Context()))
	if len(pids) < 10 {
		t.Errorf("only %d processes were seen: %v", len(pids), pids)
	}
	for _, pid := range pids {
		awaitDeath(t, pid)
	}
	if _, err := os.Stat(c.site.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
	if err := c.Primary().Start(t.Context()); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Start after Close: %v", err)
	}
	if _, err := c.AddStandby(t.Context()); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("AddStandby after Close: %v", err)
	}
}

// awaitDeath waits until a process is gone: children of a server that quit may
// outlive it by a moment.
func awaitDeath(t *testing.T, pid int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	must(t, poll(ctx, fmt.Sprintf("the end of process %d", pid), func() (bool, error) { return dead(pid), nil }))
}

func TestStartShowsTheServersLog(t *testing.T) {
	c, err := Start(t.Context(), Options{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil {
		_ = c.Close(t.Context())
		t.Fatal("no error")
	}
	if !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
		t.Errorf("the reason is missing: %v", err)
	}
}

func TestStartHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c, err := Start(ctx, Options{})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, %v", c, err)
	}
}

func TestPassword(t *testing.T) {
	const secret = `p@ss:w/ör'd`
	c := New(t, Options{Password: secret, Standbys: 1})
	for _, n := range c.Nodes() {
		if got := get[int](t, connect(t, n.DSN("")), `select 1`); got != 1 {
			t.Error(got)
		}
		cfg, err := pgx.ParseConfig(n.DSN(""))
		must(t, err)
		cfg.Password = "wrong"
		var pgErr *pgconn.PgError
		if _, err := pgx.ConnectConfig(t.Context(), cfg); !errors.As(err, &pgErr) || pgErr.Code != "28P01" {
			t.Errorf("%s with a wrong password: %v", n.Name(), err)
		}
	}
}

func TestRestartKeepsPortAndData(t *testing.T) {
	c := New(t, Options{})
	n := c.Primary()
	dsn := n.DSN("")
	mustExec(t, connect(t, dsn), `create table kept as select 7 as n`)

	must(t, n.Restart(t.Context()))
	if got := get[int](t, connect(t, dsn), `select n from kept`); got != 7 {
		t.Errorf("got %d", got)
	}
	must(t, n.Start(t.Context())) // runs already
	must(t, n.Stop(t.Context()))
	must(t, n.Stop(t.Context())) // is stopped already
	must(t, n.Kill())
	if _, err := pgx.Connect(t.Context(), dsn); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a stopped node refuses: %v", err)
	}
	if err := n.Pause(); err == nil {
		t.Error("a stopped node cannot be paused")
	}
	must(t, n.Start(t.Context()))
	if !strings.Contains(n.Log(), "database system is ready to accept connections") {
		t.Errorf("log:\n%s", n.Log())
	}
}

func TestKill(t *testing.T) {
	c := New(t, Options{})
	n := c.Primary()
	dsn := n.DSN("")
	conn := connect(t, dsn)
	mustExec(t, conn, `create table kept as select 7 as n`)
	busy := connect(t, dsn)
	backend := get[int](t, busy, `select pg_backend_pid()`)
	result := make(chan error, 1)
	go func() { _, err := busy.Exec(context.Background(), `select pg_sleep(600)`); result <- err }()

	must(t, n.Kill())
	if !dead(backend) {
		t.Error("a session outlived Kill")
	}
	if err := <-result; err == nil {
		t.Error("the busy session noticed nothing")
	}
	var netErr error
	if _, netErr = pgx.Connect(t.Context(), dsn); !errors.Is(netErr, syscall.ECONNREFUSED) {
		t.Errorf("a killed node refuses: %v", netErr)
	}
	must(t, n.Kill()) // is dead already
	must(t, n.Start(t.Context()))
	if got := get[int](t, connect(t, dsn), `select n from kept`); got != 7 {
		t.Errorf("after recovery: got %d", got)
	}
	if !strings.Contains(n.Log(), "was not properly shut down") {
		t.Error("it was no crash")
	}
}

func TestStartAfterACrashThatNobodyAskedFor(t *testing.T) {
	c := New(t, Options{})
	n := c.Primary()
	children := descendants(n.proc.pid)
	must(t, syscall.Kill(n.proc.pid, syscall.SIGKILL))
	// The postmaster too: its children may notice its end before we can.
	for _, pid := range append(children, n.proc.pid) {
		awaitDeath(t, pid)
	}
	must(t, n.Start(t.Context()))
	must(t, connect(t, n.DSN("")).Ping(t.Context()))
}

func TestPauseAndResume(t *testing.T) {
	c := New(t, Options{})
	n := c.Primary()
	conn := connect(t, n.DSN(""))
	answer := make(chan error, 1)

	must(t, n.Pause())
	must(t, n.Pause())
	go func() { _, err := conn.Exec(context.Background(), `select 1`); answer <- err }()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if other, err := pgx.Connect(ctx, n.DSN("")); err == nil {
		_ = other.Close(t.Context())
		t.Error("a paused node took a new session")
	}
	select {
	case err := <-answer:
		t.Errorf("a paused node answered: %v", err)
	default:
	}
	must(t, n.Resume())
	must(t, n.Resume())
	must(t, <-answer)

	must(t, n.Pause())
	must(t, n.Stop(t.Context())) // wakes it first
	must(t, n.Start(t.Context()))
	must(t, n.Pause())
	must(t, n.Kill())
	must(t, n.Start(t.Context()))
	must(t, connect(t, n.DSN("")).Ping(t.Context()))
}
