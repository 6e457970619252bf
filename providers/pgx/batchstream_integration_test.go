package pgx

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

var groupings = []int{0, 1, 2}

func TestBatchRunCallbacks(t *testing.T) {
	onEach(t, providers.Config{}, batchTable, func(t *testing.T, _ *Pool, q runner) {
		for _, group := range groupings {
			var got []string
			note := func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) }
			all := insertsOf(group*10+1, group*10+2)
			all[0].Exec(func(tag pgconn.CommandTag) error { note("%s", tag); return nil })
			row := queued("select $1::int", 7)
			row.QueryRow(func(row pgx.Row) error {
				var n int
				err := row.Scan(&n)
				note("row %d", n)
				return err
			})
			rows := queued("select generate_series(1, 3)")
			rows.Query(func(rows pgx.Rows) error {
				all, err := pgx.CollectRows(rows, pgx.RowTo[int])
				note("rows %v %v", all, rows.CommandTag())
				return err
			})
			early := queued("select generate_series(1, 1000)") // left before its end
			early.Query(func(rows pgx.Rows) error { note("next %v", rows.Next()); return nil })
			raw := queued("select 1")
			raw.Fn = func(r pgx.BatchResults) error {
				_, err := r.Exec()
				_, again := r.Exec()
				none, _ := r.Query()
				note("raw %v, %v, %v, %v, %v, %v", err, again != nil, none.Err() != nil, r.QueryRow().Scan() != nil, r.Close(), r.Tx())
				return nil
			}
			unread := queued("select 1")
			unread.Fn = func(pgx.BatchResults) error { note("unread"); return nil }
			empty := queued("-- nothing")
			empty.Exec(func(tag pgconn.CommandTag) error { note("empty %q", tag); return nil })
			call := callOf(group, append(all, row, rows, early, raw, unread, empty)...)
			if err := q.(batchRunner).RunBatch(t.Context(), call); err != nil {
				t.Fatalf("groups of %d: %v", group, err)
			}
			want := []string{"INSERT 0 1", "row 7", "rows [1 2 3] SELECT 3", "next true", "raw <nil>, true, true, true, <nil>, <nil>", "unread", `empty ""`}
			if !slices.Equal(got, want) {
				t.Errorf("groups of %d: %q", group, got)
			}
		}
	})
}

// A callback hears of its statement's error, as in pgx, and can add to it.
func TestBatchCallbackHearsOfTheError(t *testing.T) {
	for _, group := range groupings {
		onEach(t, providers.Config{}, batchTable, func(t *testing.T, _ *Pool, q runner) {
			bad := queued("select 1/$1::int", 0)
			var heard error
			bad.QueryRow(func(row pgx.Row) error {
				heard = row.Scan(new(int))
				return fmt.Errorf("the ratio: %w", heard)
			})
			late := queued("select x::int from (values ('1'), ('x')) v(x)") // in the middle of its rows
			late.Query(func(rows pgx.Rows) error {
				for rows.Next() { // to its end
				}
				return nil // the error is not lost for that
			})
			for _, one := range []*pgx.QueuedQuery{bad, late} {
				call := callOf(group, one)
				err := q.(batchRunner).RunBatch(t.Context(), call)
				var pg *providers.PGError
				if !errors.As(err, &pg) || !strings.HasPrefix(pg.Code, "22") || statesOf(call) != "f" {
					t.Errorf("groups of %d: %s %v", group, statesOf(call), err)
				}
				if one == bad && !strings.Contains(err.Error(), "the ratio: ") {
					t.Error(err)
				}
			}
			var pg *providers.PGError
			if !errors.As(heard, &pg) {
				t.Errorf("%v", heard)
			}
		})
	}
}

