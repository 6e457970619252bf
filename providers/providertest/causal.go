package providertest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

var causalTests = []test{
	{name: "Notes", run: testNotes},
	{name: "NotesOfAll", run: testNotesOfAll},
	{name: "NotesNothing", run: testNotesNothing},
	{name: "Commit", run: testNotesCommit},
	{name: "LossOfStatement", run: testNotesLoss},
	{name: "LossOfCommit", run: testNotesLossOfCommit},
	{name: "Gate", run: testGateOfStandby, standby: true},
	{name: "GateUnderLoad", run: testGateUnderLoad, standby: true},
	{name: "SeenIsCovered", run: testSeenIsCovered, standby: true},
}

// notes are what operations told of where their server was.
type notes struct {
	mu  sync.Mutex
	all []note
}

type note struct {
	providers.Position
	ok bool
}

func (n *notes) note(p providers.Position, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, note{p, ok})
}

// take returns what was noted, and forgets it.
func (n *notes) take() []note {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer func() { n.all = nil }()
	return n.all
}

// after returns a context whose operations come behind a place in the log, and
// note theirs.
func (n *notes) after(ctx context.Context, place providers.LSN) context.Context {
	return providers.WithCausality(ctx, &providers.Causality{After: place, Note: n.note})
}

// one takes the only note, which must tell a position.
func (n *notes) one(t testing.TB) providers.Position {
	t.Helper()
	all := n.take()
	if len(all) != 1 || !all[0].ok {
		t.Fatalf("one note of a position was to come, and this did: %+v", all)
	}
	return all[0].Position
}

// none fails if anything was noted.
func (n *notes) none(t testing.TB, what string) {
	t.Helper()
	if all := n.take(); len(all) > 0 {
		t.Errorf("%s noted %+v", what, all)
	}
}

// insertAt is where a primary writes next.
func insertAt(t testing.TB, q providers.Querier) providers.LSN {
	t.Helper()
	place, err := providers.ParseLSN(value[string](t, q, "select pg_current_wal_insert_lsn()::text"))
	if err != nil {
		t.Fatal(err)
	}
	return place
}

// way is one to run a statement that returns one value.
type way struct {
	name string
	run  func(ctx context.Context, p providers.Pool, sql string, args ...any) error
}

var ways = []way{
	{"query", func(ctx context.Context, p providers.Pool, sql string, args ...any) error {
		return queryError(ctx, p, sql, args...)
	}},
	{"row", func(ctx context.Context, p providers.Pool, sql string, args ...any) error {
		return p.QueryRow(ctx, sql, args...).Scan(nil)
	}},
	{"exec", func(ctx context.Context, p providers.Pool, sql string, args ...any) error {
		_, err := p.Exec(ctx, sql, args...)
		return err
	}},
	{"call", func(ctx context.Context, p providers.Pool, sql string, args ...any) error {
		call := scoped(providers.CallQuery, sql, args)
		if err := p.Run(ctx, call); err != nil {
			return err
		}
		return providers.FirstRow(call.Rows).Scan(nil)
	}},
	{"scoped call", func(ctx context.Context, p providers.Pool, sql string, args ...any) error {
		call := scoped(providers.CallQuery, sql, args, "app.x", "1")
		if err := p.Run(ctx, call); err != nil {
			return err
		}
		return providers.FirstRow(call.Rows).Scan(nil)
	}},
	{"scoped exec", func(ctx context.Context, p providers.Pool, sql string, args ...any) error {
		return p.Run(ctx, scoped(providers.CallExec, sql, args, "app.x", "1"))
	}},
	{"search path", func(ctx context.Context, p providers.Pool, sql string, args ...any) error {
		return p.Run(ctx, scoped(providers.CallExec, sql, args, "search_path", "public"))
	}},
	{"connection", func(ctx context.Context, p providers.Pool, sql string, args ...any) error {
		c, err := p.Acquire(ctx)
		if err != nil {
			return err
		}
		defer c.Release()
		return c.QueryRow(ctx, sql, args...).Scan(nil)
	}},
	{"transaction", func(ctx context.Context, p providers.Pool, sql string, args ...any) error {
		return inTransaction(ctx, p, providers.TxOptions{}, sql, args...)
	}},
	{"snapshot", func(ctx context.Context, p providers.Pool, sql string, args ...any) error {
		return inTransaction(ctx, p, providers.TxOptions{Isolation: providers.RepeatableRead}, sql, args...)
	}},
	{"transaction of a connection", func(ctx context.Context, p providers.Pool, sql string, args ...any) error {
		c, err := p.Acquire(ctx)
		if err != nil {
			return err
		}
		defer c.Release()
		return inTransaction(ctx, c, providers.TxOptions{}, sql, args...)
	}},
}

