package providertest

import (
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

// evictTests are about pools that can end their connections at once.
var evictTests = []test{
	{name: "Idle", run: testEvictIdle, session: true},
	{name: "InUse", run: testEvictInUse},
	{name: "Statement", run: testEvictStatement},
}

// evictor opens a pool of n connections with the table, if it can evict them.
func (s suite) evictor(t *testing.T, n int32) (p, direct providers.Pool, evict func()) {
	t.Helper()
	cfg := s.config(t, n)
	direct = s.openWith(t, cfg)
	mustExec(t, direct, table)
	p = s.openWith(t, cfg)
	evictor, ok := p.(providers.Evictor)
	if !ok {
		t.Skip("its type says that it cannot")
	}
	return p, direct, evictor.Evict
}

func testEvictIdle(t *testing.T, s suite) {
	p, _, evict := s.evictor(t, 1)
	const whose = "select pg_backend_pid()"
	before := value[int](t, p, whose)
	evict()
	if value[int](t, p, whose) == before {
		t.Error("it is still there")
	}
	evict()
	evict()
	mustExec(t, p, "select 1")
}

func testEvictInUse(t *testing.T, s suite) {
	p, direct, evict := s.evictor(t, 3)
	c := acquire(t, p)
	mustExec(t, c, "select 1")
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, insert, 1)
	rolled := begin(t, p, providers.TxOptions{})
	mustExec(t, rolled, insert, 2)
	evict()
	wantHonest(t, "an acquired connection", execError(t, c, insert, 3), false)
	if execError(t, tx, insert, 4) == nil {
		t.Error("a statement ran outside the transaction that was lost")
	}
	if err := tx.Commit(t.Context()); txError(t, err).Result != providers.OutcomeRolledBack {
		t.Errorf("COMMIT was not sent: %v", err)
	}
	if err := rolled.Rollback(t.Context()); err != nil && txError(t, err).Result != providers.OutcomeRolledBack {
		t.Error(err)
	}
	c.Release()
	settled(t, direct)
	if n := traces(t, p); n != 0 { // by a new connection
		t.Errorf("%d rows", n)
	}
}

// A statement under way fails at once, and is not told as what it is not.
func testEvictStatement(t *testing.T, s suite) {
	p, direct, evict := s.evictor(t, 2)
	failed := make(chan error, 1)
	go func() { failed <- execError(t, p, "insert into t select 1 from pg_sleep(600)") }()
	eventually(t, "it runs", func() bool {
		return value[int](t, direct, "select count(*) from pg_stat_activity where datname = current_database() and query like 'insert into t select%' and state = 'active'") > 0
	})
	evict()
	if err := <-failed; providers.OutcomeOf(err) != providers.OutcomeUnknown {
		t.Errorf("it was sent, and the outcome is told as %q: %v", providers.OutcomeOf(err), err)
	}
	mustExec(t, direct, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query like 'insert into t select%' and pid <> pg_backend_pid()")
	mustExec(t, p, insert, 2)
}