func TestBatchRunPanics(t *testing.T) {
	hooks, seen := watched(t)
	for name, code := range map[string]string{
		"a good statement": "select 1", "rows": "select generate_series(1, 1000)",
		"a bad statement": "select 1/0", "a bad row": "select x::int from (values ('1'), ('x')) v(x)",
	} {
		for _, group := range groupings {
			onEach(t, providers.Config{Hooks: hooks}, batchTable, func(t *testing.T, p *Pool, q runner) {
				seen.forget()
				boom := queued(code)
				boom.Query(func(rows pgx.Rows) error { rows.Next(); panic("boom") })
				last := queued("select 1")
				last.Exec(func(pgconn.CommandTag) error { t.Error("ran behind a panic"); return nil })
				call := callOf(group, append(insertsOf(1), boom, last)...)
				if r := panics(func() { _ = q.(batchRunner).RunBatch(t.Context(), call) }); r != "boom" {
					t.Errorf("%s, groups of %d: the panic is the caller's to see: %v", name, group, r)
				}
				if got := seen.of(providers.EventBatch); len(got) != 1 || !errors.Is(got[0].Err, errPanicked) {
					t.Errorf("%+v", got)
				}
				if left := numbersIn(t, q); (len(left) == 1) != (group == 1) {
					t.Errorf("%s, groups of %d: left are %v", name, group, left)
				}
				if p.Stats().Connects != 1 {
					t.Errorf("%s, groups of %d: the connection can go on", name, group)
				}
			})
		}
	}
}

func TestBatchOtherCodePanics(t *testing.T) {
	for _, group := range groupings {
		onEach(t, providers.Config{}, batchTable, func(t *testing.T, p *Pool, q runner) {
			for name, last := range map[string]*pgx.QueuedQuery{
				"an argument": queued("insert into t values ($1)", panickingValue{}),
				"a rewriter":  queued("insert into t values ($1)", panickingValue{}, 1),
			} {
				call := callOf(group, append(insertsOf(1), last)...)
				if r := panics(func() { _ = q.(batchRunner).RunBatch(t.Context(), call) }); r != "boom" {
					t.Errorf("%s: %v", name, r)
				}
			}
			call := callOf(group)
			n := 0
			call.MaxStatements = 2
			call.Next = func() (*pgx.QueuedQuery, error) {
				if n++; n > 4 {
					panic("boom")
				}
				return insertsOf(100 + n)[0], nil
			}
			if r := panics(func() { _ = q.(batchRunner).RunBatch(t.Context(), call) }); r != "boom" {
				t.Errorf("the source: %v", r)
			}
			if left := numbersIn(t, q); (len(left) > 0) != (group > 0) {
				t.Errorf("groups of %d: left are %v", group, left)
			}
			if p.Stats().Connects != 1 {
				t.Error("the connection can go on")
			}
		})
	}
}

// panickingValue panics as an argument and as a rewriter of arguments.
type panickingValue struct{}

func (panickingValue) Value() (any, error) { panic("boom") }
func (panickingValue) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	panic("boom")
}

func TestBatchCallbackEndsItsGoroutine(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, batchTable)
	for _, group := range groupings {
		done := make(chan struct{})
		go func() {
			defer close(done)
			q := insertsOf(group)[0]
			q.Exec(func(pgconn.CommandTag) error { runtime.Goexit(); return nil })
			_ = p.RunBatch(context.Background(), callOf(group, q))
		}()
		<-done
	}
	if got := numbersIn(t, p); !slices.Equal(got, []int{1}) {
		t.Errorf("%v", got)
	}
}

func TestBatchOccupiesWhatItRunsOn(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, p *Pool, q runner) {
		one := queued("select 1")
		var err error
		one.Exec(func(pgconn.CommandTag) error {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err = q.Exec(ctx, "select 1")
			return nil
		})
		if err := q.(batchRunner).RunBatch(t.Context(), callOf(0, one)); err != nil {
			t.Error(err)
		}
		if !errors.Is(err, providers.ErrConcurrentUse) && !errors.Is(err, providers.ErrPoolExhausted) {
			t.Errorf("%v", err)
		}
		if q != runner(p) {
			rows, _ := q.Query(t.Context(), "select 1")
			call := callOf(1, one)
			if err := q.(batchRunner).RunBatch(t.Context(), call); !errors.Is(err, providers.ErrConcurrentUse) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Errorf("%v", err)
			}
			rows.Close()
		}
	})
}

