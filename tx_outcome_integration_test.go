package pgkeel_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/outcome"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/tenancy"
)

var once = pgkeel.TxOptions{ExactlyOnce: true}

// insertOnce adds a row exactly once, and counts how often it tried.
func insertOnce(ctx context.Context, db *pgkeel.DB, opts pgkeel.TxOptions) (ran int, err error) {
	opts.ExactlyOnce = true
	err = db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
		ran++
		return insert(ctx, tx, 1)
	}, opts)
	return ran, err
}

func TestExactlyOnceWithoutTrouble(t *testing.T) {
	db := openTable(t)
	for n := range 3 {
		if ran, err := insertOnce(t.Context(), db, pgkeel.TxOptions{}); ran != 1 || err != nil {
			t.Fatalf("ran %d times: %v", ran, err)
		}
		if got, _ := db.QueryCount(t.Context(), "select count(*) from pgkeel_markers where not fenced"); got != int64(n+1) {
			t.Errorf("%d markers", got)
		}
	}
	mustHave(t, db, 1, 1, 1)
}

// What is not committed leaves neither its work nor a marker.
func TestExactlyOnceUndone(t *testing.T) {
	db := openTable(t, one())
	mustExec(t, db, outcome.DDL)
	for name, tc := range map[string]struct {
		fn       func(ctx context.Context, tx pgkeel.Tx) error
		attempts int
	}{
		"an error":   {func(ctx context.Context, tx pgkeel.Tx) error { return errors.Join(insert(ctx, tx, 1), errMine) }, 1},
		"a conflict": {conflicting("40001"), 5},
		"the user's own duplicate": {func(ctx context.Context, tx pgkeel.Tx) error {
			_, err := tx.Exec(ctx, "create table d (pgkeel_markers_pkey int unique); insert into d values (1), (1)")
			return err
		}, 1},
		"a savepoint that fails": {func(ctx context.Context, tx pgkeel.Tx) error {
			return tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error { return errors.Join(insert(ctx, tx, 1), errMine) })
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			err := db.RunTx(t.Context(), tc.fn, once)
			mustBe(t, err, pgkeel.OutcomeRolledBack)
			if tx := as[*pgkeel.TxError](t, err); tx.Attempts != tc.attempts || tx.Operation != "closure" {
				t.Errorf("%+v", tx)
			}
		})
	}
	for name, leave := range map[string]func(){"panic": func() { panic("mine") }, "goexit": runtime.Goexit} {
		var all sync.WaitGroup
		all.Go(func() {
			defer func() { _ = recover() }()
			_ = db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
				if err := insert(ctx, tx, 1); err != nil {
					t.Error(err)
				}
				leave()
				return nil
			}, once)
			t.Errorf("%s: it went on", name)
		})
		all.Wait()
	}
	mustHave(t, db)
	if n, err := db.QueryCount(t.Context(), "select count(*) from pgkeel_markers"); n != 0 || err != nil {
		t.Errorf("%d markers: %v", n, err)
	}
}

func TestExactlyOnceIsForRunTx(t *testing.T) {
	db := openDB(t, one())
	conn := acquire(t, db)
	defer conn.Release()
	_, onDB := db.Begin(t.Context(), once)
	_, onConn := conn.Begin(t.Context(), once)
	reading := db.RunTx(t.Context(), nil, pgkeel.TxOptions{ExactlyOnce: true, Access: pgkeel.ReadOnly})
	for want, err := range map[string]error{"use RunTx, or leave it out": errors.Join(onDB, onConn), "commits nothing": reading} {
		mustSay(t, err, nil, want)
		mustBe(t, err, pgkeel.OutcomeNotSent)
		if as[*pgkeel.ConfigError](t, err).Field != "TxOptions.ExactlyOnce" {
			t.Error(err)
		}
	}
}

// The fault hits each message of the transaction in turn. Whatever is told is
// true, and it is told.
func TestTrap21ExactlyOnceWithAFaultAtEachMessage(t *testing.T) {
	for name, action := range map[string]fault.Action{"cut": fault.Cut, "reset": fault.Reset, "its reply lost": fault.CutReply} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fault.EachMessage(t, newTableDB, action, func(t *testing.T, p *fault.Proxy) {
				db := openDSN(t, p.DSN(), pgkeel.WithLogger(new(journal).logger()))
				defer p.Close() // or who waits for a reply does so for long
				ran, err := insertOnce(t.Context(), db, pgkeel.TxOptions{RetryBudget: patience, MaxAttempts: 100})
				if err != nil {
					t.Errorf("ran %d times: %v", ran, err)
				}
				mustHave(t, openDSN(t, p.Upstream(), one()), 1)
			})
		})
	}
}

