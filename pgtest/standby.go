package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// AddStandby adds a streaming standby to the current primary and returns when
// it accepts reads. A replication slot of the primary keeps what it has not
// received, so it may lag, pause or be stopped for as long as the test wants.
func (c *Cluster) AddStandby(ctx context.Context) (*Node, error) {
	if c.outside != "" {
		return nil, ErrOutside
	}
	c.growMu.Lock()
	defer c.growMu.Unlock()
	if c.isClosed() {
		return nil, errors.New("pgtest: AddStandby: the cluster is closed")
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	primary, n := c.Primary(), c.newNode()
	n.standby.Store(true)
	err := primary.exec(ctx, fmt.Sprintf(`select pg_create_physical_replication_slot('%s', true)`, n.name))
	if err == nil {
		err = n.cloneFrom(ctx, primary)
	}
	if err == nil {
		err = n.Start(ctx)
	}
	if err != nil {
		drop := fmt.Sprintf(`select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '%s'`, n.name)
		_ = primary.exec(context.WithoutCancel(ctx), drop)
		return nil, errors.Join(fmt.Errorf("pgtest: AddStandby: %w", err), os.RemoveAll(n.data))
	}
	c.join(n)
	return n, nil
}

func (c *Cluster) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// cloneFrom makes the data folder of a standby of primary.
func (n *Node) cloneFrom(ctx context.Context, primary *Node) error {
	s := n.cluster.site
	var err error
	if isProgram(s.program("pg_basebackup")) {
		err = s.run(ctx, s.program("pg_basebackup"), "-D", n.data, "-h", s.socketDir(), "-p", fmt.Sprint(primary.Port()),
			"-U", superuser, "-c", "fast", "-X", "stream", "-S", n.name, "--no-sync")
	} else {
		err = n.copyFrom(ctx, primary)
	}
	if err != nil {
		return err
	}
	conninfo := fmt.Sprintf("host=%s port=%d user=%s application_name=%s", s.socketDir(), primary.Port(), superuser, n.name)
	// The last line of a name counts. A standby that is promoted has no
	// standbys of its own to wait for.
	config := fmt.Sprintf("primary_conninfo = %s\nprimary_slot_name = %s\nsynchronous_standby_names = ''\n",
		quoteSetting(conninfo), quoteSetting(n.name))
	if err := appendTo(filepath.Join(n.data, "postgresql.auto.conf"), config); err != nil {
		return err
	}
	return s.writeFile(filepath.Join(n.data, "standby.signal"), "")
}

// copyFrom is a base backup without pg_basebackup, which not every set of
// binaries has. The WAL it needs is kept by the slot and comes by streaming.
func (n *Node) copyFrom(ctx context.Context, primary *Node) error {
	return primary.session(ctx, func(conn *pgx.Conn) error {
		start, stop := `select pg_backup_start($1, true)`, `select labelfile from pg_backup_stop(false)`
		if serverVersion(conn) < 15 {
			start, stop = `select pg_start_backup($1, true, false)`, `select labelfile from pg_stop_backup(false, false)`
		}
		if _, err := conn.Exec(ctx, start, n.name); err != nil {
			return err
		}
		if err := n.cluster.site.copyTree(primary.data, n.data, notInBackup); err != nil {
			return err
		}
		var label string
		if err := conn.QueryRow(ctx, stop).Scan(&label); err != nil {
			return err
		}
		return n.cluster.site.writeFile(filepath.Join(n.data, "backup_label"), label)
	})
}

// notInBackup is what the manual tells a base backup to leave out: what belongs
// to the running server, and what a starting one empties or makes anew.
func notInBackup(rel string) bool {
	if slices.Contains([]string{"postmaster.pid", "postmaster.opts", "backup_label", "standby.signal"}, rel) {
		return true
	}
	if strings.HasPrefix(filepath.Base(rel), "pgsql_tmp") || strings.HasPrefix(filepath.Base(rel), "pg_internal.init") {
		return true
	}
	top, rest, inside := strings.Cut(rel, string(filepath.Separator))
	if top == "pg_wal" {
		return inside && rest != "archive_status" && rest != "summaries"
	}
	return inside && slices.Contains([]string{
		"pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans",
	}, top)
}

// serverVersion returns the major version.
func serverVersion(conn *pgx.Conn) int {
	major := 0
	_, _ = fmt.Sscan(conn.PgConn().ParameterStatus("server_version"), &major)
	return major
}

// Promote makes a standby take writes and the cluster's primary, and returns
// when it does. The former primary is left as it is: stop or kill it first,
// unless the test wants two. Other standbys go on following the former primary.
func (n *Node) Promote(ctx context.Context) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	return n.operate(func() error {
		if !n.standby.Load() {
			return fmt.Errorf("pgtest: %s is not a standby, so it cannot be promoted", n.name)
		}
		if err := n.promote(ctx); err != nil {
			return fmt.Errorf("pgtest: promotion of %s: %w", n.name, err)
		}
		n.standby.Store(false)
		c := n.cluster
		c.mu.Lock()
		defer c.mu.Unlock()
		c.primary = n
		return nil
	})
}

func (n *Node) promote(ctx context.Context) error {
	return n.session(ctx, func(conn *pgx.Conn) error {
		// Not waiting in the server, which looks every 100 ms only.
		if _, err := conn.Exec(ctx, `select pg_promote(false)`); err != nil {
			return err
		}
		return poll(ctx, "the end of recovery", func() (done bool, err error) {
			err = conn.QueryRow(ctx, `select not pg_is_in_recovery()`).Scan(&done)
			return done, err
		})
	})
}

// WaitForReplay returns when the standby has replayed the WAL up to lsn, such
// as pg_current_wal_lsn() gives it: "0/3000060". On a primary it is an error.
func (n *Node) WaitForReplay(ctx context.Context, lsn string) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	return n.session(ctx, func(conn *pgx.Conn) error {
		return poll(ctx, n.name+" to replay "+lsn, func() (done bool, err error) {
			var at *string
			err = conn.QueryRow(ctx, `select pg_last_wal_replay_lsn()::text, coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)`, lsn).Scan(&at, &done)
			if err == nil && at == nil {
				err = fmt.Errorf("pgtest: %s replays nothing: it is not a standby", n.name)
			}
			return done, err
		})
	})
}

// WaitCaughtUp returns when every standby has replayed all that was committed
// on the primary before the call. A standby that does not run is an error, one
// that is paused is waited for.
func (c *Cluster) WaitCaughtUp(ctx context.Context) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	var lsn string
	err := c.Primary().session(ctx, func(conn *pgx.Conn) error {
		// A commit of our own puts all before it, asynchronous commits too, on
		// disk. The insert position would not do: on a page boundary it lies
		// behind the page's header, which no replay reaches until more comes.
		if _, err := conn.Exec(ctx, `set synchronous_commit = local`); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, `select pg_logical_emit_message(true, 'pgtest', '')`); err != nil {
			return err
		}
		return conn.QueryRow(ctx, `select pg_current_wal_flush_lsn()::text`).Scan(&lsn)
	})
	if err != nil {
		return fmt.Errorf("pgtest: WaitCaughtUp: %w", err)
	}
	for _, n := range c.Standbys() {
		if err := n.WaitForReplay(ctx, lsn); err != nil {
			return err
		}
	}
	return nil
}