func TestBatchRunHooksAndTracer(t *testing.T) {
	hooks, seen := watched(t)
	spy := &batchSpy{}
	p := balanced(t, providers.Config{Hooks: hooks, Tracer: spy})
	for _, group := range groupings {
		seen.forget()
		spy.log = nil
		err := p.RunBatch(t.Context(), callOf(group, queued("select 1"), queued("select 2"), queued("select 1/0")))
		got := seen.of(providers.EventBatch)
		if len(got) != 1 || got[0].Rows != 3 || got[0].PID == 0 || !errors.Is(got[0].Err, err.(*providers.BatchFailure).Errors[0]) { //nolint:errorlint // what it is
			t.Errorf("%+v", got)
		}
		want := []string{"start 3", "select 1 SELECT 1 true", "select 2 SELECT 1 true", "select 1/0  false", "end false"}
		if !slices.Equal(spy.log, want) {
			t.Errorf("%q", spy.log)
		}
	}
}

// batchSpy is a tracer of the user's.
type batchSpy struct{ log []string }

func (s *batchSpy) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *batchSpy) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (s *batchSpy) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (s *batchSpy) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	s.note("start %d", data.Batch.Len())
	return context.WithValue(ctx, s, true)
}

func (s *batchSpy) TraceBatchQuery(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	if ctx.Value(s) == nil {
		s.note("another context")
	}
	s.note("%s %s %v", data.SQL, data.CommandTag, data.Err == nil)
}

func (s *batchSpy) TraceBatchEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	s.note("end %v", data.Err == nil)
}

// Trap 15: a plan that does not fit the schema any more did not run.
func TestTrap15StalePlanInABatch(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create table s (n int); insert into s values (1)")
	const stale, fine = "select * from s", "select 1"
	restart := func(group int) {
		if err := p.RunBatch(t.Context(), callOf(group, queued(stale), queued(fine))); err != nil {
			t.Fatal(err)
		}
		mustExec(t, p, "alter table s add column c"+itoa(int(time.Now().UnixNano()%1e9))+" int")
	}
	for _, tc := range []struct {
		group  int
		sqls   []string
		states string
	}{
		{1, []string{stale}, "o"},
		{1, []string{stale, stale, stale}, "ooo"},
		{1, []string{fine, stale, stale}, "ooo"},
		{1, []string{stale, stale, fine}, "ffo"}, // what stands behind has run
		{0, []string{fine, stale}, "rf"},
		{2, []string{fine, stale, stale}, "rfo"}, // the second group was behind it
	} {
		restart(tc.group)
		var all []*pgx.QueuedQuery
		for _, sql := range tc.sqls {
			all = append(all, queued(sql))
		}
		call := callOf(tc.group, all...)
		err := p.RunBatch(t.Context(), call)
		got := statesOf(call)
		if tc.group == 2 {
			got, tc.states = got[:2], tc.states[:2]
		}
		if got != tc.states {
			t.Errorf("groups of %d, %q: %s instead of %s: %v", tc.group, tc.sqls, got, tc.states, err)
		}
		var pg *providers.PGError
		if strings.Contains(tc.states, "f") && (!errors.As(err, &pg) || !pg.IsStalePlan()) {
			t.Error(err)
		}
		call = callOf(tc.group, all...)
		if err := p.RunBatch(t.Context(), call); err != nil {
			t.Errorf("groups of %d, %q: the next time: %v", tc.group, tc.sqls, err)
		}
	}
}

// A callback of a stale statement that was given up hears of it.
func TestBatchStalePlanCallback(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create table s (n int)")
	all := func(heard *error) []*pgx.QueuedQuery {
		stale := queued("select * from s")
		stale.QueryRow(func(row pgx.Row) error {
			if *heard = row.Scan(); *heard != nil && !errors.Is(*heard, pgx.ErrNoRows) {
				return fmt.Errorf("mine: %w", *heard)
			}
			return nil
		})
		return []*pgx.QueuedQuery{stale, queued("select 1")}
	}
	var heard error
	if err := p.RunBatch(t.Context(), callOf(1, all(&heard)...)); err != nil || !errors.Is(heard, pgx.ErrNoRows) {
		t.Fatal(err, heard)
	}
	mustExec(t, p, "alter table s add column m int")
	err := p.RunBatch(t.Context(), callOf(1, all(&heard)...))
	var pg *providers.PGError
	if !errors.As(heard, &pg) || !pg.IsStalePlan() || !strings.Contains(err.Error(), "mine: ") {
		t.Errorf("%v, %v", heard, err)
	}
}

