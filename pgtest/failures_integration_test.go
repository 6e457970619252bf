//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A trial is a test that may fail without failing the real one.
type trial struct {
	testing.TB // the real one

	ctx      context.Context
	text     string
	cleanups []func()
}

func (r *trial) Context() context.Context { return r.ctx }
func (r *trial) Cleanup(f func())         { r.cleanups = append(r.cleanups, f) }
func (r *trial) Error(args ...any)        { r.text += fmt.Sprintln(args...) }
func (r *trial) Fatal(args ...any)        { r.Error(args...); panic(r) }
func (r *trial) Fatalf(format string, args ...any) {
	r.text += fmt.Sprintf(format, args...)
	panic(r)
}

// attempt runs do up to its end or its first fatal failure.
func (r *trial) attempt(do func(testing.TB)) {
	defer func() {
		if p := recover(); p != nil && p != any(r) {
			panic(p)
		}
	}()
	do(r)
}

// failure returns what a test says that is expected to fail, its cleanups
// included.
func failure(t *testing.T, do func(testing.TB)) string {
	t.Helper()
	r := &trial{TB: t, ctx: t.Context()}
	r.attempt(do)
	for i := range r.cleanups {
		r.cleanups[len(r.cleanups)-1-i]()
	}
	if r.text == "" {
		t.Error("it did not fail")
	}
	return r.text
}

// installed returns the folder of this machine's binaries.
func installed(t *testing.T) string {
	t.Helper()
	bin, err := findBinaries(t.Context(), "")
	must(t, err)
	return bin
}

// wrapped makes a folder with this machine's server in which a program is
// replaced by a script. $real is the folder of the true ones.
func wrapped(t *testing.T, program, script string) string {
	t.Helper()
	full, bin := installed(t), onlyServer(t)
	path := filepath.Join(bin, program)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	must(t, os.WriteFile(path, []byte("#!/bin/sh\nreal="+full+"\n"+script+"\n"), 0o755))
	return bin
}

