package faulttests

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
)

// TestReads reads from two standbys, with and without a session, while one of them
// is killed, paused, cut off or left behind. No read fails, and none in a session
// sees less than the session has written or seen.
func TestReads(t *testing.T) {
	const clients = 12
	s := newStage(t, 2, false)
	s.sql(s.servers.Primary(),
		`create table counters (id int primary key, value bigint not null default 0)`,
		fmt.Sprintf(`insert into counters select i from generate_series(1, %d) i`, clients),
		`create table ballast (filling text)`)
	s.must(s.servers.WaitCaughtUp(t.Context()))

	var r readers
	var stop atomic.Bool
	var work sync.WaitGroup
	for client := range clients {
		work.Go(func() {
			for !stop.Load() {
				r.session(t, s.db, client+1)
			}
		})
	}
	kinds := []aFault{
		{"standby killed", (*stage).crashStandby},
		{"standby paused", func(s *stage) { s.freeze(s.servers.Standbys()[0]) }},
		{"standby cut off, 20 MB behind", (*stage).leaveBehind},
		{"standby's replay paused", (*stage).pauseReplay},
		{"connections to a standby cut", func(s *stage) { s.proxy(s.servers.Standbys()[1]).Cut() }},
		{"a standby unreachable", func(s *stage) { s.isolate(s.servers.Standbys()[1]) }},
	}
	n := runs(t, len(kinds))
	for i := range n {
		f := kinds[i%len(kinds)]
		f.make(s)
		before := r.reads.Load()
		s.waitFor("reads go on after: "+f.name, func() bool { return r.reads.Load() > before+clients*10 })
	}
	stop.Store(true)
	work.Wait()
	t.Logf("%d faults; %d reads, %d of them on a standby, %d failed, %d stale; %d writes",
		n, r.reads.Load(), r.onStandby.Load(), r.failed.Load(), r.stale.Load(), r.writes.Load())
	if r.onStandby.Load() == 0 {
		t.Error("no read was on a standby")
	}
}

type readers struct{ reads, onStandby, failed, stale, writes atomic.Int64 }

// session writes and reads for a while in one session.
func (r *readers) session(t *testing.T, db *pgkeel.DB, id int) {
	ctx := pgkeel.WithSession(t.Context(), pgkeel.NewSession())
	var last int64
	for range 5 {
		value, err := pgkeel.One[int64](ctx, db, `update counters set value = value + 1 where id = $1 returning value`, id)
		if err != nil {
			t.Errorf("write: %v", err)
			return
		}
		r.writes.Add(1)
		last = value
		for range 4 {
			r.read(ctx, t, db, id, &last)
		}
		var any int64
		r.read(t.Context(), t, db, id, &any) // without the session
	}
}

func (r *readers) read(ctx context.Context, t *testing.T, db *pgkeel.DB, id int, last *int64) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	got, err := pgkeel.One[struct {
		Value   int64
		Standby bool
	}](ctx, db.Reader(), `select value, pg_is_in_recovery() as standby from counters where id = $1`, id)
	r.reads.Add(1)
	if err != nil {
		r.failed.Add(1)
		t.Errorf("read: %v", err)
		return
	}
	if got.Standby {
		r.onStandby.Add(1)
	}
	if got.Value < *last {
		r.stale.Add(1)
		t.Errorf("a session saw %d after %d", got.Value, *last)
	}
	*last = got.Value
}

func (s *stage) freeze(n *pgtest.Node) {
	s.must(n.Pause())
	s.last(1500 * time.Millisecond)
	s.must(n.Resume())
}

func (s *stage) isolate(n *pgtest.Node) {
	p := s.proxy(n)
	p.BlackHole(fault.ToServer | fault.ToClient)
	s.last(1500 * time.Millisecond)
	p.Heal()
}

func (s *stage) pauseReplay() {
	n := s.servers.Standbys()[0]
	s.sql(n, `select pg_wal_replay_pause()`)
	s.last(700 * time.Millisecond)
	s.sql(n, `select pg_wal_replay_resume()`)
}

// leaveBehind has a standby lose its primary, and the primary write 20 MB.
func (s *stage) leaveBehind() {
	n := s.servers.Standbys()[0]
	db := s.direct(n)
	defer s.closeDirect(db)
	upstream, err := pgkeel.One[string](s.t.Context(), db, `select current_setting('primary_conninfo')`)
	s.must(err)
	s.follow(n, "host=127.0.0.1 port=1")
	s.sql(s.servers.Primary(), `insert into ballast select string_agg(md5(random()::text), '') from generate_series(1, 20000) i, generate_series(1, 32) j group by i`)
	s.last(700 * time.Millisecond)
	s.follow(n, upstream)
	s.must(s.servers.WaitCaughtUp(s.t.Context()))
}

func (s *stage) follow(n *pgtest.Node, conninfo string) {
	s.sql(n, fmt.Sprintf(`alter system set primary_conninfo = '%s'`, conninfo), `select pg_reload_conf()`)
}
