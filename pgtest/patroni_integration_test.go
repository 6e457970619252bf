//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// patroni is NewPatroni, with the logs when the test fails.
func patroni(t *testing.T, opts Options) *Patroni {
	t.Helper()
	p := NewPatroni(t, opts)
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range p.Nodes() {
				t.Logf("%s:\n%s", n.Name(), n.Log())
			}
		}
	})
	return p
}

// writer connects to whichever node takes writes.
func writer(t *testing.T, p *Patroni) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.DSN("")+"&target_session_attrs=read-write")
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestPatroniSwitchesOver(t *testing.T) {
	t.Parallel()
	p := patroni(t, Options{Standbys: 1, SynchronousStandbys: 1, Password: `p@ss"w'o rd`, Settings: map[string]string{"work_mem": "7MB"}})
	first, second := p.Nodes()[0], p.Nodes()[1]
	conn := writer(t, p)
	if got := get[string](t, conn, `select current_setting('port') || current_setting('work_mem') || current_setting('synchronous_standby_names')`); got != fmt.Sprint(first.Port(), "7MBnode1") {
		t.Errorf("the first node does not lead, or has other settings: %s", got)
	}
	mustExec(t, conn, `create table kept (n int)`)
	must(t, p.Switchover(t.Context(), second))
	if now, err := p.Leader(t.Context()); err != nil || now != second {
		t.Errorf("after the switchover: %v, %v", now, err)
	}
	conn = writer(t, p)
	if got := get[int](t, conn, `select current_setting('port')::int`); got != second.Port() {
		t.Errorf("the second node does not take writes: %d does", got)
	}
	mustExec(t, conn, `insert into kept values (1)`)
	if err := p.Switchover(t.Context(), second); err == nil {
		t.Error("a switchover to the leader itself went well")
	}
	must(t, p.WaitStreaming(t.Context()))
	started := `select pg_postmaster_start_time()::text`
	standby := connect(t, first.DSN(""))
	if got := get[int](t, standby, `select count(*)::int from kept`); got != 1 {
		t.Errorf("the former leader has %d rows as a standby", got)
	}
	before := get[string](t, standby, started)
	must(t, first.Restart(t.Context()))
	if get[string](t, connect(t, first.DSN("")), started) == before {
		t.Error("it was not restarted")
	}
	cfg, err := pgx.ParseConfig(first.DSN(""))
	must(t, err)
	cfg.Password = "wrong"
	if conn, err := pgx.ConnectConfig(t.Context(), cfg); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a wrong password was taken")
	}
}

func TestPatroniFailsOver(t *testing.T) {
	t.Parallel()
	p := patroni(t, Options{Standbys: 1})
	first, second := p.Nodes()[0], p.Nodes()[1]
	mustExec(t, writer(t, p), `create table kept (n int)`)

	// A machine that dies.
	must(t, first.Kill())
	must(t, first.Kill())
	must(t, p.ExpireLeader(t.Context()))
	if now, err := p.WaitForLeader(t.Context(), first); err != nil || now != second {
		t.Fatalf("after the death of the first: %v, %v", now, err)
	}
	mustExec(t, writer(t, p), `insert into kept values (1)`)
	if err := first.KillPostgres(); err == nil {
		t.Error("a server that does not run was killed")
	}
	if err := first.Pause(); err == nil {
		t.Error("a node that does not run was paused")
	}
	must(t, first.Start(t.Context()))
	must(t, first.Start(t.Context()))
	must(t, p.WaitStreaming(t.Context()))

	// A machine that hangs, and wakes up as a leader that is none any more.
	must(t, second.Pause())
	must(t, second.Pause())
	must(t, p.ExpireLeader(t.Context()))
	if now, err := p.WaitForLeader(t.Context(), second); err != nil || now != first {
		t.Fatalf("after the second hangs: %v, %v", now, err)
	}
	must(t, second.Resume())
	must(t, second.Resume())
	must(t, p.WaitStreaming(t.Context()))
	if got := get[int](t, connect(t, second.DSN("")), `select count(*)::int from kept where pg_is_in_recovery()`); got != 1 {
		t.Errorf("as a standby it has %d rows", got)
	}
}

