package pgx

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

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
