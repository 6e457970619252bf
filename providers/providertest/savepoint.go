package providertest

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

var savepointTests = []test{
	{name: "CommitAndRollback", run: testSavepointEnds},
	{name: "Nested", run: testSavepointNested},
	{name: "Names", run: testSavepointNames},
	{name: "SameName", run: testSavepointSameName},
	{name: "HealsAFailedTransaction", run: testSavepointHeals},
	{name: "CommitOfAFailedOne", run: testSavepointCommitOfFailed},
	{name: "DeadContext", run: testSavepointDeadContext},
	{name: "EndsWithTheOneAround", run: testSavepointEndsWithOuter},
	{name: "RollbackRefusedPoisons", run: testSavepointPoisons},
	{name: "RollbackAfterItsEnd", run: testSavepointRollbackAfterItsEnd},
	{name: "InAFailedTransaction", run: testSavepointInFailed},
}

// wantRows checks which numbers are in the table.
func wantRows(t testing.TB, q providers.Querier, want string) {
	t.Helper()
	if got := value[string](t, q, "select coalesce(string_agg(n::text, ',' order by n), '') from t"); got != want {
		t.Errorf("rows %q, want %q", got, want)
	}
}

func testSavepointEnds(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	kept := savepoint(t, tx, "")
	mustExec(t, kept, "insert into t values (2)")
	commit(t, kept)
	undone := savepoint(t, tx, "")
	mustExec(t, undone, "insert into t values (3)")
	rollback(t, undone)
	for _, sp := range []providers.Tx{kept, undone} {
		for _, err := range []error{sp.Commit(t.Context()), sp.Rollback(t.Context()), execError(t, sp, "select 1")} {
			if !errors.Is(err, pgx.ErrTxClosed) {
				t.Errorf("after its end: %v", err)
			}
		}
	}
	commit(t, tx)
	wantRows(t, p, "1,2")
}

func testSavepointNested(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	a := savepoint(t, tx, "a")
	mustExec(t, a, "insert into t values (1)")
	b := savepoint(t, a, "b")
	mustExec(t, b, "insert into t values (2)")
	c := savepoint(t, b, "")
	mustExec(t, c, "insert into t values (3)")
	rollback(t, c)
	mustExec(t, b, "insert into t values (4)")
	commit(t, b)
	commit(t, a)
	commit(t, tx)
	wantRows(t, p, "1,2,4")
}

func testSavepointNames(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	for _, name := range []string{"a", "A", "select", `quoted"name`, "; drop table t; --", "ü", " ", strings.Repeat("x", 63)} {
		sp := savepoint(t, tx, name)
		mustExec(t, sp, "insert into t values (1)")
		rollback(t, sp)
		sp = savepoint(t, tx, name)
		commit(t, sp)
	}
	for _, name := range []string{"a\x00b", strings.Repeat("x", 64), "\xff"} {
		_, err := tx.Savepoint(t.Context(), name)
		wantOutcome(t, name, err, providers.OutcomeNotSent)
	}
	commit(t, tx)
	wantRows(t, p, "")
}

// The server takes a name for the innermost of that name. Whoever holds the
// outer one means the outer one.
func testSavepointSameName(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	outer := savepoint(t, tx, "same")
	mustExec(t, outer, "insert into t values (1)")
	inner := savepoint(t, outer, "same")
	mustExec(t, inner, "insert into t values (2)")
	rollback(t, outer)
	if err := inner.Commit(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("the inner one ended with the outer: %v", err)
	}
	wantRows(t, tx, "")
	outer = savepoint(t, tx, "same")
	inner = savepoint(t, outer, "same")
	mustExec(t, inner, "insert into t values (3)")
	rollback(t, inner)
	mustExec(t, outer, "insert into t values (4)")
	commit(t, outer)
	commit(t, tx)
	wantRows(t, p, "4")
}