// emptied reports what is left in a folder.
func emptied(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// open755 makes a folder that every account may enter.
func open755(t *testing.T) string {
	t.Helper()
	leaf := t.TempDir()
	for dir := leaf; dir != filepath.Clean(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	must(t, os.Chmod(leaf, 0o777))
	return leaf
}

// short is like open755, with a name that leaves room for a socket's.
func short(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pgt")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o777))
	return dir
}

func TestStartRefusesFoldersItCannotUse(t *testing.T) {
	file := filepath.Join(open755(t), "file")
	must(t, os.WriteFile(file, nil, 0o755))
	must(t, os.Chmod(file, 0o755))
	for name, tc := range map[string]struct {
		opts Options
		want string
	}{
		"binaries":   {Options{BinDir: t.TempDir()}, "Options.BinDir"},
		"no folder":  {Options{Dir: "/no/such/folder"}, "set Options.Dir or TMPDIR"},
		"a long one": {Options{Dir: longFolder(t)}, "short enough for a socket"},
		"a file":     {Options{Dir: file}, "folder of the cluster"},
	} {
		c, err := Start(t.Context(), tc.opts)
		if err == nil {
			must(t, c.Close(t.Context()))
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := failure(t, func(t testing.TB) { New(t, Options{Dir: "/no/such/folder"}) }); !strings.Contains(got, "Options.Dir") {
		t.Errorf("New does not say why: %s", got)
	}
}

func longFolder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(open755(t), strings.Repeat("long", 20))
	must(t, os.Mkdir(dir, 0o755))
	return dir
}

func TestStartLeavesNothingWhenInitdbFails(t *testing.T) {
	dir := short(t)
	_, err := Start(t.Context(), Options{Dir: dir, BinDir: wrapped(t, "initdb", "echo the reason >&2; exit 1")})
	if err == nil || !strings.Contains(err.Error(), "initdb") || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("got %v", err)
	}
	emptied(t, dir)
}

func TestStartLeavesNothingWhenAStandbyFails(t *testing.T) {
	dir := short(t)
	_, err := Start(t.Context(), Options{Dir: dir, Standbys: 1, BinDir: wrapped(t, "pg_basebackup", "echo no standby >&2; exit 1")})
	if err == nil || !strings.Contains(err.Error(), "AddStandby") || !strings.Contains(err.Error(), "no standby") {
		t.Errorf("got %v", err)
	}
	emptied(t, dir)
}

func TestLocaleFallsBackToC(t *testing.T) {
	script := `case "$*" in *C.UTF-8*) echo 'invalid locale name "C.UTF-8"' >&2; exit 1 ;; esac` + "\n" + `exec "$real/initdb" "$@"`
	c := New(t, Options{BinDir: wrapped(t, "initdb", script)})
	conn := connect(t, c.Primary().DSN(""))
	if got := get[string](t, conn, `select datcollate || ' ' || pg_encoding_to_char(encoding) from pg_database where datname = 'postgres'`); got != "C UTF8" {
		t.Errorf("got %s", got)
	}
}

func TestAddStandbyCleansUpAfterItself(t *testing.T) {
	// A backup that says it went well and wrote nothing.
	c := New(t, Options{BinDir: wrapped(t, "pg_basebackup", "exit 0")})
	if _, err := c.AddStandby(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if got := get[int](t, connect(t, c.Primary().DSN("")), `select count(*) from pg_replication_slots`); got != 0 {
		t.Errorf("%d slots would keep WAL for ever", got)
	}
	if len(c.Nodes()) != 1 {
		t.Errorf("%d nodes", len(c.Nodes()))
	}
	must(t, c.Primary().Kill())
	if _, err := c.AddStandby(t.Context()); !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("of a dead primary: %v", err)
	}
	if err := c.WaitCaughtUp(t.Context()); err == nil || !strings.Contains(err.Error(), "WaitCaughtUp") {
		t.Errorf("with a dead primary: %v", err)
	}
}

func TestCopyOfARunningServerReportsItsFailure(t *testing.T) {
	c := New(t, Options{})
	n := &Node{cluster: c, name: "copy", data: filepath.Join(c.Primary().log, "below a file")}
	if err := n.copyFrom(t.Context(), c.Primary()); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("got %v", err)
	}
}

func TestPromoteSaysWhichNodeAndWhy(t *testing.T) {
	c := New(t, Options{Standbys: 1})
	s := c.Standbys()[0]
	must(t, s.Kill())
	if err := s.Promote(t.Context()); err == nil || !strings.Contains(err.Error(), "promotion of node1") {
		t.Errorf("got %v", err)
	}
	if c.Primary() == s || len(c.Standbys()) != 1 {
		t.Error("a failed promotion changed the roles")
	}
}

func TestRestartEndsWithItsContext(t *testing.T) {
	c := New(t, Options{Standbys: 1})
	must(t, c.WaitCaughtUp(t.Context())) // so it is connected,
	must(t, c.Standbys()[0].Pause())     // and a primary waits for it when it stops
	mustExec(t, connect(t, c.Primary().DSN("")), `create table unsent ()`)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.Primary().Restart(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the stop of node0") {
		t.Errorf("got %v", err)
	}
}

func TestCloseEndsAServerThatDoesNotHearIt(t *testing.T) {
	dir := short(t)
	c, err := Start(t.Context(), Options{Dir: dir})
	must(t, err)
	pid := c.Primary().proc.pid
	children := descendants(pid)
	must(t, syscall.Kill(pid, syscall.SIGSTOP)) // not by Pause, so nobody knows
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, c.Close(ctx))
	for _, pid := range append(children, pid) {
		awaitDeath(t, pid)
	}
	emptied(t, dir)
}

