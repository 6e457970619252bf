package outcome

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

func TestVerdicts(t *testing.T) {
	m, pool := withTable(t)
	committed, undone := m.New(), m.New()
	mustCommit(t, mustBegin(t, committed))
	if err := mustBegin(t, undone).Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a verdict does not change
		mustSettle(t, committed, Committed)
		mustSettle(t, undone, Fenced)
	}
	if n := value[int](t, pool, countSQL+" where fenced and checked_at is not null"); n != 1 {
		t.Errorf("%d fences", n)
	}
	for verdict, name := range map[Verdict]string{Undecided: "undecided", Committed: "committed", Fenced: "fenced"} {
		if verdict.String() != name {
			t.Errorf("%s is called %s", name, verdict)
		}
	}
}

// A database whose sessions only read, or are serializable, by default makes no
// difference.
func TestVerdictsWithOtherDefaults(t *testing.T) {
	for _, setting := range []string{"default_transaction_read_only=on", "default_transaction_isolation=serializable"} {
		t.Run(setting, func(t *testing.T) {
			m := markersOf(t, openPool(t, pgtest.NewDB(t)+"&"+setting), nil)
			k := m.New()
			tx, err := k.Begin(t.Context(), providers.TxOptions{Access: providers.ReadWrite})
			if err != nil {
				t.Fatal(err)
			}
			mustCommit(t, tx)
			mustSettle(t, k, Committed)
			mustSettle(t, m.New(), Fenced)
		})
	}
}

// settling asks in the background.
func settling(t testing.TB, k *Marker) <-chan Verdict {
	t.Helper()
	told := make(chan Verdict, 1)
	go func() {
		verdict, err := k.Settle(context.Background(), time.Now().Add(patience))
		if err != nil {
			t.Error(err)
		}
		told <- verdict
	}()
	return told
}

// An original that is being committed is waited for.
func TestAnOriginalInProgressIsWaitedFor(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(ctx context.Context, tx providers.Tx) error
		want Verdict
	}{
		"commits":    {func(ctx context.Context, tx providers.Tx) error { return tx.Commit(ctx) }, Committed},
		"rolls back": {func(ctx context.Context, tx providers.Tx) error { return tx.Rollback(ctx) }, Fenced},
	} {
		t.Run(name, func(t *testing.T) {
			m, pool := withTable(t)
			k := m.New()
			tx := mustBegin(t, k)
			told := settling(t, k)
			eventually(t, "the resolver waits", func() bool {
				return value[int](t, pool, "select count(*)::int from pg_locks where not granted and locktype = 'transactionid'") > 0
			})
			if err := tc.end(t.Context(), tx); err != nil {
				t.Fatal(err)
			}
			if got := <-told; got != tc.want {
				t.Errorf("%s", got)
			}
		})
	}
}

// One that stays is ended: its server does not know that nobody talks to it.
func TestAnOriginalThatStaysIsTerminated(t *testing.T) {
	m, pool := withTable(t)
	k := m.New()
	tx, other := mustBegin(t, k), mustBegin(t, m.New())
	mustExec(t, tx, "create table work (n int)")
	mustSettle(t, k, Fenced)
	if err := tx.Commit(t.Context()); providers.OutcomeOf(err) == providers.OutcomeCommitted {
		t.Error("the zombie committed")
	}
	mustCommit(t, other) // nobody else was
	if value[bool](t, pool, "select to_regclass('work') is not null") {
		t.Error("its work is there")
	}
}

// Where nobody answers the outcome stays unknown, within the time, and says why.
func TestNobodyToAsk(t *testing.T) {
	m, pool := withTable(t)
	k := m.New()
	mustCommit(t, mustBegin(t, k))
	mustExec(t, pool, "alter table public.pgkeel_markers rename to moved; create view public.pgkeel_markers as select 1 as n")
	verdict, err := k.Settle(t.Context(), time.Now())
	if verdict != Undecided || pgError(t, err).Code == "" {
		t.Errorf("%s, %v", verdict, err)
	}
	if err := pool.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	verdict, err = k.Settle(t.Context(), time.Now().Add(time.Hour))
	if verdict != Undecided || !errors.Is(err, providers.ErrPoolClosed) {
		t.Errorf("%s after %s, %v", verdict, time.Since(began), err)
	}
}

// The rows are not kept for ever, so that their absence means nothing then.
func TestNoVerdictOnAnOldTransaction(t *testing.T) {
	m, pool := withTable(t)
	k := m.New()
	k.began = k.began.Add(-Retention/2 - time.Second)
	if verdict, err := k.Settle(t.Context(), time.Now().Add(time.Hour)); verdict != Undecided || !errors.Is(err, errLate) {
		t.Errorf("%s, %v", verdict, err)
	}
	if n := value[int](t, pool, countSQL); n != 0 {
		t.Errorf("%d fences", n)
	}
}

// A server that takes over without the table cannot have the transaction either.
func TestTheTableIsGone(t *testing.T) {
	m, pool := withTable(t)
	k := m.New()
	mustExec(t, pool, "drop table public.pgkeel_markers")
	mustSettle(t, k, Fenced)
}

// A server in recovery is no one to ask; it is asked again until it takes writes.
func TestTrap21AStandbyIsNotAsked(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Standbys: 1, SynchronousStandbys: 1})
	primary, standby := c.Primary(), c.Standbys()[0]
	before := markersOf(t, openPool(t, primary.DSN("")), nil)
	lost, kept := before.New(), before.New()
	tx := mustBegin(t, lost)
	mustCommit(t, mustBegin(t, kept))
	if err := c.WaitCaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := markersOf(t, openPool(t, standby.DSN("")), nil)
	lost.of, kept.of = after, after // as a handle would that connects to another server
	verdict, err := kept.Settle(t.Context(), time.Now())
	if verdict != Undecided || !strings.Contains(err.Error(), "during recovery") {
		t.Errorf("%s, %v", verdict, err)
	}
	told := settling(t, lost)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustExec(t, after.pool, "alter system set synchronous_standby_names = ''")
	mustExec(t, after.pool, "select pg_reload_conf()")
	if got := <-told; got != Fenced {
		t.Errorf("%s", got)
	}
	mustSettle(t, kept, Committed)
	_ = tx.Rollback(t.Context()) // its server is dead
}

// With a synchronous standby that does not answer, the server keeps the commit of
// the verdict waiting, and reports success when it is told to stop waiting. That is
// no verdict: the standby that takes over may not know of it.
func TestAVerdictThatIsNotReplicatedIsNone(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Standbys: 1, SynchronousStandbys: 1})
	m := markersOf(t, openPool(t, c.Primary().DSN("")), nil)
	k := m.New()
	mustCommit(t, mustBegin(t, k))
	if err := c.Standbys()[0].Pause(); err != nil {
		t.Fatal(err)
	}
	if verdict, err := k.Settle(t.Context(), time.Now()); verdict != Undecided {
		t.Errorf("%s, %v", verdict, err)
	}
	if err := c.Standbys()[0].Resume(); err != nil {
		t.Fatal(err)
	}
	mustSettle(t, k, Committed)
}