func testSavepointHeals(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	sp := savepoint(t, tx, "")
	mustExec(t, sp, "insert into t values (2)")
	wantCode(t, "inner", execError(t, sp, "select 1 / 0"), "22012")
	rollback(t, sp)
	mustExec(t, tx, "insert into t values (3)")
	commit(t, tx)
	wantRows(t, p, "1,3")
}

func testSavepointCommitOfFailed(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	sp := savepoint(t, tx, "")
	mustExec(t, sp, "insert into t values (2)")
	wantCode(t, "inner", execError(t, sp, "select 1 / 0"), "22012")
	err := sp.Commit(t.Context())
	if got := txError(t, err); got.Result != providers.OutcomeRolledBack || !errors.Is(err, pgx.ErrTxCommitRollback) {
		t.Errorf("%+v", got)
	}
	commit(t, tx) // the failure stayed inside
	wantRows(t, p, "1")
}

// What a dead context left behind in a savepoint must not be committed by the
// transaction around it.
func testSavepointDeadContext(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	sp := savepoint(t, tx, "")
	mustExec(t, sp, "insert into t values (1)")
	if err := sp.Rollback(ended()); err != nil {
		t.Error(err)
	}
	sp = savepoint(t, tx, "")
	mustExec(t, sp, "insert into t values (2)")
	if got := txError(t, sp.Commit(ended())); got.Result != providers.OutcomeRolledBack {
		t.Errorf("%+v", got)
	}
	_, err := tx.Savepoint(ended(), "")
	wantOutcome(t, "savepoint", err, providers.OutcomeNotSent)
	commit(t, tx)
	wantRows(t, p, "")
}

func testSavepointEndsWithOuter(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	outer := savepoint(t, tx, "outer")
	inner := savepoint(t, outer, "inner")
	mustExec(t, inner, "insert into t values (1)")
	commit(t, outer)
	if err := inner.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("%v", err)
	}
	open := savepoint(t, tx, "open")
	mustExec(t, open, "insert into t values (2)")
	commit(t, tx)
	if err := open.Commit(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("%v", err)
	}
	wantRows(t, p, "1,2")
}

// A savepoint that could not be undone must not be committed with the rest.
func testSavepointPoisons(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	for _, again := range []bool{false, true} {
		tx := begin(t, p, providers.TxOptions{})
		sp := savepoint(t, tx, "")
		rows, err := sp.Query(t.Context(), "insert into t select 1 returning n")
		if err != nil {
			t.Fatal(err)
		}
		if err := sp.Rollback(t.Context()); !errors.Is(err, providers.ErrConcurrentUse) {
			t.Errorf("rows are open: %v", err)
		}
		rows.Close()
		if again { // which succeeds now
			rollback(t, sp)
			commit(t, tx)
			continue
		}
		err = tx.Commit(t.Context())
		if got := txError(t, err); got.Result != providers.OutcomeRolledBack || !errors.Is(err, providers.ErrTxPoisoned) {
			t.Errorf("%+v", got)
		}
	}
	wantRows(t, p, "")
}

// A rollback that is deferred comes after the savepoint was released, and harms
// nobody, also while rows of the transaction are open.
func testSavepointRollbackAfterItsEnd(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	sp := savepoint(t, tx, "")
	mustExec(t, sp, "insert into t values (1)")
	commit(t, sp)
	rows, err := tx.Query(t.Context(), "select n from t")
	if err != nil {
		t.Fatal(err)
	}
	if err := sp.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("it has ended: %v", err)
	}
	rows.Close()
	commit(t, tx)
	wantRows(t, p, "1")
}

func testSavepointInFailed(t *testing.T, s suite) {
	p := s.open(t, 1)
	tx := begin(t, p, providers.TxOptions{})
	_ = execError(t, tx, "select 1 / 0")
	_, err := tx.Savepoint(t.Context(), "")
	wantCode(t, "savepoint", err, "25P02")
	if got := txError(t, tx.Commit(t.Context())); got.Result != providers.OutcomeRolledBack {
		t.Errorf("%+v", got)
	}
}
