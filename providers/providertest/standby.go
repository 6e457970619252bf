package providertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

// pair is a pool on a primary and one on its standby.
type pair struct{ primary, standby providers.Pool }

func (s suite) openPair(t *testing.T) pair {
	t.Helper()
	cfg := s.Config
	cfg.Pool.MaxSize = 4
	var p pair
	primary, standby := s.Standby(t)
	cfg.DSN = primary
	p.primary = s.openWith(t, cfg)
	mustExec(t, p.primary, "create table c (n int primary key)")
	p.catchUp(t, standby, s)
	cfg.DSN = standby
	p.standby = s.openWith(t, cfg)
	return p
}

// catchUp waits until the standby can be connected to and has replayed all.
func (p *pair) catchUp(t *testing.T, standby string, s suite) {
	t.Helper()
	// A commit of its own is behind all others, and ends no page.
	mustExec(t, p.primary, "select pg_logical_emit_message(true, 'providertest', '')")
	place := value[string](t, p.primary, "select pg_current_wal_flush_lsn()::text")
	cfg := s.Config
	cfg.DSN, cfg.Pool.MaxSize = standby, 1
	eventually(t, "the standby has replayed "+place, func() bool {
		q, err := s.Provider.Open(t.Context(), cfg)
		if err != nil {
			return false
		}
		defer func() { _ = q.Close(t.Context()) }()
		var done bool
		err = q.QueryRow(t.Context(), "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", place).Scan(&done)
		return err == nil && done
	})
}

// reach waits until the standby has replayed up to a place.
func (p *pair) reach(t *testing.T, place providers.LSN) {
	t.Helper()
	eventually(t, "the standby has replayed "+place.String(), func() bool {
		return value[bool](t, p.standby, "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", place.String())
	})
}

// write adds a row and returns where.
func (p *pair) write(t testing.TB, n int) providers.LSN {
	t.Helper()
	var noted notes
	if _, err := p.primary.Exec(noted.after(t.Context(), 0), "insert into c values ($1)", n); err != nil {
		t.Fatal(err)
	}
	return noted.one(t).LSN
}

// seen fails on the server unless the row is there.
const seen = "select 1 / count(*) from c where n = $1"

// A standby that has not replayed what is asked for refuses before anything runs,
// on every path, and one that has tells how far it is.
func testGateOfStandby(t *testing.T, s suite) {
	p := s.openPair(t)
	for i, w := range waysOf(p.standby) {
		t.Run(w.name, func(t *testing.T) {
			mustExec(t, p.standby, "select pg_wal_replay_pause()")
			place := p.write(t, i)
			p.refuses(t, w, place, i)
			mustExec(t, p.standby, "select pg_wal_replay_resume()")
			p.reach(t, place)
			p.passes(t, w, place, i)
		})
	}
}

// refuses runs a statement that would leave a lock.
func (p *pair) refuses(t *testing.T, w way, place providers.LSN, i int) {
	t.Helper()
	var n notes
	for range 2 { // what the first prepares the second finds
		err := w.run(n.after(t.Context(), place), p.standby, "select pg_advisory_lock(1) from (values ($1::int)) v", i)
		if !errors.Is(err, providers.ErrBehind) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("%v", err)
		}
		n.none(t, "what was not run")
	}
	if value[bool](t, p.standby, "select exists (select from pg_locks where locktype = 'advisory')") {
		t.Error("the statement was run")
	}
}

func (p *pair) passes(t *testing.T, w way, place providers.LSN, i int) {
	t.Helper()
	var n notes
	for range 2 {
		if err := w.run(n.after(t.Context(), place), p.standby, seen, i); err != nil {
			t.Fatal(err)
		}
		got := n.one(t)
		if !got.Standby || got.Timeline != 0 || got.Replayed < place || got.LSN < got.Replayed {
			t.Errorf("%+v is not behind %v", got, place)
		}
	}
}

// load keeps a primary busy until the returned function is called.
func (p *pair) load(t *testing.T) (stop func()) {
	t.Helper()
	mustExec(t, p.primary, "create table busy (n int)")
	ctx, cancel := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for ctx.Err() == nil {
				_, _ = p.primary.Exec(ctx, "insert into busy select generate_series(1, 20)")
			}
		})
	}
	return func() { cancel(); workers.Wait() }
}

// untilThere repeats an operation while the standby is behind.
func untilThere(t *testing.T, run func() error) {
	t.Helper()
	eventually(t, "the standby is there", func() bool {
		err := run()
		if err != nil && !errors.Is(err, providers.ErrBehind) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// What was written is seen by all that come behind it, however close.
func testGateUnderLoad(t *testing.T, s suite) {
	p := s.openPair(t)
	defer p.load(t)()
	all := waysOf(p.standby)
	for i := range 300 {
		place, o := p.write(t, i), all[i%len(all)]
		untilThere(t, func() error {
			return o.run(providers.WithCausality(t.Context(), &providers.Causality{After: place}), p.standby, seen, i)
		})
	}
}

// What a standby tells covers what was seen on it: a commit is visible before the
// standby says that it has replayed it, and a long one long before.
func testSeenIsCovered(t *testing.T, s suite) {
	const tables, long = 1000, 64 << 10
	const noise = 4 << 10 // that the server itself may have written behind the commit
	p := s.openPair(t)
	mustExec(t, p.primary, fmt.Sprintf("do $$ begin for i in 1..%d loop execute 'create table long_' || i || ' (n int)'; end loop; end $$", tables))
	tx := begin(t, p.primary, providers.TxOptions{})
	mustExec(t, tx, fmt.Sprintf("do $$ begin for i in 1..%d loop execute 'drop table long_' || i; end loop; end $$", tables))
	mustExec(t, tx, "insert into c values (1)")
	place := insertAt(t, tx)
	var n notes
	if err := tx.Commit(n.after(t.Context(), 0)); err != nil {
		t.Fatal(err)
	}
	end := n.one(t).LSN
	if end < place+long {
		t.Fatalf("the commit took %d bytes; it was to be a long one", end-place)
	}
	eventually(t, "the commit is seen", func() bool {
		var count int
		if err := p.standby.QueryRow(n.after(t.Context(), 0), "select count(*) from c").Scan(&count); err != nil {
			t.Fatal(err)
		}
		if got := n.one(t); count > 0 && got.LSN < end-noise {
			t.Fatalf("it saw the commit from %v to %v, and told %+v", place, end, got)
		}
		return count > 0
	})
}