func TestCloseReportsALostWatchdog(t *testing.T) {
	dir := short(t)
	c, err := Start(t.Context(), Options{Dir: dir})
	must(t, err)
	must(t, c.guard.cmd.Process.Kill())
	if err := c.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "watchdog: signal: killed") {
		t.Errorf("got %v", err)
	}
	emptied(t, dir)
}

func TestWhatWasLeftOpenIsClosed(t *testing.T) {
	open.Lock()
	others := open.clusters
	open.clusters = nil
	open.Unlock()
	defer func() {
		open.Lock()
		open.clusters = append(open.clusters, others...)
		open.Unlock()
	}()
	dir := short(t)
	for range 2 {
		_, err := Start(t.Context(), Options{Dir: dir})
		must(t, err)
	}
	must(t, closeAll(t.Context()))
	emptied(t, dir)
	must(t, closeAll(t.Context()))
}

func TestSharedIsTheOutsideServerThatTheEnvironmentNames(t *testing.T) {
	saved, err := shared.cluster, shared.err
	wasUsed := saved != nil || err != nil
	defer func() {
		shared.Once, shared.cluster, shared.err = sync.Once{}, saved, err
		if wasUsed {
			shared.Do(func() {})
		}
	}()
	server := New(t, Options{}).Primary()
	t.Setenv(outsideEnv, server.DSN(""))
	shared.Once, shared.cluster, shared.err = sync.Once{}, nil, nil
	c := Shared(t)
	t.Cleanup(func() { must(t, c.Close(context.Background())) })
	if c.Primary().Name() != "outside" {
		t.Errorf("it is %s", c.Primary().Name())
	}
	if got := get[string](t, connect(t, NewDB(t)), `select current_setting('port')`); got != fmt.Sprint(server.Port()) {
		t.Errorf("a database on port %s", got)
	}

	t.Setenv(outsideEnv, "postgres://postgres@127.0.0.1:1/x")
	shared.Once, shared.cluster, shared.err = sync.Once{}, nil, nil
	got := failure(t, func(t testing.TB) { Shared(t) })
	if !strings.Contains(got, outsideEnv) || !strings.Contains(failure(t, func(t testing.TB) { NewDB(t) }), outsideEnv) {
		t.Errorf("every test must hear why: %s", got)
	}
	shared.cluster, shared.err = nil, nil
	if got := failure(t, func(t testing.TB) { Shared(t) }); !strings.Contains(got, "cut short") {
		t.Errorf("a start that a panic ended: %s", got)
	}
}

func TestTemplateThatCannotBeBuiltFailsEveryTest(t *testing.T) {
	built := 0
	tpl := NewTemplate(func(context.Context, string) error { built++; return errors.New("a bad migration") })
	for range 2 {
		if got := failure(t, func(t testing.TB) { tpl.NewDB(t) }); !strings.Contains(got, "template: a bad migration") {
			t.Errorf("got %s", got)
		}
	}
	if built != 1 {
		t.Errorf("built %d times", built)
	}
}

func TestDatabasesOfADeadServer(t *testing.T) {
	c := New(t, Options{})
	got := failure(t, func(tb testing.TB) { c.NewDB(tb); must(t, c.Primary().Kill()) })
	if !strings.Contains(got, "drop database") {
		t.Errorf("a database that stays: %s", got)
	}
	if got := failure(t, func(tb testing.TB) { c.NewDB(tb) }); !strings.Contains(got, "create database") {
		t.Errorf("one that cannot be made: %s", got)
	}
	must(t, c.Primary().Start(t.Context()))
	if err := c.dropDatabase(t.Context(), "postgres"); err == nil || !strings.Contains(err.Error(), `drop database "postgres"`) {
		t.Errorf("the one that we are in: %v", err)
	}
}