func TestPatroniAndACrashOfPostgres(t *testing.T) {
	t.Parallel()
	p := patroni(t, Options{Standbys: 1})
	first, second := p.Nodes()[0], p.Nodes()[1]

	conn := writer(t, p)
	must(t, first.KillPostgres())
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("a session outlived its server")
	}
	must(t, pollEvery(t.Context(), patroniInterval, "crash recovery", func() (bool, error) {
		now, err := p.Leader(t.Context())
		return err == nil && now == first, nil
	}))

	must(t, p.Configure(t.Context(), map[string]any{"primary_start_timeout": 0}))
	must(t, first.KillPostgres())
	if now, err := p.WaitForLeader(t.Context(), first); err != nil || now != second {
		t.Fatalf("without time to start again: %v, %v", now, err)
	}
	must(t, p.WaitStreaming(t.Context()))
	if err := p.Configure(t.Context(), map[string]any{"ttl": func() {}}); err == nil {
		t.Error("a configuration that is no JSON was taken")
	}
}

func TestPatroniLeavesNothing(t *testing.T) {
	t.Parallel()
	p, err := StartPatroni(t.Context(), Options{})
	must(t, err)
	n := p.Nodes()[0]
	pids := append(servers(n.data), n.proc.pid, p.etcd.proc.pid)
	if len(pids) != 3 {
		t.Errorf("these run: %v", pids)
	}
	must(t, n.Pause())
	must(t, p.Close(t.Context()))
	must(t, p.Close(t.Context()))
	for _, pid := range pids {
		awaitDeath(t, pid)
	}
	if _, err := os.Stat(p.site.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
	for _, port := range []int{n.Port(), n.api, p.etcd.port} {
		l, err := net.Listen("tcp", loopback(port))
		must(t, err)
		must(t, l.Close())
	}
	if err := n.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("start in a closed cluster: %v", err)
	}
	if n.Log() != "" {
		t.Error("the log is still there")
	}
	if _, err := p.Leader(t.Context()); err == nil {
		t.Error("a closed cluster has a leader")
	}
}

func TestPatroniThatDoesNotStart(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "patroni")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\necho the reason\nexit 1\n"), 0o755))
	must(t, os.Chmod(filepath.Dir(program), 0o755))
	must(t, os.Chmod(filepath.Dir(filepath.Dir(program)), 0o755))
	programs, err := findPatroni(installed(t))
	must(t, err)
	programs.patroni = program
	if _, err := startPatroni(t.Context(), Options{}, installed(t), programs); err == nil || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("a Patroni that ends: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := StartPatroni(ctx, Options{BinDir: installed(t)}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a dead context: %v", err)
	}
	if _, err := StartPatroni(t.Context(), Options{Standbys: -1}); err == nil || !strings.Contains(err.Error(), "negative") {
		t.Errorf("with a bad option: %v", err)
	}
}

func TestPatroniWhoseEtcdDoesNotStart(t *testing.T) {
	t.Parallel()
	programs, err := findPatroni(installed(t))
	must(t, err)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	programs.etcd = filepath.Join(dir, "etcd")
	must(t, os.WriteFile(programs.etcd, []byte("#!/bin/sh\necho the reason\nexit 1\n"), 0o755))
	_, err = startPatroni(t.Context(), Options{}, installed(t), programs)
	if err == nil || !strings.Contains(err.Error(), "etcd does not start") || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("got %v", err)
	}
	must(t, os.Chmod(programs.etcd, 0o700))
	must(t, os.Chmod(dir, 0o700))
	if os.Geteuid() == 0 {
		if _, err := startPatroni(t.Context(), Options{}, installed(t), programs); err == nil || !strings.Contains(err.Error(), "cannot read "+programs.etcd) {
			t.Errorf("where the servers' user cannot read it: %v", err)
		}
	}
}

// A lock that nobody holds cannot expire, and nor can one in an etcd that is gone.
func TestEtcdWithoutALeader(t *testing.T) {
	t.Parallel()
	programs, err := findPatroni(installed(t))
	must(t, err)
	s, err := newSite(installed(t), "")
	must(t, err)
	defer func() { must(t, s.remove()) }()
	e := &etcd{program: programs.etcd}
	must(t, e.start(t.Context(), s))
	defer e.end()
	if err := e.revoke(t.Context(), "/service/none/leader"); !errors.Is(err, errNoLeader) {
		t.Errorf("a key that is not there: %v", err)
	}
	e.end()
	if err := e.revoke(t.Context(), "/service/none/leader"); err == nil || !strings.Contains(err.Error(), "pgtest: etcd: ") {
		t.Errorf("etcd is gone: %v", err)
	}
}