var tables = pgtest.NewTemplate(func(ctx context.Context, dsn string) error {
	db, err := pgkeel.Open(ctx, dsn)
	if err != nil {
		return err
	}
	_, err = db.Exec(ctx, "create table t (n int); "+outcome.DDL)
	return errors.Join(err, db.Close(ctx))
})

// newTableDB makes a database with the table t, and that of markers.
func newTableDB(t testing.TB) string { return tables.NewDB(t) }

// The answer to COMMIT is lost.
func TestTrap21ExactlyOnceAtCommit(t *testing.T) {
	for name, tc := range map[string]struct {
		action fault.Action
		ran    int
	}{
		"cut before": {fault.Cut, 2},
		"reset":      {fault.Reset, 2},
		"reply lost": {fault.CutReply, 1},
		"cut after":  {fault.CutAfter, 1},
		"no reply":   {fault.SwallowReply, 1},
		"dropped":    {fault.Drop, 2},      // its server waits for COMMIT
		"no line":    {fault.BlackHole, 2}, // and nobody tells it that the client is gone
	} {
		t.Run(name, func(t *testing.T) {
			rule := fault.On(fault.Commit(), tc.action)
			p := fault.New(t, newTableDB(t), rule)
			db := openDSN(t, p.DSN())
			// The limit is for the silent ones; a slow machine may need it again.
			ran, err := insertOnce(t.Context(), db, pgkeel.TxOptions{Timeout: time.Second, RetryBudget: patience, MaxAttempts: 100})
			if err != nil || ran < tc.ran || tc.ran == 1 && ran > 1 {
				t.Errorf("ran %d times: %v", ran, err)
			}
			mustHave(t, openDSN(t, p.Upstream(), one()), 1)
		})
	}
}

// The caller is told what became of it also when it has given up.
func TestExactlyOnceOutlastsTheContext(t *testing.T) {
	for name, tc := range map[string]struct {
		action fault.Action
		want   pgkeel.Outcome
	}{"committed": {fault.SwallowReply, pgkeel.OutcomeCommitted}, "fenced": {fault.Drop, pgkeel.OutcomeRolledBack}} {
		t.Run(name, func(t *testing.T) {
			rule := fault.On(fault.Commit(), tc.action)
			p := fault.New(t, newTableDB(t), rule)
			db := openDSN(t, p.DSN())
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-rule.Fired()
				cancel()
			}()
			ran, err := insertOnce(ctx, db, pgkeel.TxOptions{})
			mustBe(t, err, tc.want)
			if ran != 1 || err != nil && (!errors.Is(err, outcome.ErrFenced) || !errors.Is(err, context.Canceled)) {
				t.Errorf("ran %d times: %v", ran, err)
			}
			if tc.want == pgkeel.OutcomeCommitted {
				mustHave(t, openDSN(t, p.Upstream(), one()), 1)
			} else {
				mustHave(t, openDSN(t, p.Upstream(), one()))
			}
		})
	}
}

// An original that is fenced is run again no more often than the options say.
func TestExactlyOnceWithoutAttemptsLeft(t *testing.T) {
	p := fault.New(t, newTableDB(t), fault.On(fault.Commit(), fault.Cut))
	db := openDSN(t, p.DSN())
	ran, err := insertOnce(t.Context(), db, pgkeel.TxOptions{MaxAttempts: 1})
	mustBe(t, err, pgkeel.OutcomeRolledBack)
	mustSay(t, err, outcome.ErrFenced, "transaction rolled back (commit failed)", "can never commit")
	if ran != 1 {
		t.Errorf("ran %d times", ran)
	}
	mustHave(t, db)
}

// Only where nobody can be asked nothing is told, and nothing run again.
func TestExactlyOnceWithNobodyToAsk(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	rule := fault.On(fault.Commit(), fault.CutReply)
	p := fault.New(t, c.NewDB(t), rule)
	db := openDSN(t, p.DSN())
	mustExec(t, db, "create table t (n int); "+outcome.DDL)
	go func() {
		<-rule.Fired()
		p.BlackHole(fault.Both)
	}()
	p.Add(fault.On(fault.SQL("on conflict").Every(), fault.Cut)) // the verdict must not overtake the hole
	ran, err := insertOnce(t.Context(), db, pgkeel.TxOptions{RetryBudget: time.Millisecond})
	mustBe(t, err, pgkeel.OutcomeUnknown)
	mustSay(t, err, nil, "transaction unknown (commit failed)", "nobody could be asked")
	if ran != 1 {
		t.Errorf("ran %d times", ran)
	}
	p.Heal()
	mustHave(t, openDSN(t, p.Upstream(), one()), 1)
}