func TestCreateTenantUndoesWhatItBegan(t *testing.T) {
	for name, tc := range map[string]struct{ setup, want string }{
		"another table": {`create table tenants (other int)`, "42703"},
		"a late refusal": {`create table tenants (id text primary key);
			create function refuse() returns trigger language plpgsql as $$ begin raise 'refused at commit'; end $$;
			create constraint trigger refuse after insert on tenants deferrable initially deferred
			for each row execute function refuse()`, "refused at commit"},
	} {
		t.Run(name, func(t *testing.T) {
			db := SetupTestDB(t)
			_, err := db.ExecContext(t.Context(), tc.setup)
			must(t, err)
			err = createTenant(t.Context(), db, "acme")
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), `tenant "acme"`) {
				t.Errorf("got %v", err)
			}
			var schema bool
			must(t, db.QueryRowContext(t.Context(), `select exists (select from pg_namespace where nspname = 'acme')`).Scan(&schema))
			if schema {
				t.Error("the schema is left")
			}
		})
	}
}

func TestLaunchOnATakenPort(t *testing.T) {
	c := New(t, Options{Standbys: 1})
	s := c.Standbys()[0]
	must(t, s.Stop(t.Context()))
	own := s.port.Swap(int32(c.Primary().Port()))
	err := s.launch(t.Context())
	if !errors.Is(err, errPortTaken) || !strings.Contains(err.Error(), "Address already in use") {
		t.Errorf("got %v", err)
	}
	s.port.Store(own)
	must(t, s.Start(t.Context()))
}

func TestStartSaysThatItCannotWriteItsLog(t *testing.T) {
	c := New(t, Options{})
	n := c.Primary()
	must(t, n.Stop(t.Context()))
	saved := n.log
	n.log = filepath.Join(c.site.dir, "missing", "log")
	if err := n.Start(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	n.log = saved
	must(t, n.Start(t.Context()))
}

func TestSiteSaysWhatItCannotWrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	s := &site{dir: filepath.Join(file, "gone")}
	below := filepath.Join(file, "below")
	_, spawnErr := s.spawn(filepath.Join(t.TempDir(), "log"), "true")
	for what, err := range map[string]error{
		"a folder": s.makeDir(below), "a file": s.writeFile(below, ""), "a setting": appendTo(below, ""), "a child": spawnErr,
	} {
		if !errors.Is(err, syscall.ENOTDIR) || !strings.HasPrefix(err.Error(), "pgtest: ") {
			t.Errorf("%s below a file: %v", what, err)
		}
	}
	// What no system removes.
	if err := (&site{dir: "."}).remove(); !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "folder of the cluster") {
		t.Errorf("got %v", err)
	}
}

func TestAccounts(t *testing.T) {
	for what, u := range map[string]*user.User{
		"groups of user": {Username: "nobody", Uid: "1", Gid: "none"},
		"ids of user":    {Username: "nobody", Uid: "none", Gid: "1"},
	} {
		if _, err := accountOf(u); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%+v: %v", u, err)
		}
	}
	var self *account
	must(t, self.own("/no/such/file"))
	if !self.reaches("/no/such/file") || self.attributes().Credential != nil {
		t.Error("our own account needs nothing")
	}
	other := &account{&syscall.Credential{Uid: 1, Gid: 1}}
	closed := t.TempDir()
	must(t, os.Chmod(closed, 0o700))
	if other.reaches("/no/such/file") || other.reaches(closed) || !other.reaches("/") {
		t.Error("another account reaches what everybody may, and no more")
	}
}

func TestSignalsToADeadProcess(t *testing.T) {
	cmd := exec.Command("true")
	must(t, cmd.Start())
	marker := filepath.Join(t.TempDir(), "marker")
	must(t, os.WriteFile(marker, nil, 0o600))
	p := newProcess(cmd, marker)
	p.wait(0)
	if below := p.freeze(); below != nil || !p.exited() {
		t.Errorf("froze %v", below)
	}
	p.thaw()
	p.kill(nil)
	if _, err := os.Stat(marker); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the watchdog's file outlived the process: %v", err)
	}
	if !dead(p.pid) {
		t.Error("it is not dead")
	}
}
