package pgx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// batchOf queues statements without arguments.
func batchOf(sqls ...string) *pgx.Batch {
	b := &pgx.Batch{}
	for _, sql := range sqls {
		b.Queue(sql)
	}
	return b
}

// wired sends a batch, which must leave as one exchange.
func wired(t *testing.T, on sender, b *pgx.Batch) pgx.BatchResults {
	t.Helper()
	results := on.SendBatch(t.Context(), b)
	if _, ok := results.(*batchResults).BatchResults.(*wiredBatch); !ok {
		t.Fatalf("it left the driver's way: %v", results.Close())
	}
	return results
}

// Once something has failed no callback runs, which would hide what it was.
func TestWiredBatchRunsNoCallbackBehindAnError(t *testing.T) {
	p := balanced(t, providers.Config{})
	own := errors.New("the callback's own")
	for name, read := range map[string]func(pgx.BatchResults){
		"read before":       func(r pgx.BatchResults) { _ = r.QueryRow().Scan(new(int)) },
		"not scanned":       func(r pgx.BatchResults) { r.QueryRow() },
		"left to callbacks": func(pgx.BatchResults) {},
	} {
		b := &pgx.Batch{}
		b.Queue("select 1 / $1::int", 0).QueryRow(func(pgx.Row) error { return nil })
		b.Queue("select 2").QueryRow(func(pgx.Row) error { return own })
		results := wired(t, p, b)
		read(results)
		if err := results.Close(); outcome(err) != "22012" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A callback can be given the results themselves.
func TestWiredBatchClosedByItsCallback(t *testing.T) {
	p := balanced(t, providers.Config{})
	b := batchOf("select 1", "select 2", "select 3")
	ran := 0
	b.QueuedQueries[0].Fn = func(r pgx.BatchResults) error { return r.Close() }
	b.QueuedQueries[1].Fn = func(r pgx.BatchResults) error {
		ran++
		_, err := r.Exec()
		return err
	}
	b.QueuedQueries[2].Fn = func(pgx.BatchResults) error { ran++; return nil } // it does not look
	if err := wired(t, p, b).Close(); err != nil || ran != 2 {
		t.Errorf("%d ran, %v", ran, err)
	}
	mustExec(t, p, "select 1")
}

// What the caller does with its batch once it is sent does not matter.
func TestWiredBatchWhoseQueueIsUsedAgain(t *testing.T) {
	p := balanced(t, providers.Config{})
	b := batchOf("select 1", "select 2")
	results := wired(t, p, b)
	clear(b.QueuedQueries)
	b.QueuedQueries = b.QueuedQueries[:0]
	if err := results.Close(); err != nil {
		t.Error(err)
	}
	mustExec(t, p, "select 1")
}

// The driver panics over a text without anything.
func TestWiredBatchWithAnEmptyText(t *testing.T) {
	p := balanced(t, providers.Config{})
	results := wired(t, p, batchOf("", "select 1"))
	if tag, err := results.Exec(); err != nil || tag.String() != "" {
		t.Errorf("%q, %v", tag, err)
	}
	var n int
	if err := results.QueryRow().Scan(&n); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if err := results.Close(); err != nil {
		t.Error(err)
	}
}

// A row is there once it was asked for.
func TestWiredBatchReadAheadOfNext(t *testing.T) {
	p := balanced(t, providers.Config{})
	results := wired(t, p, batchOf("select 7", "select 8"))
	rows, err := results.Query()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if raw, err := rows.RawValues(), rows.Scan(&n); raw != nil || err == nil || n != 0 {
		t.Errorf("%d, %q, %v", n, raw, err)
	}
	if err := results.Close(); err == nil {
		t.Error("closed without the error")
	}
	results = wired(t, p, batchOf("select 7"))
	if rows, err = results.Query(); err != nil {
		t.Fatal(err)
	}
	if values, err := rows.Values(); err == nil {
		t.Error(values)
	}
	_ = results.Close()
	mustExec(t, p, "select 1")
}

// Arguments that do not fit are refused before anything is sent, which the error
// says once, and cost no connection.
func TestWiredBatchOfArgumentsThatDoNotFit(t *testing.T) {
	onEach(t, providers.Config{}, "create table t (n int)", func(t *testing.T, p *Pool, q runner) {
		for name, args := range map[string][]any{
			"too few": {}, "too many": {1, 2}, "another type": {struct{}{}}, "too large": {5_000_000_000},
		} {
			b := &pgx.Batch{}
			b.Queue("insert into t values (1)")
			b.Queue("insert into t values ($1)", args...)
			results := q.(sender).SendBatch(t.Context(), b)
			_, exec := results.Exec()
			err := results.Close()
			if providers.OutcomeOf(err) != providers.OutcomeNotSent || exec == nil {
				t.Errorf("%s: %v, %v", name, exec, err)
			}
			if n := strings.Count(err.Error(), "nothing was sent"); n != 1 || strings.Contains(err.Error(), "5000000000") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := value[int](t, q, "select count(*) from t"); n != 0 {
			t.Errorf("%d rows", n)
		}
		if s := p.Stats(); s.Connects != 1 {
			t.Errorf("%d connections made", s.Connects)
		}
	})
}

// What was not described is not remembered.
func TestWiredBatchRemembersOnlyWhatIsDescribed(t *testing.T) {
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0].(*Conn)
	defer c.Release()
	known := func() *descriptions { return c.lease.s.known }
	for i := range 10 {
		_ = c.SendBatch(t.Context(), batchOf(fmt.Sprintf("select %d", i), "copy nothing to stdout")).Close()
		_ = c.SendBatch(t.Context(), batchOf(fmt.Sprintf("select %d from nowhere", i))).Close()
	}
	mustExec(t, c, "begin")
	_, _ = c.Exec(t.Context(), "select 1/0")
	for i := range 10 {
		if err := c.SendBatch(t.Context(), batchOf(fmt.Sprintf("select %d", i))).Close(); outcome(err) != "25P02" {
			t.Error(err)
		}
	}
	mustExec(t, c, "rollback")
	if n := len(known().bySQL); n != 0 {
		t.Errorf("%d statements are remembered", n)
	}
}

// A panic in a callback is the end of callbacks, also of those with arguments that
// the scope has to look at.
func TestWiredBatchPanicInAScope(t *testing.T) {
	p := balanced(t, providers.Config{Scope: tenants})
	ran := 0
	b := &pgx.Batch{}
	b.Queue("select 1").QueryRow(func(pgx.Row) error { panic("boom") })
	b.Queue("select $1::int", ownRewriter{}, 2).QueryRow(func(pgx.Row) error { ran++; return nil })
	results := p.SendBatch(asTenant(t.Context(), "a"), b)
	if r := panics(func() { _ = results.Close() }); r != "boom" {
		t.Errorf("%v", r)
	}
	if ran != 0 {
		t.Error("a callback ran behind a panic")
	}
	mustExecAs(t, p, "a", "select 1")
}

// ownRewriter is a rewriter that changes nothing.
type ownRewriter struct{}

func (ownRewriter) RewriteQuery(_ context.Context, _ *pgx.Conn, sql string, args []any) (string, []any, error) {
	return sql, args, nil
}

func mustExecAs(t *testing.T, p *Pool, tenant, sql string) {
	t.Helper()
	if _, err := p.Exec(asTenant(t.Context(), tenant), sql); err != nil {
		t.Error(err)
	}
}

// Results that are kept are nobody's business once the connection went back: what
// they say is their own, and the next borrower keeps its rows and its connection.
func TestBatchResultsKept(t *testing.T) {
	for name, first := range map[string]string{"one exchange": "select 1", "the driver's way": "by_name"} {
		t.Run(name, func(t *testing.T) {
			p := balanced(t, providers.Config{AfterConnect: func(ctx context.Context, conn *pgx.Conn) error {
				_, err := conn.Prepare(ctx, "by_name", "select 1")
				return err
			}})
			results := p.SendBatch(t.Context(), batchOf(first, "select generate_series(1, 3)", "select 4", "select 5"))
			row := results.QueryRow() // not scanned in time
			rows, err := results.Query()
			if err != nil || !rows.Next() {
				t.Fatal(err)
			}
			last := results.QueryRow()
			var n int
			if rows.Next() || rows.Scan(&n) == nil || row.Scan(&n) == nil || n != 0 {
				t.Errorf("%d was read of a result that was passed", n)
			}
			if err := results.Close(); err != nil {
				t.Fatal(err)
			}
			c := acquireN(t, p, 1)[0]
			theirs, err := c.Query(t.Context(), "select n from generate_series(100, 102) n")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, values := rows.Values()
				_, exec := results.Exec()
				if rows.Next() || rows.Scan(&n) == nil || values == nil || exec == nil || last.Scan(&n) == nil || rows.Conn() != nil {
					t.Errorf("%d was read of another's result", n)
				}
				rows.Close()
				if err := results.Close(); err != nil {
					t.Error(err)
				}
			}()
			<-done
			if got, err := pgx.CollectRows(theirs, pgx.RowTo[int]); err != nil || !slices.Equal(got, []int{100, 101, 102}) {
				t.Errorf("%v, %v", got, err)
			}
			c.Release()
			mustExec(t, p, "select 1")
			if s := p.Stats(); s.Connects != 1 {
				t.Errorf("%d connections were made", s.Connects)
			}
		})
	}
}

// Over a batch that is none the driver panics, which occupies nothing; one without
// statements has no results.
func TestBatchOfNothing(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, p *Pool, q runner) {
		for name, b := range map[string]*pgx.Batch{
			"no batch": nil, "no statement": {QueuedQueries: []*pgx.QueuedQuery{nil}},
			"a statement and none": {QueuedQueries: []*pgx.QueuedQuery{{SQL: "select 1"}, nil}},
		} {
			if panics(func() { _ = q.(sender).SendBatch(t.Context(), b).Close() }) == nil {
				t.Errorf("%s: not as in pgx", name)
			}
			mustExec(t, q, "select 1")
		}
		results := q.(sender).SendBatch(t.Context(), &pgx.Batch{})
		if _, err := results.Exec(); outcome(err) != errNoMore.Error() {
			t.Error(err)
		}
		if err := results.Close(); err != nil {
			t.Error(err)
		}
		mustExec(t, q, "select 1")
		if s := p.Stats(); s.Connects != 1 {
			t.Errorf("%d connections were made", s.Connects)
		}
	})
}