// What fn ended by itself is no marker's to tell: it is unknown, as ever.
func TestExactlyOnceEndedByItsOwnHand(t *testing.T) {
	db := openTable(t, one())
	for _, end := range []string{"commit", "rollback"} {
		ran := 0
		err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
			ran++
			_, err := tx.Exec(ctx, end)
			return err
		}, once)
		mustBe(t, err, pgkeel.OutcomeUnknown)
		if ran != 1 || !errors.Is(err, providers.ErrTxEnded) {
			t.Errorf("%s: ran %d times: %v", end, ran, err)
		}
	}
}

// Many callers, whose commits are lost again and again.
func TestExactlyOnceByManyAtOnce(t *testing.T) {
	const callers, each = 8, 6
	var n atomic.Int64
	lossy := fault.Commit().Every().Where(func(fault.Message) bool { return n.Add(1)%3 == 0 })
	deaf := fault.Commit().Every().Where(func(fault.Message) bool { return n.Add(1)%5 == 0 })
	p := fault.New(t, newTableDB(t), fault.On(lossy, fault.Cut), fault.On(deaf, fault.CutReply))
	db := openDSN(t, p.DSN(), pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 4}))
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for i := range each {
				err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
					return insert(ctx, tx, caller*each+i)
				}, pgkeel.TxOptions{ExactlyOnce: true, MaxAttempts: 1000, RetryBudget: patience})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	want := make([]int, callers*each)
	for i := range want {
		want[i] = i
	}
	mustHave(t, openDSN(t, p.Upstream(), one()), want...)
}

// The marker is where the resolver looks, whoever the tenant is.
func TestExactlyOnceForTenants(t *testing.T) {
	for name, tc := range map[string]struct {
		mode  tenancy.Mode
		setup string
	}{
		"a schema each": {tenancy.Schema(), "create schema tenant_acme; create table tenant_acme.t (n int)"},
		"row-level security": {
			tenancy.RLS("app.tenant_id", tenancy.Role("outcome_tenant")),
			`do $$ begin create role outcome_tenant; exception when duplicate_object or unique_violation then null; end $$;
			create table t (n int, tenant_id text default nullif(current_setting('app.tenant_id', true), ''));
			alter table t enable row level security, force row level security;
			create policy p on t using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')));
			grant all on t to outcome_tenant; ` + outcome.DDL + `;
			grant select, insert, update, delete on pgkeel_markers to outcome_tenant`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := pgtest.NewDB(t)
			direct := openDSN(t, dsn, one())
			mustExec(t, direct, tc.setup)
			p := fault.New(t, dsn, fault.On(fault.Commit(), fault.CutReply), fault.On(fault.Commit().Nth(3), fault.Cut))
			db := openDSN(t, p.DSN(), pgkeel.WithTenancy(tc.mode))
			ctx := pgkeel.WithTenantID(t.Context(), "acme")
			for range 2 {
				if _, err := insertOnce(ctx, db, pgkeel.TxOptions{RetryBudget: patience}); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := direct.QueryCount(t.Context(), "select count(*) from public.pgkeel_markers where not fenced"); n != 2 || err != nil {
				t.Errorf("%d markers: %v", n, err)
			}
			if got, err := pgkeel.All[int](ctx, db, "select n from t"); len(got) != 2 || err != nil {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

// oldMarkerSQL makes a marker that is to be swept.
const oldMarkerSQL = `insert into pgkeel_markers (key, created_at) values ('01000000-0000-7000-8000-000000000000', now() - interval '2 days')`

// A sweep in the background ends with the handle.
func TestExactlyOnceSweepsAndCloses(t *testing.T) {
	dsn := newTableDB(t)
	direct := openDSN(t, dsn)
	mustExec(t, direct, oldMarkerSQL)
	db := openDSN(t, dsn)
	if _, err := insertOnce(t.Context(), db, pgkeel.TxOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old marker is swept", func() bool {
		n, err := direct.QueryCount(t.Context(), "select count(*) from pgkeel_markers")
		return n == 1 && err == nil
	})
	held := begin(t, direct)
	mustExec(t, held, "lock table pgkeel_markers in share row exclusive mode")
	other := openDSN(t, dsn, pgkeel.WithAcquireTimeout(patience))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		eventually(t, "it waits", func() bool {
			n, err := direct.QueryCount(t.Context(), "select count(*) from pg_locks where not granted")
			return n > 0 && err == nil
		})
		cancel()
	}()
	_, err := insertOnce(ctx, other, pgkeel.TxOptions{})
	if tx := as[*pgkeel.TxError](t, err); tx.Operation != "begin" || tx.Result != pgkeel.OutcomeRolledBack {
		t.Errorf("%+v", tx)
	}
	closeDB(t, other)
	if err := held.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}
