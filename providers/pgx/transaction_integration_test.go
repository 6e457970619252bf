package pgx

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

func rowsIn(t testing.TB, p *Pool) int { return value[int](t, p, "select count(*) from t") }

func TestTxAfterItsEnd(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{})
	sp := savepoint(t, tx, "")
	mustCommit(t, tx)
	for _, tx := range []*Tx{tx, sp} {
		ctx := t.Context()
		var n int
		_, query := tx.Query(ctx, "select 1")
		_, exec := tx.Exec(ctx, "select 1")
		_, prepare := tx.Prepare(ctx, "x", "select 1")
		_, copied := tx.CopyFrom(ctx, pgx.Identifier{"t"}, nil, nil)
		_, nested := tx.Begin(ctx)
		for i, err := range []error{
			query, exec, prepare, copied, nested, tx.QueryRow(ctx, "select 1").Scan(&n),
			tx.Run(ctx, scoped(providers.CallExec, "select 1", nil, "app.x", "1")), tx.Run(ctx, scoped(providers.CallExec, "select 1", nil)),
			tx.SendBatch(ctx, &pgx.Batch{}).Close(), tx.Commit(ctx), tx.Rollback(ctx),
		} {
			if !errors.Is(err, pgx.ErrTxClosed) {
				t.Errorf("%d: %v", i, err)
			}
		}
		if tx.Conn() != nil {
			t.Error("a connection that belongs to somebody else by now")
		}
		lo := tx.LargeObjects()
		if _, err := lo.Create(ctx, 0); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("large objects: %v", err)
		}
	}
}

func TestTxOptions(t *testing.T) {
	p := balanced(t, providers.Config{})
	for _, tc := range []struct {
		opts                            providers.TxOptions
		isolation, readOnly, deferrable string
	}{
		{providers.TxOptions{}, "read committed", "off", "off"},
		{providers.TxOptions{Isolation: providers.RepeatableRead}, "repeatable read", "off", "off"},
		{providers.TxOptions{Isolation: providers.Serializable, Access: providers.ReadWrite}, "serializable", "off", "off"},
		{providers.TxOptions{Isolation: providers.Serializable, Access: providers.ReadOnly, Deferrable: true}, "serializable", "on", "on"},
	} {
		tx := begin(t, p, tc.opts)
		got := value[string](t, tx, `select current_setting('transaction_isolation') || ',' ||
			current_setting('transaction_read_only') || ',' || current_setting('transaction_deferrable')`)
		if want := tc.isolation + "," + tc.readOnly + "," + tc.deferrable; got != want {
			t.Errorf("%+v: %s", tc.opts, got)
		}
		mustRollback(t, tx)
	}
	var bad *providers.ConfigError
	if _, err := p.Begin(t.Context(), providers.TxOptions{Deferrable: true}); !errors.As(err, &bad) {
		t.Errorf("%v", err)
	}
	c := acquireN(t, p, 1)[0]
	defer c.Release()
	if _, err := c.Begin(t.Context(), providers.TxOptions{Timeout: -1}); !errors.As(err, &bad) {
		t.Errorf("%v", err)
	}
}

func TestBeginFails(t *testing.T) {
	w, dsn := newWire(t, pgtest.NewDB(t))
	hooks, seen := watched(t)
	p := balanced(t, providers.Config{DSN: dsn, Hooks: hooks})
	mustExec(t, p, "select 1")
	w.on("begin", cutBefore)
	_, err := p.Begin(t.Context(), providers.TxOptions{})
	if r := txResult(t, err); r.Result != providers.OutcomeNotSent || r.Operation != "begin" {
		t.Errorf("%+v", r)
	}
	if got := seen.of(providers.EventBegin); len(got) != 1 || got[0].Err == nil {
		t.Errorf("%+v", got)
	}
	w.on("", forward)
	if _, err := p.Begin(ended(), providers.TxOptions{}); providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("%v", err)
	}
	mustRollback(t, begin(t, p, providers.TxOptions{}))
}