func inTransaction(ctx context.Context, on beginner, opts providers.TxOptions, sql string, args ...any) error {
	tx, err := on.Begin(ctx, opts)
	if err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, sql, args...).Scan(nil); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	return tx.Commit(ctx)
}

// waysOf are those of a pool, whose capabilities are among them.
func waysOf(p providers.Pool) []way {
	all := ways
	if _, ok := p.(providers.Batcher); ok {
		all = append(all[:len(all):len(all)], way{"batch", func(ctx context.Context, p providers.Pool, sql string, args ...any) error {
			b := &pgx.Batch{}
			b.Queue(sql, args...)
			r := p.(providers.Batcher).SendBatch(ctx, b)
			err := r.QueryRow().Scan(nil)
			return errors.Join(err, r.Close())
		}})
	}
	return all
}

// Each way to write tells where, once, and so does each way to read.
func testNotes(t *testing.T, s suite) {
	p := s.open(t, 2)
	mustExec(t, p, table)
	for _, w := range waysOf(p) {
		t.Run(w.name, func(t *testing.T) {
			for range 2 {
				notesWrite(t, p, w)
			}
			var n notes
			if err := w.run(n.after(t.Context(), 1<<60), p, "select 1"); err != nil { // which a primary always meets
				t.Fatal(err)
			}
			n.one(t)
		})
	}
}

func notesWrite(t *testing.T, p providers.Pool, w way) {
	t.Helper()
	var n notes
	before := insertAt(t, p)
	if err := w.run(n.after(t.Context(), 0), p, "insert into t values ($1) returning n", 1); err != nil {
		t.Fatal(err)
	}
	got, after := n.one(t), insertAt(t, p)
	if got.Standby || got.Timeline == 0 || got.Replayed != 0 || got.LSN <= before || got.LSN > after {
		t.Errorf("%+v is not between %v and %v", got, before, after)
	}
}