// What needs a leader waits for one no longer than its context says.
func TestPatroniWithoutALeader(t *testing.T) {
	t.Parallel()
	p := &Patroni{}
	n := &PatroniNode{cluster: p, name: "node0"}
	p.nodes = append(p.nodes, n)
	if err := p.Switchover(t.Context(), n); !errors.Is(err, errNoLeader) {
		t.Errorf("switchover: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for what, err := range map[string]error{
		"configure": p.Configure(short, map[string]any{"ttl": 30}), "streaming": p.WaitStreaming(short),
	} {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := p.WaitStreaming(short); !errors.Is(err, errNoLeader) {
		t.Errorf("it does not say what is missing: %v", err)
	}
}

func TestCallsThatCannotBeMade(t *testing.T) {
	t.Parallel()
	n := &PatroniNode{name: "node0", api: 1}
	if err := n.call(t.Context(), "PATCH", "/config", map[string]any{"ttl": func() {}}, nil); err == nil || !strings.Contains(err.Error(), "Patroni of node0") {
		t.Errorf("a value that is no JSON: %v", err)
	}
	if err := callJSON(t.Context(), "NO METHOD", "http://"+loopback(1), nil, nil); err == nil || !strings.Contains(err.Error(), "method") {
		t.Errorf("no method: %v", err)
	}
}

func TestPatroniOnATakenPort(t *testing.T) {
	t.Parallel()
	p := patroni(t, Options{})
	n := p.Nodes()[0]
	must(t, n.Kill())
	l, err := net.Listen("tcp", n.address())
	must(t, err)
	defer l.Close()
	if err := n.Start(t.Context()); !errors.Is(err, errPortTaken) {
		t.Errorf("on a port that is taken: %v", err)
	}
	if left := servers(n.data); len(left) > 0 {
		t.Errorf("these were left: %v", left)
	}
}

func TestFindPatroni(t *testing.T) {
	bin := installed(t)
	all := t.TempDir()
	for _, name := range []string{"patroni", "etcd"} {
		must(t, os.WriteFile(filepath.Join(all, name), []byte("#!/bin/sh\n"), 0o755))
	}
	t.Setenv("PATH", all)
	t.Setenv(patroniEnv, "")
	t.Setenv(etcdEnv, "")
	want := patroniPrograms{patroni: filepath.Join(all, "patroni"), etcd: filepath.Join(all, "etcd")}
	if got, err := findPatroni(bin); err != nil || got != want {
		t.Errorf("in PATH: got %v, %v", got, err)
	}
	if _, err := findPatroni(all); err == nil || !strings.Contains(err.Error(), "pg_ctl, which is not in "+all) {
		t.Errorf("without PostgreSQL's programs: %v", err)
	}
	t.Setenv(etcdEnv, all)
	if _, err := findPatroni(bin); err == nil || !strings.Contains(err.Error(), etcdEnv) {
		t.Errorf("a wrong choice must not fall through: %v", err)
	}
	t.Setenv(etcdEnv, "")
	t.Setenv("PATH", t.TempDir())
	if _, err := findPatroni(bin); err == nil || !strings.Contains(err.Error(), "apt-get install patroni") {
		t.Errorf("without any: %v", err)
	}
	t.Setenv(patroniEnv, want.patroni)
	if _, err := findPatroni(bin); err == nil || !strings.Contains(err.Error(), "apt-get install etcd-server") {
		t.Errorf("without etcd: %v", err)
	}
}

func TestPatroniNodes(t *testing.T) {
	p := &Patroni{opts: Options{Password: "a b"}}
	for _, port := range []int{1, 2} {
		p.nodes = append(p.nodes, &PatroniNode{cluster: p, port: port, api: port + 10})
	}
	if got, want := p.DSN("db"), "postgres://postgres:a%20b@127.0.0.1:1,127.0.0.1:2/db?sslmode=disable"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := p.nodes[1].DSN(""), "postgres://postgres:a%20b@127.0.0.1:2/postgres?sslmode=disable"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := p.RESTURLs(), []string{"http://127.0.0.1:11", "http://127.0.0.1:12"}; !slices.Equal(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}