// What the application deallocates behind the batch's back is prepared again.
func TestBatchStatementDeallocated(t *testing.T) {
	p := balanced(t, providers.Config{SessionReset: providers.ResetNever})
	for range 2 {
		call := callOf(1, queued("select 1"), queued("select 1"))
		if err := p.RunBatch(t.Context(), call); err != nil {
			t.Error(err)
		}
		mustExec(t, p, "deallocate all")
	}
	p = balanced(t, providers.Config{}) // here the reset says so
	for range 2 {
		if err := p.RunBatch(t.Context(), callOf(0, queued("select 1"), queued("select 1"))); err != nil {
			t.Error(err)
		}
		mustExec(t, p, "deallocate all")
	}
}

// Statements of which no two are alike do not fill the server's memory.
func TestBatchForgetsStatements(t *testing.T) {
	for _, mode := range []string{"statement", "description"} {
		exec := map[string]string{"statement": "cache_statement", "description": "cache_describe"}[mode]
		p := balanced(t, providers.Config{DSN: pgtest.NewDB(t) + "&" + mode + "_cache_capacity=10&default_query_exec_mode=" + exec})
		for _, group := range groupings {
			var all []*pgx.QueuedQuery
			for i := range 200 {
				all = append(all, queued("select "+itoa(i)))
			}
			call := callOf(group, all...)
			call.MaxStatements = 20
			if err := p.RunBatch(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			if n := value[int](t, p, "select count(*) from pg_prepared_statements where name like 'pgkeel%'"); n > 30 {
				t.Errorf("%d prepared statements", n)
			}
		}
	}
}

// The server only refuses at the commit.
func TestBatchCommitFails(t *testing.T) {
	const table = "create table d (n int unique deferrable initially deferred)"
	insert := func(ns ...int) (all []*pgx.QueuedQuery) {
		for _, n := range ns {
			all = append(all, queued("insert into d values ($1)", n))
		}
		return all
	}
	for _, tc := range []struct {
		group     int
		callbacks bool
		states    string
	}{
		{0, false, "rrr"}, {0, true, "rrr"}, {1, false, "ofo"}, {1, true, "ofo"}, {2, false, "rro"}, {2, true, "rro"},
	} {
		p := balanced(t, providers.Config{})
		mustExec(t, p, table)
		all := insert(1, 1, 2)
		if tc.callbacks {
			withCallbacks(all)
		}
		call := callOf(tc.group, all...)
		err := p.RunBatch(t.Context(), call)
		var pg *providers.PGError
		var item *providers.BatchError
		if !errors.As(err, &pg) || !pg.IsUniqueViolation() || !errors.As(err, &item) || item.Operation != providers.BatchCommit {
			t.Errorf("%+v: %v", tc, err)
		}
		if got := statesOf(call); got != tc.states || call.Report.RowsAffected != int64(strings.Count(tc.states, "o")) {
			t.Errorf("%+v: %s, %d rows", tc, got, call.Report.RowsAffected)
		}
		if n := value[int](t, p, "select count(*) from d"); n != strings.Count(tc.states, "o") {
			t.Errorf("%+v: %d rows", tc, n)
		}
	}
}

func TestBatchTxOptions(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, batchTable)
	level := ""
	show := func() *pgx.QueuedQuery {
		q := queued("show transaction_isolation")
		q.QueryRow(func(row pgx.Row) error { return row.Scan(&level) })
		return q
	}
	for _, group := range []int{0, 2} {
		call := callOf(group, show())
		call.Tx.Isolation = providers.Serializable
		if err := p.RunBatch(t.Context(), call); err != nil || level != "serializable" {
			t.Errorf("%s %v", level, err)
		}
		call = callOf(group, insertsOf(1)...)
		call.Tx.Access = providers.ReadOnly
		err := p.RunBatch(t.Context(), call)
		var pg *providers.PGError
		if !errors.As(err, &pg) || !pg.IsReadOnly() {
			t.Error(err)
		}
	}
	tx := begin(t, p, providers.TxOptions{})
	defer mustRollback(t, tx)
	call := callOf(0, show())
	call.Tx.Isolation = providers.Serializable
	if err := tx.RunBatch(t.Context(), call); !errors.Is(err, errTxOptionsInTx) {
		t.Error(err)
	}
}