func TestBeginInsideATransactionOfTheConnection(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, accounts)
	c := acquireN(t, p, 1)[0]
	defer c.Release()
	outer, err := c.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, outer, "insert into t values (1)")
	if _, err := c.Begin(t.Context(), providers.TxOptions{}); !errors.Is(err, errInTx) || txResult(t, err).Result != providers.OutcomeNotSent {
		t.Errorf("its end would be the outer's: %v", err)
	}
	b := &pgx.Batch{}
	b.BeginTx(pgx.TxOptions{})
	for _, on := range []providers.Batcher{c.(*Conn), outer.(*Tx)} {
		results := on.SendBatch(t.Context(), b)
		if tx := results.Tx(); tx == nil || !errors.Is(tx.Rollback(t.Context()), pgx.ErrTxClosed) {
			t.Error("pgx promises a transaction that is closed")
		}
		if err := results.Close(); err == nil {
			t.Error("a batch began a transaction inside another")
		}
	}
	mustRollback(t, outer)
	if n := value[int](t, c, "select count(*) from t"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestTrap23BeginOnAStandby(t *testing.T) {
	cluster := pgtest.New(t, pgtest.Options{Standbys: 1})
	p := balanced(t, providers.Config{DSN: cluster.Standbys()[0].DSN("")})
	for _, opts := range []providers.TxOptions{{}, {Access: providers.ReadOnly}, {Isolation: providers.RepeatableRead}} {
		tx := begin(t, p, opts)
		if n := value[int](t, tx, "select 1"); n != 1 {
			t.Error(n)
		}
		mustCommit(t, tx)
	}
	_, err := p.Begin(t.Context(), providers.TxOptions{Access: providers.ReadWrite})
	var pg *providers.PGError
	if r := txResult(t, err); r.Operation != "begin" || r.Result != providers.OutcomeNotSent || !errors.As(err, &pg) || !strings.Contains(pg.Message, "read-write") {
		t.Errorf("%v", err)
	}
	_, err = p.Exec(t.Context(), "create table t ()")
	if !errors.As(err, &pg) || !pg.IsReadOnly() {
		t.Errorf("%v", err)
	}
}

func TestTrap24ConcurrentUse(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, accounts)
	tx := begin(t, p, providers.TxOptions{})
	const goroutines, each = 8, 50
	var done, refused int
	var mu sync.Mutex
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for range each {
				_, err := tx.Exec(t.Context(), "insert into t values ($1)", 1)
				mu.Lock()
				switch {
				case err == nil:
					done++
				case errors.Is(err, providers.ErrConcurrentUse):
					refused++
				default:
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if done+refused != goroutines*each || done == 0 {
		t.Errorf("%d done, %d refused", done, refused)
	}
	mustCommit(t, tx)
	if n := rowsIn(t, p); n != done {
		t.Errorf("%d rows of %d inserts", n, done)
	}
}

func TestTrap24EveryUseIsRefusedWhileRowsAreOpen(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{})
	sp := savepoint(t, tx, "")
	rows, err := tx.Query(t.Context(), "select 1")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	var n int
	_, exec := sp.Exec(ctx, "select 1")
	_, query := tx.Query(ctx, "select 1")
	_, prepare := tx.Prepare(ctx, "x", "select 1")
	_, copied := tx.CopyFrom(ctx, pgx.Identifier{"t"}, nil, nil)
	_, nested := tx.Savepoint(ctx, "")
	for i, err := range []error{
		exec, query, prepare, copied, nested, tx.QueryRow(ctx, "select 1").Scan(&n), tx.SendBatch(ctx, &pgx.Batch{}).Close(),
		tx.Run(ctx, scoped(providers.CallExec, "select 1", nil, "app.x", "1")), tx.Commit(ctx), sp.Commit(ctx),
	} {
		if !errors.Is(err, providers.ErrConcurrentUse) {
			t.Errorf("%d: %v", i, err)
		}
	}
	rows.Close()
	mustCommit(t, sp)
	mustCommit(t, tx)
}

func TestRollbackWhileAnotherGoroutineRunsAStatement(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, accounts)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	var other sync.WaitGroup
	var err error
	other.Go(func() { _, err = tx.Exec(t.Context(), "select pg_sleep(60)") })
	eventually(t, "the statement runs", func() bool { return tx.use.busy.Load() })
	if err := tx.Rollback(t.Context()); err != nil {
		t.Errorf("%v", err)
	}
	other.Wait()
	if err == nil {
		t.Error("the statement went on")
	}
	if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("%v", err)
	}
	if _, err := tx.Exec(t.Context(), "select 1"); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("%v", err)
	}
	eventually(t, "the server rolled back", func() bool { return rowsIn(t, p) == 0 })
}

