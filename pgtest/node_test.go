package pgtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestDSNOfAnOutsideServer(t *testing.T) {
	for _, tc := range []struct{ dsn, database, want string }{
		{"postgres://u:p@h:1/a?sslmode=require", "", "postgres://u:p@h:1/a?sslmode=require"},
		{"postgres://u:p@h:1/a?sslmode=require", "b c", "postgres://u:p@h:1/b%20c?sslmode=require"},
		{"postgresql://h/?dbname=a", "b", "postgresql://h/b"},
		{"host=h user=u dbname=a", `it's`, `host=h user=u dbname=a dbname='it\'s'`},
	} {
		n := &Node{cluster: &Cluster{outside: tc.dsn}}
		got := n.DSN(tc.database)
		if got != tc.want {
			t.Errorf("%s with %q: got %s, want %s", tc.dsn, tc.database, got, tc.want)
		}
		cfg, err := pgx.ParseConfig(got)
		if err != nil {
			t.Errorf("%s: %v", got, err)
		} else if tc.database != "" && cfg.Database != tc.database {
			t.Errorf("%s means the database %q", got, cfg.Database)
		}
	}
}

func TestOutsideServerIsNotOurs(t *testing.T) {
	c := &Cluster{outside: "postgres://h/a"}
	n := &Node{cluster: c}
	_, addErr := c.AddStandby(t.Context())
	for name, err := range map[string]error{
		"AddStandby": addErr, "Kill": n.Kill(), "Stop": n.Stop(t.Context()), "Start": n.Start(t.Context()),
		"Restart": n.Restart(t.Context()), "Pause": n.Pause(), "Resume": n.Resume(), "Promote": n.Promote(t.Context()),
	} {
		if !errors.Is(err, ErrOutside) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if n.Host() != "" || n.Port() != 0 || n.Log() != "" {
		t.Error("an outside server has no host, port or log that we know of")
	}
}

func TestPollNamesWhatItWaitedFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err := poll(ctx, "Godot", func() (bool, error) { return false, nil })
	if !errors.Is(err, context.DeadlineExceeded) || err.Error() != "pgtest: waiting for Godot: context deadline exceeded" {
		t.Errorf("got %v", err)
	}
	broken := errors.New("broken")
	if err := poll(t.Context(), "", func() (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestNotInBackup(t *testing.T) {
	for rel, want := range map[string]bool{
		"PG_VERSION": false, "base/1/1259": false, "global/pg_control": false, "pg_xact/0000": false,
		"pg_wal": false, "pg_wal/archive_status": false, "pg_replslot": false,
		"postmaster.pid": true, "pg_wal/000000010000000000000001": true, "pg_replslot/node1": true,
		"base/pgsql_tmp/1": false, "base/pgsql_tmp": true, "global/pg_internal.init": true, "pg_stat_tmp/x": true,
	} {
		if got := notInBackup(rel); got != want {
			t.Errorf("%s: got %v", rel, got)
		}
	}
}