// What begins a transaction on a standby that wants to write.
func TestBatchBeginFails(t *testing.T) {
	cluster := pgtest.New(t, pgtest.Options{Standbys: 1})
	p := balanced(t, providers.Config{DSN: cluster.Standbys()[0].DSN("")})
	for _, group := range []int{0, 2} {
		call := callOf(group, queued("select 1"), queued("select 2"), queued("select 3"), queued("select 4"))
		call.Tx.Access = providers.ReadWrite
		err := p.RunBatch(t.Context(), call)
		var item *providers.BatchError
		if !errors.As(err, &item) || item.Operation != providers.BatchBegin || strings.Trim(statesOf(call), "n") != "" {
			t.Errorf("groups of %d: %s %v", group, statesOf(call), err)
		}
		if p.Stats().Connects != 1 {
			t.Error("the connection can go on")
		}
	}
}

func TestBatchSavepointsOfItsOwn(t *testing.T) {
	onEach(t, providers.Config{}, batchTable, func(t *testing.T, _ *Pool, q runner) {
		all := append([]*pgx.QueuedQuery{}, insertsOf(1)...)
		all = append(all, queued("savepoint a"), insertsOf(2)[0], queued("rollback to a"), queued("release a"))
		call := callOf(0, append(all, insertsOf(3)...)...)
		if err := q.(batchRunner).RunBatch(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		if got := numbersIn(t, q); !slices.Equal(got, []int{1, 3}) {
			t.Errorf("%v", got)
		}
	})
}

// In a transaction nothing of the batch's own stays, whether it went well or not.
func TestBatchLeavesTheTransactionAsItWas(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, batchTable)
	for _, group := range groupings {
		for _, last := range []int{3, 1} {
			mustExec(t, p, "truncate t")
			tx := begin(t, p, providers.TxOptions{})
			call := callOf(group, insertsOf(1, 2, last)...)
			_ = tx.RunBatch(t.Context(), call)
			mustExec(t, tx, "insert into t values (9)")
			sp := savepoint(t, tx, "")
			_, err := tx.Exec(t.Context(), "rollback to "+batchSavepoint)
			if err == nil {
				t.Errorf("groups of %d: its savepoint is still there", group)
			}
			mustRollback(t, sp)
			mustCommit(t, tx)
			want := append(slices.DeleteFunc([]int{1, 2}, func(int) bool { return last == 1 && group == 0 }), 9)
			if last == 3 {
				want = []int{1, 2, 3, 9}
			}
			if got := numbersIn(t, p); !slices.Equal(got, want) {
				t.Errorf("groups of %d, %d: %v", group, last, got)
			}
		}
	}
}

// What commits by itself takes what came before it along, and stays when what comes
// behind it fails: not in a group, which is all or nothing. Alone it may.
func TestBatchOfWhatCommitsByItself(t *testing.T) {
	const commit = "do $$ begin insert into t values (5) on conflict do nothing; commit; end $$"
	for name, tc := range map[string]struct {
		sql         string
		group, rest string // the states in a group, and each by itself
	}{
		"a block":       {commit, "rfnn", "ooof"},
		"a procedure":   {"call p()", "rfnn", "ooof"},
		"a vacuum":      {"vacuum t", "rfnn", "ooof"},
		"an index":      {"create index concurrently i on t (n)", "rfnn", "ooof"},
		"a plain block": {"do $$ begin insert into t values (5) on conflict do nothing; end $$", "rrrf", "ooof"},
	} {
		for _, mode := range []string{"cache_statement", "exec"} {
			for _, group := range []int{0, 1} {
				p := balanced(t, providers.Config{DSN: pgtest.NewDB(t) + "&default_query_exec_mode=" + mode})
				mustExec(t, p, batchTable+`; create procedure p() language plpgsql as $$ begin insert into t values (5) on conflict do nothing; commit; end $$`)
				call := callOf(group, append(insertsOf(1), queued(tc.sql), insertsOf(3)[0], insertsOf(3)[0])...)
				err := p.RunBatch(t.Context(), call)
				want := tc.rest
				if group == 0 {
					want = tc.group
				}
				if got := statesOf(call); err == nil || got != want {
					t.Errorf("%s, %s, groups of %d: %s instead of %s: %v", name, mode, group, got, want, err)
				}
				if left := numbersIn(t, p); group == 0 && len(left) != 0 || group == 1 && !slices.Contains(left, 1) {
					t.Errorf("%s, %s, groups of %d: left are %v", name, mode, group, left)
				}
				if err := p.RunBatch(t.Context(), callOf(group, queued(tc.sql))); err != nil && !strings.Contains(err.Error(), "exists") {
					t.Errorf("%s, %s, groups of %d, alone: %v", name, mode, group, err)
				}
			}
		}
	}
}

