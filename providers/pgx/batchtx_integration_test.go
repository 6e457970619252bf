package pgx

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

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