func TestRollbackWhileACommitIsUnderWay(t *testing.T) {
	p := balanced(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 2}})
	mustExec(t, p, `create table t (n int);
		create function wait() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock_shared(7); return null; end $$;
		create constraint trigger wait after insert on t deferrable initially deferred for each row execute function wait()`)
	gate := begin(t, p, providers.TxOptions{})
	mustExec(t, gate, "select pg_advisory_xact_lock(7)")
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	var committer sync.WaitGroup
	var err error
	committer.Go(func() { err = tx.Commit(t.Context()) })
	eventually(t, "the commit waits", func() bool {
		return value[int](t, gate, "select count(*) from pg_locks where not granted and pid = $1", tx.lease.s.pid) == 1
	})
	if err := tx.Rollback(t.Context()); !errors.Is(err, providers.ErrConcurrentUse) {
		t.Errorf("nobody can promise that: %v", err)
	}
	mustRollback(t, gate)
	committer.Wait()
	if err != nil || rowsIn(t, p) != 1 {
		t.Errorf("the commit was disturbed: %v", err)
	}
}

func TestRollbackThatFails(t *testing.T) {
	w, dsn := newWire(t, pgtest.NewDB(t))
	p := balanced(t, providers.Config{DSN: dsn})
	mustExec(t, p, accounts)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	w.on("rollback", cutBefore)
	err := tx.Rollback(t.Context())
	if r := txResult(t, err); r.Result != providers.OutcomeRolledBack || r.Operation != "rollback" {
		t.Errorf("%+v", r)
	}
	w.on("", forward)
	eventually(t, "the server rolled back", func() bool { return rowsIn(t, p) == 0 })
}

func TestTxIsAPgxTx(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, accounts)
	var tx pgx.Tx = begin(t, p, providers.TxOptions{})
	ctx := t.Context()
	if _, err := tx.Prepare(ctx, "mine", "insert into t values ($1)"); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "mine", 1); err != nil {
		t.Error(err)
	}
	if _, err := tx.Prepare(ctx, "bad", "selec"); err == nil {
		t.Error("prepared")
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	tx = begin(t, p, providers.TxOptions{})
	n, err := tx.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {2}}))
	if err != nil || n != 2 {
		t.Errorf("%d %v", n, err)
	}
	b := &pgx.Batch{}
	b.Queue("insert into t values (3)")
	b.Queue("insert into t values (4)")
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		t.Error(err)
	}
	err = pgx.BeginFunc(ctx, tx, func(nested pgx.Tx) error {
		_, err := nested.Exec(ctx, "insert into t values (5)")
		return errors.Join(err, errScannedTwice)
	})
	if !errors.Is(err, errScannedTwice) {
		t.Error(err)
	}
	lo := tx.LargeObjects()
	oid, err := lo.Create(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	object, err := lo.Open(ctx, oid, pgx.LargeObjectModeWrite)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := object.Write([]byte("large")); err != nil {
		t.Error(err)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Error(err)
	}
	if n := rowsIn(t, p); n != 4 {
		t.Errorf("%d rows", n)
	}
	if got := value[string](t, p, "select convert_from(lo_get($1), 'UTF8')", oid); got != "large" {
		t.Errorf("%q", got)
	}
}

func TestLargeObjectsAfterACommitWithLimits(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{})
	lo := tx.LargeObjects()
	if err := tx.Run(t.Context(), scoped(providers.CallExec, "select 1", nil, "statement_timeout", "9000")); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, tx)
	if _, err := lo.Create(t.Context(), 0); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("the connection is somebody else's: %v", err)
	}
	if s := p.Stats(); s.Connects != 1 || s.Closed != 0 {
		t.Errorf("%+v", s)
	}
}

func TestTxConnIsNotReused(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{})
	raw := tx.Conn()
	if raw == nil {
		t.Fatal("no connection")
	}
	mustCommit(t, tx)
	mustExec(t, p, "select 1")
	if !raw.IsClosed() || p.Stats().Connects != 2 {
		t.Error("the connection was handed out raw and then reused")
	}
}

func TestTxHooks(t *testing.T) {
	hooks, seen := watched(t)
	p := balanced(t, providers.Config{Hooks: hooks})
	tx := begin(t, p, providers.TxOptions{})
	mustCommit(t, savepoint(t, tx, "a"))
	mustRollback(t, savepoint(t, tx, "b"))
	mustCommit(t, tx)
	mustRollback(t, begin(t, p, providers.TxOptions{}))
	for event, want := range map[providers.HookEvent]int{
		providers.EventBegin: 2, providers.EventCommit: 1, providers.EventRollback: 1, providers.EventSavepoint: 4, providers.EventError: 0,
	} {
		if got := seen.of(event); len(got) != want || want > 0 && got[0].PID == 0 {
			t.Errorf("%s: %+v", event, got)
		}
	}
	var names []string
	for _, info := range seen.of(providers.EventSavepoint) {
		names = append(names, info.Name)
	}
	if got := strings.Join(names, ","); got != "savepoint,release,savepoint,rollback to" {
		t.Error(got)
	}
}