func TestBatchInATransactionThatFailed(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{})
	defer mustRollback(t, tx)
	_, _ = tx.Exec(t.Context(), "select 1/0")
	if err := tx.RunBatch(t.Context(), callOf(1, queued("select 1"))); !errors.Is(err, errTxFailed) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Error(err)
	}
}

// A statement that takes the batch's savepoint away, which no text shows.
func TestBatchSavepointTakenAway(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, batchTable)
	for _, group := range groupings {
		tx := begin(t, p, providers.TxOptions{})
		call := callOf(group, queued("release savepoint "+batchSavepoint), queued("select 1"), queued("select 2"))
		if err := tx.RunBatch(t.Context(), call); err == nil {
			t.Errorf("groups of %d: no error", group)
		}
		mustRollback(t, tx)
	}
	mustExec(t, p, "select 1")
}

func TestBatchRefused(t *testing.T) {
	p := balanced(t, providers.Config{AcquireTimeout: 20 * time.Millisecond})
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	conn := acquireN(t, p, 1)[0].(*Conn)
	tx, err := conn.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, want error, run func(call *providers.BatchCall) error) {
		t.Helper()
		call := callOf(1, queued("select 1"))
		if err := run(call); !errors.Is(err, want) || providers.OutcomeOf(err) != providers.OutcomeNotSent || len(call.Report.States) != 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("exhausted", providers.ErrPoolExhausted, func(c *providers.BatchCall) error { return p.RunBatch(t.Context(), c) })
	refused("dead", context.Canceled, func(c *providers.BatchCall) error { return tx.(*Tx).RunBatch(dead, c) })
	mustRollback(t, tx)
	refused("over", pgx.ErrTxClosed, func(c *providers.BatchCall) error { return tx.(*Tx).RunBatch(t.Context(), c) })
	refused("dead", context.Canceled, func(c *providers.BatchCall) error { return conn.RunBatch(dead, c) })
	conn.Release()
	refused("released", providers.ErrReleased, func(c *providers.BatchCall) error { return conn.RunBatch(t.Context(), c) })
	refused("dead", context.Canceled, func(c *providers.BatchCall) error { return p.RunBatch(dead, c) })
	_ = p.Close(t.Context())
	refused("closed", providers.ErrPoolClosed, func(c *providers.BatchCall) error { return p.RunBatch(t.Context(), c) })
}

// The context ends while a statement runs, or while nothing does.
func TestBatchContextEnds(t *testing.T) {
	for _, group := range groupings {
		for _, between := range []bool{false, true} {
			for _, where := range []string{"pool", "tx"} {
				t.Run(fmt.Sprintf("groups of %d, between %v, %s", group, between, where), func(t *testing.T) {
					p := balanced(t, providers.Config{})
					mustExec(t, p, batchTable)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					all := insertsOf(0, 1, 2, 3, 4)
					if between {
						all[1].Exec(func(pgconn.CommandTag) error { cancel(); return nil })
					} else {
						all[1] = queued("select pg_sleep(10)")
						time.AfterFunc(50*time.Millisecond, cancel)
					}
					call := callOf(group, all...)
					call.MaxStatements = 2
					var err error
					if where == "pool" {
						err = p.RunBatch(ctx, call)
					} else {
						tx := begin(t, p, providers.TxOptions{})
						err = tx.RunBatch(ctx, call)
						mustExec(t, tx, "select 1") // it goes on
						mustCommit(t, tx)
					}
					var limit *providers.TimeoutError
					if !errors.Is(err, context.Canceled) || !errors.As(err, &limit) {
						t.Errorf("%s: %v", statesOf(call), err)
					}
					if got := statesOf(call); !strings.HasSuffix(got, "n") && len(got) == 5 {
						t.Errorf("%s", got)
					}
					agree(t, "ended", call, numbersIn(t, p))
				})
			}
		}
	}
}

