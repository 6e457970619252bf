//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// through connects by a pooler, with which no statement may have a name.
func through(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	must(t, err)
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestPgBouncerPoolsByTransaction(t *testing.T) {
	c := New(t, Options{})
	b := c.Primary().NewPgBouncer(t, map[string]string{"default_pool_size": "1"})
	first, second := through(t, b.DSN("")), through(t, b.DSN(""))
	const backend = `select pg_backend_pid()`
	server := get[int](t, first, backend)
	if got := get[int](t, second, backend); got != server {
		t.Errorf("two clients have the sessions %d and %d of a pool of one", server, got)
	}
	mustExec(t, first, `begin`)
	mustExec(t, first, `set local app.whose = 'first'`)
	mustExec(t, first, `commit`)
	if got := get[string](t, second, `select current_setting('app.whose', true)`); got != "" {
		t.Errorf("a local setting travelled: %q", got)
	}
	mustExec(t, first, `set app.whose = 'first'`)
	if got := get[string](t, second, `select current_setting('app.whose')`); got != "first" {
		t.Errorf("a session setting must travel, or it is no transaction mode: %q", got)
	}
}

func TestPgBouncerReachesEveryDatabaseAndRole(t *testing.T) {
	c := New(t, Options{})
	b := c.Primary().NewPgBouncer(t, nil)
	name := databaseOf(t, c.NewDB(t))
	conn := through(t, b.DSN(name))
	if got := get[string](t, conn, `select current_database()`); got != name {
		t.Errorf("connected to %s, want %s", got, name)
	}
	mustExec(t, conn, `create role application login`)
	if got := get[string](t, through(t, strings.Replace(b.DSN(name), superuser+"@", "application@", 1)), `select current_user`); got != "application" {
		t.Errorf("connected as %s", got)
	}
	console := through(t, b.DSN("pgbouncer"))
	rows, err := console.Query(t.Context(), `show config`)
	must(t, err)
	values := map[string]string{}
	for rows.Next() {
		raw := rows.RawValues()
		values[string(raw[0])] = string(raw[1])
	}
	must(t, rows.Err())
	if values["pool_mode"] != "transaction" || values["listen_port"] != fmt.Sprint(b.Port()) || values["listen_addr"] != "127.0.0.1" {
		t.Errorf("configuration: %v", values)
	}
}

func TestPgBouncerAsksForThePassword(t *testing.T) {
	c := New(t, Options{Password: `p@ss"w'o rd`})
	b := c.Primary().NewPgBouncer(t, nil)
	if got := get[int](t, through(t, b.DSN("")), `select 1`); got != 1 {
		t.Error(got)
	}
	mustExec(t, through(t, b.DSN("")), `create role application login password 'other'`)
	cfg, err := pgx.ParseConfig(b.DSN(""))
	must(t, err)
	cfg.User, cfg.Password = "application", "other"
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	must(t, err)
	must(t, conn.Close(t.Context()))
	cfg.Password = "wrong"
	if conn, err := pgx.ConnectConfig(t.Context(), cfg); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a wrong password was taken")
	}
}

func TestPgBouncerOutlivesItsNode(t *testing.T) {
	c := New(t, Options{})
	b := c.Primary().NewPgBouncer(t, nil)
	if got := get[int](t, through(t, b.DSN("")), `select 1`); got != 1 {
		t.Error(got)
	}
	must(t, c.Primary().Kill())
	must(t, c.Primary().Start(t.Context()))
	mustExec(t, through(t, b.DSN("pgbouncer")), `reconnect`) // drops the dead server sessions
	if got := get[int](t, through(t, b.DSN("")), `select 1`); got != 1 {
		t.Error(got)
	}
}

func TestPgBouncerCloses(t *testing.T) {
	c := New(t, Options{})
	b := c.Primary().NewPgBouncer(t, nil)
	pid := b.proc.pid
	conn := through(t, b.DSN(""))
	b.Close()
	b.Close()
	awaitDeath(t, pid)
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("a connection outlived its pooler")
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(b.Port())))
	must(t, err)
	must(t, l.Close())

	with, err := c.Primary().StartPgBouncer(t.Context(), nil)
	must(t, err)
	pid = with.proc.pid
	must(t, c.Close(t.Context()))
	awaitDeath(t, pid)
	with.Close()
	if with.Log() != "" {
		t.Error("the log is still there")
	}
	if _, err := c.Primary().StartPgBouncer(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("start in a closed cluster: %v", err)
	}
}

func TestPgBouncerRefusesBadSettings(t *testing.T) {
	n := New(t, Options{}).Primary()
	_, err := n.StartPgBouncer(t.Context(), map[string]string{
		"listen_port": "1", "pool mode": "session", "max_client_conn": "1\n[databases]",
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"listen_port is set by the kit", `"pool mode" is not the name`, "the value of max_client_conn"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	got := failure(t, func(t testing.TB) { n.NewPgBouncer(t, map[string]string{"pool_mode": "quantum"}) })
	if !strings.Contains(got, `invalid value "quantum" for parameter pool_mode`) {
		t.Errorf("PgBouncer's own reason is missing: %s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.StartPgBouncer(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a dead context: %v", err)
	}
	if _, err := (&Node{cluster: &Cluster{outside: "postgres://h/a"}}).StartPgBouncer(t.Context(), nil); !errors.Is(err, ErrOutside) {
		t.Errorf("in front of an outside server: %v", err)
	}
	if left := n.cluster.bouncers; len(left) != 0 {
		t.Errorf("%d poolers are left of failed starts", len(left))
	}
}

func TestPgBouncerOnATakenPort(t *testing.T) {
	n := New(t, Options{}).Primary()
	b := n.NewPgBouncer(t, nil)
	program, err := findPgBouncer()
	must(t, err)
	clash := &PgBouncer{node: n, dir: b.dir, log: b.dir + ".clash.log", port: b.port}
	if err := clash.launch(t.Context(), program); !errors.Is(err, errPortTaken) || clash.proc != nil {
		t.Errorf("on a port that is taken: %v", err)
	}
}

func TestFindPgBouncer(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "pgbouncer")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755))
	t.Setenv(pgBouncerEnv, "")
	t.Setenv("PATH", dir)
	if got, err := findPgBouncer(); err != nil || got != program {
		t.Errorf("in PATH: got %q, %v", got, err)
	}
	t.Setenv("PATH", t.TempDir())
	// What is left is Debian's place, which this machine may have or not.
	if got, err := findPgBouncer(); isProgram("/usr/sbin/pgbouncer") != (got == "/usr/sbin/pgbouncer" && err == nil) {
		t.Errorf("in /usr/sbin: got %q, %v", got, err)
	} else if err != nil && !strings.Contains(err.Error(), "apt-get install pgbouncer") {
		t.Errorf("without any: %v", err)
	}
	t.Setenv(pgBouncerEnv, program)
	if got, err := findPgBouncer(); err != nil || got != program {
		t.Errorf("%s: got %q, %v", pgBouncerEnv, got, err)
	}
	t.Setenv(pgBouncerEnv, dir)
	n := New(t, Options{BinDir: installed(t)}).Primary()
	if _, err := n.StartPgBouncer(t.Context(), nil); err == nil || !strings.Contains(err.Error(), pgBouncerEnv) {
		t.Errorf("a wrong choice must not fall through: %v", err)
	}
	t.Setenv(pgBouncerEnv, program)
	must(t, os.Chmod(dir, 0o700))
	if _, err := n.StartPgBouncer(t.Context(), nil); err == nil {
		t.Error("a program that only root can read, or that ends at once, was started")
	}
}
