package pgx

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
	"github.com/pgkeel/pgkeel/providers"
)

// notes are what operations told of where their server was.
type notes struct {
	mu  sync.Mutex
	all []providers.Position
	// unknown counts those that could not tell.
	unknown int
}

func (n *notes) note(p providers.Position, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ok {
		n.all = append(n.all, p)
	} else {
		n.unknown++
	}
}

// take returns what was told, and forgets it.
func (n *notes) take() (known []providers.Position, unknown int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	known, unknown = n.all, n.unknown
	n.all, n.unknown = nil, 0
	return known, unknown
}

// one takes the only note, which must tell a position.
func (n *notes) one(t testing.TB) providers.Position {
	t.Helper()
	known, unknown := n.take()
	if len(known) != 1 || unknown != 0 {
		t.Fatalf("told %+v, and %d unknown", known, unknown)
	}
	return known[0]
}

// after returns a context whose operations come behind a place in the log, and
// note theirs.
func (n *notes) after(ctx context.Context, place providers.LSN) context.Context {
	return providers.WithCausality(ctx, &providers.Causality{After: place, Note: n.note})
}

// What is added to a statement needs no round trip: it shares the flush.
func TestCausalityNeedsNoRoundTrip(t *testing.T) {
	dsn := pgtest.NewDB(t)
	w, through := newWire(t, dsn)
	p := openPool(t, providers.Config{DSN: through, Pool: providers.PoolStrategy{MaxSize: 1}})
	mustExec(t, p, "create table t (n int)")
	var n notes
	ctx := n.after(t.Context(), 1)
	for name, c := range map[string]struct {
		run func() error
		// ends is how many messages end what the server answers in one go.
		ends int
	}{
		"query": {func() error { return p.QueryRow(ctx, "select $1::int", 1).Scan(nil) }, 2},
		"exec":  {func() error { _, err := p.Exec(ctx, "insert into t values ($1)", 1); return err }, 2},
		"call":  {func() error { return p.Run(ctx, scoped(providers.CallExec, "select 1", nil, "app.x", "1")) }, 2},
		"read":  {func() error { return p.QueryRow(providers.WithReadOnly(ctx), "select 2").Scan(nil) }, 2},
		"transaction": {func() error {
			tx, err := p.Begin(ctx, providers.TxOptions{Isolation: providers.Serializable, Access: providers.ReadOnly, Deferrable: true})
			if err != nil {
				return err
			}
			return tx.Commit(ctx)
		}, 2},
	} {
		run := func() {
			if err := c.run(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			n.one(t)
		}
		run() // which prepares
		if got := w.count(run); got != c.ends {
			t.Errorf("%s: %d instead of %d", name, got, c.ends)
		}
	}
}

// A session whose transactions have one snapshot each must not take it before the
// gate is checked.
func TestCausalityOfSnapshots(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Standbys: 1})
	primary := openPool(t, providers.Config{DSN: c.Primary().DSN("postgres")})
	mustExec(t, primary, "create table t (n int)")
	mustExec(t, primary, "alter database postgres set default_transaction_isolation = 'repeatable read'")
	if err := c.WaitCaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	standby := openPool(t, providers.Config{DSN: c.Standbys()[0].DSN("postgres"), Pool: providers.PoolStrategy{MaxSize: 1}})
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	defer func() { cancel(); load.Wait() }()
	load.Go(func() {
		for ctx.Err() == nil {
			_, _ = primary.Exec(ctx, "select pg_logical_emit_message(true, 'load', repeat('x', 1000))")
		}
	})
	for i := range 200 {
		var n notes
		if _, err := primary.Exec(n.after(ctx, 0), "insert into t values ($1)", i); err != nil {
			t.Fatal(err)
		}
		after := n.after(ctx, n.one(t).LSN)
		eventually(t, "the row is there", func() bool {
			var seen bool
			err := standby.QueryRow(after, "select exists (select from t where n = $1)", i).Scan(&seen)
			if err == nil && !seen {
				t.Fatal("a snapshot from before the gate")
			}
			if err != nil && !errors.Is(err, providers.ErrBehind) {
				t.Fatal(err)
			}
			return err == nil
		})
	}
}

// What does not fit into one flush tells its position nevertheless.
func TestCausalityOfWhatNeedsRoundTrips(t *testing.T) {
	for name, options := range map[string]string{
		"prepared": "", "exec": "default_query_exec_mode=exec", "simple": "default_query_exec_mode=simple_protocol",
		"described": "default_query_exec_mode=describe_exec",
	} {
		t.Run(name, func(t *testing.T) {
			p := openPool(t, providers.Config{DSN: pgtest.NewDB(t) + "&" + options, Pool: providers.PoolStrategy{MaxSize: 1}})
			mustExec(t, p, "create table t (n int)")
			var n notes
			ctx := n.after(t.Context(), 1)
			for _, sql := range []string{
				"insert into t values (1)", "insert into t values (2); insert into t values (3)", "vacuum t",
				"do $$ begin insert into t values (4); commit; end $$", "create table u ()", "", "-- nothing",
				"begin; insert into t values (5); commit", "deallocate all", "insert into t values (6)", "set application_name = 'x'",
			} {
				if _, err := p.Exec(ctx, sql); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
				n.one(t)
			}
			if _, err := p.Exec(ctx, "do $$ begin insert into t values (7); commit; perform 1 / 0; end $$"); err == nil {
				t.Fatal("no error")
			}
			n.one(t) // there is something that it committed
			if got := value[int](t, p, "select count(*) from t"); got != 7 {
				t.Errorf("%d rows", got)
			}
		})
	}
}