// All is done when the context ends, but for the commit.
func TestBatchContextEndsBeforeTheCommit(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, batchTable)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all := insertsOf(0, 1)
	all[1].Exec(func(pgconn.CommandTag) error { cancel(); return nil })
	call := callOf(0, all...)
	err := p.RunBatch(ctx, call)
	var item *providers.BatchError
	if !errors.As(err, &item) || item.Operation != providers.BatchContext || !errors.Is(err, context.Canceled) || statesOf(call) != "rr" {
		t.Errorf("%s %v", statesOf(call), err)
	}
	if got := numbersIn(t, p); len(got) != 0 || p.Stats().Connects != 1 {
		t.Errorf("%v", got)
	}
}

// All is done when the context ends, and nothing is left to be said.
func TestBatchContextEndsBehindTheLast(t *testing.T) {
	p := balanced(t, providers.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	last := queued("select 1")
	last.Exec(func(pgconn.CommandTag) error { cancel(); return nil })
	call := callOf(1, last)
	if err := p.RunBatch(ctx, call); err != nil || statesOf(call) != "o" {
		t.Errorf("%s %v", statesOf(call), err)
	}
}

// The connection is cut between two windows: what is sent then is known not to
// have arrived.
func TestBatchConnectionCutInBetween(t *testing.T) {
	for group, want := range map[int]string{0: "rrnn", 1: "uunn", 2: "uunn"} {
		for _, callbacks := range []bool{false, true} {
			p := balanced(t, providers.Config{})
			mustExec(t, p, batchTable)
			all := insertsOf(0, 1, 2, 3)
			if callbacks {
				withCallbacks(all)
			}
			call := callOf(group, all...)
			call.MaxStatements = 2
			next, n := call.Next, 0
			call.Next = func() (*pgx.QueuedQuery, error) {
				if n++; n == 4 { // the third was looked at ahead of time
					for _, s := range p.allSessions() {
						s.cut()
					}
				}
				return next()
			}
			err := p.RunBatch(t.Context(), call)
			var item *providers.BatchError
			if !errors.As(err, &item) || item.Operation != providers.BatchConnection {
				t.Errorf("groups of %d: %v", group, err)
			}
			agree(t, "cut", call, numbersIn(t, p))
			if got := statesOf(call); callbacks && group > 0 && got != want {
				t.Errorf("groups of %d: %s instead of %s: %v", group, got, want, err)
			}
		}
	}
}

// The connection is cut while statements are described.
func TestBatchConnectionCutWhileDescribing(t *testing.T) {
	dsn := pgtest.NewDB(t)
	w, address := newWire(t, dsn)
	p := balanced(t, providers.Config{DSN: address})
	mustExec(t, p, batchTable)
	for _, group := range groupings {
		for at := range 12 {
			mustExec(t, p, "truncate t")
			all := append(insertsOf(0), queued("select 1"), queued("insert into nowhere values (1)"), queued("select 2"))
			call := callOf(group, all...)
			loseAt(w, at, cutBefore, func() error { return p.RunBatch(t.Context(), call) })
			if call.Report.Err() == nil || len(call.Report.States) != 4 {
				t.Errorf("%s", statesOf(call))
			}
			agree(t, "cut", call, numbersIn(t, p))
		}
	}
}

func TestBatchSourceFails(t *testing.T) {
	broken := errors.New("the file ends in the middle of a line")
	for _, tc := range []struct {
		group, window int
		states        string
	}{
		{0, 1000, "nnnnn"}, {0, 2, "rrrrn"}, {1, 1000, "ooooo"}, {2, 1000, "oooon"}, {2, 2, "oooon"}, {3, 2, "ooorn"},
	} {
		onEach(t, providers.Config{}, batchTable, func(t *testing.T, _ *Pool, q runner) {
			call := callOf(tc.group, insertsOf(0, 1, 2, 3, 4)...)
			next := call.Next
			call.Next = func() (*pgx.QueuedQuery, error) {
				one, err := next()
				if one == nil {
					err = broken
				}
				return one, err
			}
			call.MaxStatements = tc.window
			err := q.(batchRunner).RunBatch(t.Context(), call)
			var item *providers.BatchError
			if !errors.Is(err, broken) || !errors.As(err, &item) || item.Operation != providers.BatchSource || item.Index != 5 {
				t.Errorf("%v", err)
			}
			got := statesOf(call)
			if len(got) != 5 || strings.Count(got, "o") != strings.Count(tc.states, "o") {
				t.Errorf("%+v: %s", tc, got)
			}
			agree(t, "the source failed", call, numbersIn(t, q))
		})
	}
}

func TestBatchStopOnError(t *testing.T) {
	for _, group := range []int{1, 2} {
		onEach(t, providers.Config{}, batchTable, func(t *testing.T, _ *Pool, q runner) {
			call := callOf(group, insertsOf(0, 0, 1, 2, 3, 4)...)
			call.StopOnError, call.MaxStatements = true, 1
			err := q.(batchRunner).RunBatch(t.Context(), call)
			if got := strings.TrimRight(statesOf(call), "n"); err == nil || len(call.Report.Errors) != 1 || got != "of" && got != "rf" && got != "ofo" {
				t.Errorf("groups of %d: %s %v", group, statesOf(call), err)
			}
		})
	}
}

// The statements' own marks on the session are undone as after any other.
func TestBatchSoilsTheSession(t *testing.T) {
	for _, exec := range []string{"cache_statement", "exec"} {
		p := balanced(t, providers.Config{DSN: pgtest.NewDB(t) + "&default_query_exec_mode=" + exec})
		for _, group := range groupings {
			call := callOf(group, queued("set application_name = 'soiled'"))
			if err := p.RunBatch(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			if got := value[string](t, p, "show application_name"); got == "soiled" {
				t.Errorf("%s, groups of %d: it stays", exec, group)
			}
		}
	}
}

// Behind PgBouncer in transaction mode.
func TestBatchBehindPgBouncer(t *testing.T) {
	bouncer := pgtest.New(t, pgtest.Options{}).Primary().NewPgBouncer(t, nil)
	p := balanced(t, providers.Config{DSN: bouncer.DSN(""), Profile: providers.ProfilePgBouncer})
	mustExec(t, p, batchTable)
	for _, group := range groupings {
		mustExec(t, p, "truncate t")
		call := callOf(group, insertsOf(1, 2, 1, 3)...)
		_ = p.RunBatch(t.Context(), call)
		want := map[int]string{0: "rrfn", 1: "oofo", 2: "oofn"}[group]
		if got := statesOf(call); got != want {
			t.Errorf("groups of %d: %s", group, got)
		}
	}
}

// A plan that becomes stale in the middle of a stream that is longer than its
// window, and one that is dropped again and again.
func TestTrap15StalePlanInALongStream(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create table s (n int)")
	mustExec(t, p, "create function missing() returns int language plpgsql as 'begin return (select n from nowhere); end'")
	many := func(sql string) *providers.BatchCall {
		var all []*pgx.QueuedQuery
		for range 20 {
			all = append(all, queued(sql))
		}
		call := callOf(1, all...)
		call.MaxStatements = 4
		return call
	}
	for _, change := range []string{"add column m int", "drop column m"} {
		if err := p.RunBatch(t.Context(), many("select * from s")); err != nil {
			t.Fatal(err)
		}
		mustExec(t, p, "alter table s "+change)
		call := many("select * from s")
		if err := p.RunBatch(t.Context(), call); err != nil || call.Report.Count(providers.BatchOK) != 20 {
			t.Errorf("%s: %v", statesOf(call), err)
		}
	}
	call := many("select missing()")
	err := p.RunBatch(t.Context(), call)
	var pg *providers.PGError
	if !errors.As(err, &pg) || pg.Code != "42P01" || call.Report.Count(providers.BatchFailed) != 20 {
		t.Errorf("%s: %v", statesOf(call), err)
	}
}
