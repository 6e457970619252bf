package providertest

import (
	"errors"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

var connTests = []test{
	{name: "IsOneSession", run: testOneSession, session: true},
	{name: "AfterItsRelease", run: testAfterRelease},
	{name: "ReleasedTwice", run: testReleasedTwice},
	{name: "ReleasedUnderOpenRows", run: testReleasedUnderRows},
	{name: "ReleasedUnderAStatement", run: testReleasedUnderStatement},
	{name: "ConcurrentUse", run: testConnConcurrentUse},
	{name: "LeavesNothingBehind", run: testLeavesNothing, session: true},
	{name: "LeavesNoTransactionBehind", run: testLeavesNoTransaction},
}

func testOneSession(t *testing.T, s suite) {
	p := s.open(t, 2)
	c := acquire(t, p)
	defer c.Release()
	other := acquire(t, p)
	defer other.Release()
	mustExec(t, c, "create temporary table mine (n int)")
	first := value[int](t, c, pid)
	tx := begin(t, c, providers.TxOptions{})
	if got := value[int](t, tx, pid); got != first {
		t.Error("the transaction runs elsewhere")
	}
	commit(t, tx)
	if value[int](t, c, pid) != first || value[int](t, other, pid) == first {
		t.Error("a connection must be one session, and another another")
	}
	if n := value[int](t, c, "select count(*) from mine"); n != 0 {
		t.Error(n)
	}
}

func testAfterRelease(t *testing.T, s suite) {
	p := s.open(t, 1)
	c := acquire(t, p)
	c.Release()
	used := map[string]error{"ping": c.Ping(t.Context())}
	for name, call := range everyCall {
		used[name] = call(t.Context(), c, "select 'x'")
	}
	_, used["begin"] = c.Begin(t.Context(), providers.TxOptions{})
	for what, err := range used {
		wantOutcome(t, what, err, providers.OutcomeNotSent)
		if !errors.Is(err, providers.ErrReleased) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A second release must not give away what belongs to somebody else by then.
func testReleasedTwice(t *testing.T, s suite) {
	p := s.open(t, 1)
	first := acquire(t, p)
	first.Release()
	second := acquire(t, p)
	first.Release()
	if n := p.Stats().InUse; n != 1 {
		t.Errorf("%d connections in use", n)
	}
	if err := second.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	second.Release()
}

func testReleasedUnderRows(t *testing.T, s suite) {
	p := s.open(t, 1)
	c := acquire(t, p)
	rows, err := c.Query(t.Context(), "select generate_series(1, 1000000)")
	if err != nil || !rows.Next() {
		t.Fatal("no row", err)
	}
	c.Release()
	if got := value[int](t, p, "select 7"); got != 7 {
		t.Errorf("the next borrower read %d", got)
	}
	for rows.Next() {
		continue
	}
	rows.Close()
	if rows.Err() == nil {
		t.Error("the rows of a connection that was released went on to their end")
	}
}

func testReleasedUnderStatement(t *testing.T, s suite) {
	p := s.open(t, 2)
	c := acquire(t, p)
	var other sync.WaitGroup
	var err error
	other.Go(func() { _, err = c.Exec(t.Context(), "select pg_sleep(62)") })
	eventually(t, "the statement runs", func() bool {
		return value[int](t, p, "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(62)'") == 1
	})
	c.Release()
	other.Wait()
	if o := providers.OutcomeOf(err); o == providers.OutcomeCommitted || o == providers.OutcomeNotSent {
		t.Errorf("%s: %v", o, err)
	}
}

func testConnConcurrentUse(t *testing.T, s suite) {
	p := s.open(t, 1)
	c := acquire(t, p)
	defer c.Release()
	rows, err := c.Query(t.Context(), "select generate_series(1, 3)")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]error{"ping": c.Ping(t.Context())}
	for name, call := range everyCall {
		used[name] = call(t.Context(), c, "select 'x'")
	}
	_, used["begin"] = c.Begin(t.Context(), providers.TxOptions{})
	for what, err := range used {
		wantOutcome(t, what, err, providers.OutcomeNotSent)
		if !errors.Is(err, providers.ErrConcurrentUse) {
			t.Errorf("%s: %v", what, err)
		}
	}
	n := 0
	for rows.Next() {
		n++
	}
	if n != 3 || rows.Err() != nil {
		t.Errorf("the rows were disturbed: %d, %v", n, rows.Err())
	}
}

// What a borrower's statements leave in a session must not reach the next.
func testLeavesNothing(t *testing.T, s suite) {
	clean := `select current_setting('app.x', true) is null or current_setting('app.x', true) = '',
		current_setting('work_mem') <> '7MB', current_user = session_user,
		to_regclass('pg_temp.mine') is null, (select count(*) = 0 from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
		(select count(*) = 0 from pg_listening_channels()), (select count(*) = 0 from pg_cursors where is_holdable)`
	for _, dirty := range []string{
		"set work_mem = '7MB'",
		"select 1; set work_mem = '7MB'",
		"/* set */ -- it\n set work_mem = '7MB'",
		"select set_config('app.x', 'left', false)",
		"set role pg_read_all_data",
		"create temporary table mine (n int)",
		"select 1 as n into temp mine",
		"create table pg_temp.mine (n int)",
		"select pg_advisory_lock(1)",
		"select pg_try_advisory_lock_shared(1)",
		"listen mine",
		"do $$ begin perform set_config('app.x', 'left', false); end $$",
		"declare mine cursor with hold for select 1",
	} {
		for _, borrowed := range []bool{true, false} {
			p := s.open(t, 1)
			if borrowed {
				c := acquire(t, p)
				mustExec(t, c, dirty)
				c.Release()
			} else {
				mustExec(t, p, dirty)
			}
			var ok [7]bool
			if err := p.QueryRow(t.Context(), clean).Scan(&ok[0], &ok[1], &ok[2], &ok[3], &ok[4], &ok[5], &ok[6]); err != nil {
				t.Fatal(err)
			}
			if ok != [7]bool{true, true, true, true, true, true, true} {
				t.Errorf("%s: reached the next borrower: %v", dirty, ok)
			}
		}
	}
}

func testLeavesNoTransaction(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	c := acquire(t, p)
	mustExec(t, c, "begin; insert into t values (1)")
	c.Release()
	mustExec(t, p, "insert into t values (2)")
	if n := value[int](t, p, "select sum(n) from t"); n != 2 {
		t.Errorf("%d", n)
	}
}
