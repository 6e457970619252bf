package cluster

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// sample is what a look at a server found.
type sample struct {
	// began is when the look did: what was found is not older.
	began time.Time
	// standby says that the server is in recovery.
	standby bool
	// timeline is the primary's, and of a standby the newest one that it is seen to
	// follow: the one that it receives, where the role may see that, or the one in its
	// control file, which can be minutes late.
	timeline uint32
	// position is what a primary has flushed, which is what a standby can receive,
	// and what a standby has replayed.
	position providers.LSN
	// receiving says that a standby has a walreceiver.
	receiving bool
	// system is the identifier of the database cluster.
	system string
	// identity tells servers apart, and the runs of one server: nothing that ran on
	// another one lives any more.
	identity string
}

// lookSQL is run by every look. Any role may run it; what a walreceiver does is seen
// by members of pg_read_all_stats alone, that there is one by all. The control file
// of a new primary names the old timeline until its first checkpoint is complete, so
// a primary is asked for the name of its log file.
const lookSQL = `select s.standby,
  case when s.standby then '' else substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) end,
  greatest(w.received_tli, c.timeline_id, r.min_recovery_end_timeline)::int8,
  case when s.standby then coalesce(pg_last_wal_replay_lsn(), '0/0') else pg_current_wal_flush_lsn() end::text,
  w.pid is not null,
  i.system_identifier::text,
  extract(epoch from pg_postmaster_start_time())::text || '/' || current_setting('port')
from (select pg_is_in_recovery() as standby offset 0) s
cross join pg_control_checkpoint() c cross join pg_control_recovery() r cross join pg_control_system() i
left join pg_stat_wal_receiver w on true`

// look asks a server what it is.
func look(ctx context.Context, server providers.Querier) (sample, error) {
	s := sample{began: time.Now()}
	var file, position, run string
	var timeline int64
	err := server.QueryRow(ctx, lookSQL).Scan(&s.standby, &file, &timeline, &position, &s.receiving, &s.system, &run)
	if err != nil {
		return sample{}, err
	}
	if s.position, err = providers.ParseLSN(position); err != nil {
		return sample{}, err
	}
	if !s.standby {
		if timeline, err = strconv.ParseInt(file, 16, 64); err != nil {
			return sample{}, fmt.Errorf("pgkeel: %q is no beginning of a log file's name: %w", file, err)
		}
	}
	s.timeline = uint32(timeline) //nolint:gosec // PostgreSQL's timelines have 32 bits
	s.identity = s.system + "/" + run
	return s, nil
}

// probeConfig is the configuration of the pool that looks at one server: one
// connection that nobody else uses, and nothing of what concerns the user's work.
func probeConfig(cfg providers.Config, dsn string, opts Options) providers.Config {
	size := int32(1)
	if opts.Discovery != nil {
		size = 2 // it may ask the primary, and must not keep it from being looked at
	}
	return providers.Config{
		DSN:  dsn,
		Pool: providers.PoolStrategy{MaxSize: size},
		// A look that takes too long ends its connection. The other profiles ask the
		// server to stop, and wait for its answer.
		Profile:        providers.ProfilePgBouncer,
		AcquireTimeout: opts.ProbeTimeout,
		ConnectTimeout: opts.ProbeTimeout,
		PingTimeout:    opts.ProbeTimeout,
		KeepAlive:      cfg.KeepAlive,
		TCPUserTimeout: cfg.TCPUserTimeout,
		Logger:         cfg.Logger,
	}
}

// answers reports whether an error came from a server that is there, though it did
// not say what it is: its slots are taken, or it does not know the user.
func answers(err error) bool {
	pg := providers.NewPGError(err)
	return pg != nil && (pg.IsTooManyConnections() || !pg.IsConnectionError())
}
