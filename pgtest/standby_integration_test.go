//go:build unix

package pgtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestStandbysFollowAndAreReadOnly(t *testing.T) {
	begun := time.Now()
	c := New(t, Options{Standbys: 2})
	t.Logf("cluster of three started in %v", time.Since(begun).Round(time.Millisecond))
	exerciseStandbys(t, c)
}

// onlyServer makes a folder with the three programs that some packages have.
func onlyServer(t *testing.T) string {
	t.Helper()
	full, err := findBinaries(t.Context(), "")
	must(t, err)
	prefix := t.TempDir()
	for dir := prefix; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	bin := filepath.Join(prefix, "bin")
	must(t, os.Mkdir(bin, 0o755))
	for _, name := range []string{"initdb", "postgres"} {
		must(t, os.Symlink(filepath.Join(full, name), filepath.Join(bin, name)))
	}
	return bin
}

func TestStandbysWithoutPgBasebackup(t *testing.T) {
	c := New(t, Options{BinDir: onlyServer(t), Standbys: 2})
	if isProgram(c.site.program("pg_basebackup")) {
		t.Fatal("this proves nothing")
	}
	exerciseStandbys(t, c)
}

func exerciseStandbys(t *testing.T, c *Cluster) {
	t.Helper()
	conn := connect(t, c.Primary().DSN(""))
	mustExec(t, conn, `create table followed as select generate_series(1, 1000) as n`)
	must(t, c.WaitCaughtUp(t.Context()))
	if len(c.Standbys()) != 2 || len(c.Nodes()) != 3 {
		t.Fatalf("%d standbys of %d nodes", len(c.Standbys()), len(c.Nodes()))
	}
	for _, s := range c.Standbys() {
		on := connect(t, s.DSN(""))
		if got := get[int](t, on, `select count(*) from followed`); got != 1000 {
			t.Errorf("%s has %d rows", s.Name(), got)
		}
		var pgErr *pgconn.PgError
		if _, err := on.Exec(t.Context(), `delete from followed`); !errors.As(err, &pgErr) || pgErr.Code != "25006" {
			t.Errorf("%s takes writes: %v", s.Name(), err)
		}
	}
	if got := get[int](t, conn, `select count(*) from pg_replication_slots where active`); got != 2 {
		t.Errorf("%d active slots", got)
	}
}

func TestAsynchronousCommitsAreCaughtUp(t *testing.T) {
	c := New(t, Options{Standbys: 1, Settings: map[string]string{"synchronous_commit": "off", "wal_writer_delay": "10s"}})
	conn, on := connect(t, c.Primary().DSN("")), connect(t, c.Standbys()[0].DSN(""))
	mustExec(t, conn, `create table counted (n int)`)
	for i := range 50 {
		mustExec(t, conn, `insert into counted values ($1)`, i)
		must(t, c.WaitCaughtUp(t.Context()))
		if got := get[int](t, on, `select count(*) from counted`); got != i+1 {
			t.Fatalf("%d rows of %d", got, i+1)
		}
	}
}

func TestPromote(t *testing.T) {
	c := New(t, Options{Standbys: 1})
	old, next := c.Primary(), c.Standbys()[0]
	mustExec(t, connect(t, old.DSN("")), `create table kept as select 7 as n`)
	must(t, c.WaitCaughtUp(t.Context()))
	must(t, old.Kill())

	begun := time.Now()
	must(t, next.Promote(t.Context()))
	t.Logf("promoted in %v", time.Since(begun).Round(time.Millisecond))
	if c.Primary() != next || len(c.Standbys()) != 0 {
		t.Error("the promoted node is the primary now")
	}
	mustExec(t, connect(t, next.DSN("")), `insert into kept values (8)`)
	for name, err := range map[string]error{"a primary": next.Promote(t.Context()), "a former one": old.Promote(t.Context())} {
		if err == nil || !strings.Contains(err.Error(), "not a standby") {
			t.Errorf("promoting %s: %v", name, err)
		}
	}
	fresh, err := c.AddStandby(t.Context())
	must(t, err)
	must(t, c.WaitCaughtUp(t.Context()))
	if got := get[int](t, connect(t, fresh.DSN("")), `select count(*) from kept`); got != 2 {
		t.Errorf("a standby of the new primary has %d rows", got)
	}
}

func TestStandbyLags(t *testing.T) {
	c := New(t, Options{Standbys: 1})
	s := c.Standbys()[0]
	conn := connect(t, c.Primary().DSN(""))
	must(t, s.Kill())
	mustExec(t, conn, `create table missed as select generate_series(1, 200000) as n`)
	mustExec(t, conn, `select pg_switch_wal()`)
	mustExec(t, conn, `checkpoint`) // would remove the WAL if no slot kept it
	lsn := get[string](t, conn, `select pg_current_wal_flush_lsn()::text`)
	if err := c.WaitCaughtUp(t.Context()); err == nil {
		t.Error("a standby that does not run cannot catch up")
	}
	must(t, s.Start(t.Context()))
	must(t, s.WaitForReplay(t.Context(), lsn))

	must(t, s.Pause())
	mustExec(t, conn, `drop table missed`)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.WaitCaughtUp(ctx); err == nil {
		t.Error("a paused standby cannot catch up")
	}
	must(t, s.Resume())
	must(t, c.WaitCaughtUp(t.Context()))
}

func TestWaitForReplayRefuses(t *testing.T) {
	c := New(t, Options{Standbys: 1})
	if err := c.Primary().WaitForReplay(t.Context(), "0/1"); err == nil || !strings.Contains(err.Error(), "not a standby") {
		t.Errorf("on a primary: %v", err)
	}
	var pgErr *pgconn.PgError
	if err := c.Standbys()[0].WaitForReplay(t.Context(), "bad"); !errors.As(err, &pgErr) || pgErr.Code != "22P02" {
		t.Errorf("a bad position: %v", err)
	}
}

func TestSynchronousStandbys(t *testing.T) {
	c := New(t, Options{Standbys: 1, SynchronousStandbys: 1})
	s, conn := c.Standbys()[0], connect(t, c.Primary().DSN(""))
	mustExec(t, conn, `create table waited (n int)`)

	must(t, s.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := conn.Exec(ctx, `insert into waited values (1)`); err == nil {
		t.Error("a commit did not wait for the synchronous standby")
	}
	must(t, s.Resume())
	must(t, c.Primary().Kill())
	must(t, s.Promote(t.Context()))
	// It has no standby, so it must not wait for one.
	mustExec(t, connect(t, s.DSN("")), `insert into waited values (2)`)
}