// A transaction that statements begin and end tells its position with the last.
func TestCausalityOfATransactionInSQL(t *testing.T) {
	p := openPool(t, providers.Config{DSN: pgtest.NewDB(t)})
	mustExec(t, p, "create table t (n int)")
	c := acquireN(t, p, 1)[0]
	defer c.Release()
	var n notes
	ctx := n.after(t.Context(), 1)
	for _, sql := range []string{"begin", "insert into t values (1)", "savepoint s", "rollback to s"} {
		if _, err := c.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
		if known, unknown := n.take(); len(known) > 0 || unknown > 0 {
			t.Errorf("%s told %+v, %d", sql, known, unknown)
		}
	}
	if _, err := c.Exec(ctx, "commit"); err != nil {
		t.Fatal(err)
	}
	n.one(t)
}

// A plan that does not fit the schema any more is made anew behind the gate.
func TestCausalityOfAStalePlan(t *testing.T) {
	p := openPool(t, providers.Config{DSN: pgtest.NewDB(t), Pool: providers.PoolStrategy{MaxSize: 1}})
	mustExec(t, p, "create table t (n int)")
	var n notes
	ctx := n.after(t.Context(), 1)
	for i, change := range []string{
		"insert into t values (1)", "alter table t add m text default ''", "alter table t drop m", "deallocate all",
		"do $$ begin execute 'deallocate all'; end $$", // which nobody sees
	} {
		mustExec(t, p, change)
		runs := map[string]func() error{
			"query":  func() error { return p.QueryRow(ctx, "select * from t").Scan(nil) },
			"exec":   func() error { _, err := p.Exec(ctx, "select * from t"); return err },
			"scoped": func() error { return p.Run(ctx, scoped(providers.CallExec, "select * from t", nil, "app.x", "1")) },
		}
		if i == 4 {
			delete(runs, "scoped") // whose settings the driver then looks for in vain as well
		}
		for name, run := range runs {
			if err := run(); err != nil && !strings.Contains(err.Error(), "destination") {
				t.Errorf("%d %s: %v", i, name, err)
			}
			n.one(t)
		}
	}
}

// A tracer of the user's goes on to see statements as they are.
func TestCausalityWithATracer(t *testing.T) {
	tr := &statements{}
	p := openPool(t, providers.Config{DSN: pgtest.NewDB(t), Tracer: tr})
	var n notes
	ctx := n.after(t.Context(), 0)
	if err := p.QueryRow(ctx, "select 1").Scan(nil); err != nil {
		t.Fatal(err)
	}
	n.one(t)
	tx, err := p.Begin(ctx, providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	n.one(t)
	if got := strings.Join(tr.all, "; "); got != "select 1; begin; commit" {
		t.Errorf("it saw %s", got)
	}
}

type statements struct{ all []string }

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.all = append(s.all, data.SQL)
	return ctx
}

func (*statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Wherever the connection is lost, a write that is there was told of, and a commit
// that was answered is one.
func TestCausalityWithALossAtEachMessage(t *testing.T) {
	writes := map[string]func(ctx context.Context, p *Pool) error{
		"statement": func(ctx context.Context, p *Pool) error {
			_, err := p.Exec(ctx, "insert into t values ($1)", 1)
			return err
		},
		"rows": func(ctx context.Context, p *Pool) error {
			return p.QueryRow(ctx, "insert into t values ($1) returning n", 1).Scan(nil)
		},
		"transaction": insertInTx,
		// What counts inside of a transaction is its own access mode.
		"transaction of who declares to read": func(ctx context.Context, p *Pool) error {
			return insertInTx(providers.WithReadOnly(ctx), p)
		},
	}
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			fault.EachMessage(t, newTable, fault.Cut, func(t *testing.T, proxy *fault.Proxy) {
				p := openPool(t, providers.Config{DSN: proxy.DSN(), Pool: providers.PoolStrategy{MaxSize: 1}})
				direct := openPool(t, providers.Config{DSN: proxy.Upstream()})
				var n notes
				err := write(n.after(t.Context(), 1), p)
				eventually(t, "the server is done", func() bool {
					return value[int](t, direct, `select count(*) from pg_stat_activity where datname = current_database()
						and pid <> pg_backend_pid() and (state = 'active' or xact_start is not null)`) == 0
				})
				there := value[int](t, direct, "select count(*) from t") == 1
				known, unknown := n.take()
				switch {
				case len(known)+unknown > 1:
					t.Errorf("told %+v, and %d unknown", known, unknown)
				case there && len(known)+unknown == 0:
					t.Errorf("the row is there, and nothing was told: %v", err)
				case err == nil && !there, there && err != nil && providers.OutcomeOf(err) != providers.OutcomeUnknown:
					t.Errorf("the row is there: %v; %v", there, err)
				}
			})
		})
	}
}

func insertInTx(ctx context.Context, p *Pool) error {
	tx, err := p.Begin(ctx, providers.TxOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, "insert into t values (1)"); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func newTable(t testing.TB) string {
	dsn := pgtest.NewDB(t)
	p := openPool(t, providers.Config{DSN: dsn})
	mustExec(t, p, "create table t (n int)")
	return dsn
}