// So does everything else that there is, unless it is a part of a transaction.
func testNotesOfAll(t *testing.T, s suite) {
	var n notes
	s.onEach(t, scopeTable, func(t *testing.T, q querier) {
		for name, run := range operations(q) {
			if err := run(n.after(t.Context(), 0)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, inTx := q.(providers.Tx); inTx {
				n.none(t, name+" in a transaction")
			} else {
				n.one(t)
			}
		}
	})
}

// What is refused, and what is done in a transaction before its end, tells nothing.
func testNotesNothing(t *testing.T, s suite) {
	p := s.open(t, 2)
	mustExec(t, p, table)
	var n notes
	ctx := n.after(t.Context(), 0)
	dead, cancel := context.WithCancel(ctx)
	cancel()
	for _, o := range waysOf(p) {
		if err := o.run(dead, p, "insert into t values (1) returning n"); err == nil {
			t.Errorf("%s: no error", o.name)
		}
		n.none(t, o.name+" of a dead context")
		if err := o.run(ctx, p, "select 1 / 0"); err == nil {
			t.Errorf("%s: no error", o.name)
		}
		if all := n.take(); len(all) > 1 || len(all) == 1 && !all[0].ok {
			t.Errorf("%s has written nothing, and noted %+v", o.name, all)
		}
	}
	tx, err := p.Begin(ctx, providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(ctx, "insert into t values (1)"); err != nil {
		t.Fatal(err)
	}
	sp := savepoint(t, tx, "")
	if err := sp.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	n.none(t, "a part of a transaction")
}

// The end of a transaction tells, by the context of Commit if it asks for that.
func testNotesCommit(t *testing.T, s suite) {
	p := s.open(t, 2)
	mustExec(t, p, table)
	var first, second notes
	for _, withLimit := range []bool{false, true} {
		tx, err := p.Begin(first.after(t.Context(), 0), providers.TxOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var limit []string
		if withLimit { // which ends in the flush of COMMIT
			limit = []string{"statement_timeout", "20s"}
		}
		if err := runExec(t, tx, "insert into t values (1)", limit...); err != nil {
			t.Fatal(err)
		}
		before := insertAt(t, p)
		if err := tx.Commit(second.after(t.Context(), 0)); err != nil {
			t.Fatal(err)
		}
		first.none(t, "the transaction by the context that it began with")
		if got := second.one(t); got.LSN <= before {
			t.Errorf("%v: the COMMIT was behind %v", got, before)
		}
	}
	tx, err := p.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(first.after(t.Context(), 0)); err != nil {
		t.Fatal(err)
	}
	first.one(t)
	// A COMMIT of a failed transaction is none.
	tx, err = p.Begin(first.after(t.Context(), 0), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_ = execError(t, tx, "select 1 / 0")
	if err := tx.Commit(t.Context()); !errors.Is(err, pgx.ErrTxCommitRollback) {
		t.Errorf("%v", err)
	}
	if all := first.take(); len(all) > 1 || len(all) == 1 && !all[0].ok {
		t.Errorf("nothing was written, and noted %+v", all)
	}
	if n := traces(t, p); n != 2 {
		t.Errorf("%d rows", n)
	}
}

// Of a write whose connection was lost nobody knows how far the server is.
func testNotesLoss(t *testing.T, s suite) {
	for _, o := range ways[:6] {
		for when, v := range map[string]verdict{"before": cutBefore, "after": cutAfter} {
			t.Run(o.name+" "+when, func(t *testing.T) {
				w, p, direct := s.losing(t)
				mustExec(t, p, "select 1") // the connection is there
				var n notes
				w.lose("marker", v)
				err := o.run(n.after(t.Context(), 0), p, "insert into t values ('marker') returning s")
				if err == nil || !w.lost() {
					t.Fatalf("no error: %v", err)
				}
				settled(t, direct)
				switch all := n.take(); {
				case len(all) == 0 && traces(t, direct) == 0 && providers.OutcomeOf(err) != providers.OutcomeUnknown:
				case len(all) != 1 || all[0].ok:
					t.Errorf("noted %+v after %v", all, err)
				}
				w.lose("marker", v)
				err = o.run(providers.WithReadOnly(n.after(t.Context(), 0)), p, "select 'marker'")
				if err == nil || !w.lost() {
					t.Fatalf("no error: %v", err)
				}
				n.none(t, "a read that was lost")
			})
		}
	}
}

func testNotesLossOfCommit(t *testing.T, s suite) {
	for when, v := range map[string]verdict{"before": cutBefore, "after": cutAfter} {
		t.Run(when, func(t *testing.T) {
			w, p, direct := s.losing(t)
			var n notes
			tx, err := p.Begin(n.after(t.Context(), 0), providers.TxOptions{})
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, tx, insert, "x")
			w.lose("commit", v)
			err = tx.Commit(t.Context())
			if _ = txError(t, err); !w.lost() {
				t.Error("nothing was lost")
			}
			settled(t, direct)
			wantHonest(t, "commit", err, traces(t, direct) == 1)
			if all := n.take(); len(all) != 1 || all[0].ok {
				t.Errorf("noted %+v after %v", all, err)
			}
		})
	}
}
