package pgx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

func TestTrap19NestedRollbackWithADeadContext(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, accounts)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	sp := savepoint(t, tx, "")
	mustExec(t, sp, "insert into t values (2)")
	if err := sp.Rollback(ended()); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, tx)
	if n := rowsIn(t, p); n != 1 {
		t.Errorf("%d rows: the inner write was to be undone", n)
	}
}

func TestTrap19ReleaseThatFailsUndoes(t *testing.T) {
	for name, fail := range map[string]func(ctx context.Context, sp *Tx) error{
		"dead context": func(_ context.Context, sp *Tx) error { return sp.Commit(ended()) },
		"failed statement": func(ctx context.Context, sp *Tx) error {
			_, _ = sp.Exec(ctx, "select 1/0")
			return sp.Commit(ctx)
		},
		"gone savepoint": func(ctx context.Context, sp *Tx) error {
			inner, _ := sp.Savepoint(ctx, "nested")
			_, _ = sp.Exec(ctx, "release savepoint nested")
			err := inner.Commit(ctx)
			return errors.Join(err, sp.Commit(ctx))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := balanced(t, providers.Config{})
			mustExec(t, p, accounts)
			tx := begin(t, p, providers.TxOptions{})
			mustExec(t, tx, "insert into t values (1)")
			sp := savepoint(t, tx, "outer")
			mustExec(t, sp, "insert into t values (2)")
			err := fail(t.Context(), sp)
			if r := txResult(t, err); r.Result != providers.OutcomeRolledBack || r.Operation != "release" {
				t.Errorf("%+v", r)
			}
			if err := sp.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
				t.Errorf("%v", err)
			}
			if name == "gone savepoint" {
				if err := tx.Commit(t.Context()); !errors.Is(err, providers.ErrTxPoisoned) {
					t.Errorf("%v", err)
				}
				return
			}
			mustCommit(t, tx)
			if n := rowsIn(t, p); n != 1 {
				t.Errorf("%d rows: what failed must not be committed by the outer", n)
			}
		})
	}
}

func TestTrap19RollbackThatFailsPoisons(t *testing.T) {
	for name, verdict := range map[string]verdict{"cut before": cutBefore, "cut after": cutAfter} {
		t.Run(name, func(t *testing.T) {
			w, dsn := newWire(t, pgtest.NewDB(t))
			p := balanced(t, providers.Config{DSN: dsn})
			mustExec(t, p, accounts)
			tx := begin(t, p, providers.TxOptions{})
			sp := savepoint(t, tx, "")
			mustExec(t, sp, "insert into t values (2)")
			w.on("rollback to", verdict)
			if err := sp.Rollback(t.Context()); err == nil {
				t.Fatal("it cannot have been rolled back")
			}
			w.on("", forward)
			err := tx.Commit(t.Context())
			if r := txResult(t, err); r.Result != providers.OutcomeRolledBack || !errors.Is(err, providers.ErrTxPoisoned) {
				t.Errorf("%+v", r)
			}
			eventually(t, "the server rolled back", func() bool { return rowsIn(t, p) == 0 })
		})
	}
}

func TestTrap19RollbackRefusedPoisonsUntilItSucceeds(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, accounts)
	for _, again := range []string{"", "itself", "the outer savepoint"} {
		mustExec(t, p, "truncate t")
		tx := begin(t, p, providers.TxOptions{})
		mustExec(t, tx, "insert into t values (1)")
		outer := savepoint(t, tx, "outer")
		sp := savepoint(t, tx, "inner")
		mustExec(t, sp, "insert into t values (2)")
		rows, err := sp.Query(t.Context(), "select 1")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := sp.Rollback(t.Context()); !errors.Is(err, providers.ErrConcurrentUse) {
				t.Errorf("the rows are open: %v", err)
			}
		}
		rows.Close()
		switch again {
		case "itself":
			mustRollback(t, sp)
		case "the outer savepoint":
			mustRollback(t, outer)
		}
		err = tx.Commit(t.Context())
		if again == "" {
			if !errors.Is(err, providers.ErrTxPoisoned) {
				t.Errorf("the inner writes would be committed: %v", err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s was rolled back after all: %v", again, err)
		}
		if n := rowsIn(t, p); n != 1 {
			t.Errorf("%s: %d rows", again, n)
		}
	}
}

func TestTrap19SavepointsDoNotPileUp(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{})
	for i := range 10 {
		sp := savepoint(t, tx, "s")
		if i%2 == 0 {
			mustRollback(t, sp)
		} else {
			mustCommit(t, sp)
		}
		if _, err := tx.Exec(t.Context(), "release savepoint s"); err == nil {
			t.Fatal("the savepoint is still there")
		}
		mustRollback(t, tx)
		tx = begin(t, p, providers.TxOptions{})
	}
	mustRollback(t, tx)
}

func TestSavepointNames(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, accounts)
	tx := begin(t, p, providers.TxOptions{})
	for _, name := range []string{"", "a", `q"uo"te`, "it's; drop table t", "Ünïcode ☂", "UPPER", "select", strings.Repeat("x", 63)} {
		sp := savepoint(t, tx, name)
		mustExec(t, sp, "insert into t values (1)")
		mustRollback(t, sp)
		mustCommit(t, savepoint(t, tx, name))
	}
	for _, name := range []string{strings.Repeat("x", 64), "nul\x00", "not \xff utf-8", strings.Repeat("ü", 32)} {
		if _, err := tx.Savepoint(t.Context(), name); err == nil || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("%q: %v", name, err)
		}
	}
	mustCommit(t, tx)
	if n := rowsIn(t, p); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestSavepointsOfTheSameName(t *testing.T) {
	for _, failed := range []bool{false, true} {
		t.Run(fmt.Sprintf("failed %t", failed), func(t *testing.T) {
			p := balanced(t, providers.Config{})
			mustExec(t, p, accounts)
			tx := begin(t, p, providers.TxOptions{})
			mustExec(t, tx, "insert into t values (1)")
			outer := savepoint(t, tx, "same")
			mustExec(t, tx, "insert into t values (2)")
			inner := savepoint(t, outer, "same")
			mustExec(t, tx, "insert into t values (3)")
			if failed {
				_, _ = tx.Exec(t.Context(), "select 1/0")
			}
			mustRollback(t, outer)
			if err := inner.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
				t.Errorf("it ended with the outer: %v", err)
			}
			mustCommit(t, tx)
			if n := rowsIn(t, p); n != 1 {
				t.Errorf("%d rows", n)
			}
		})
	}
	p := balanced(t, providers.Config{})
	mustExec(t, p, accounts)
	tx := begin(t, p, providers.TxOptions{})
	outer := savepoint(t, tx, "same")
	inner := savepoint(t, tx, "same")
	mustExec(t, tx, "insert into t values (1)")
	mustCommit(t, outer)
	if err := inner.Commit(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("%v", err)
	}
	if _, err := tx.Exec(t.Context(), "release savepoint same"); err == nil {
		t.Error("one is left over")
	}
	mustRollback(t, tx)
}

func TestSavepointEndedWithTheOneAroundIt(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{})
	outer := savepoint(t, tx, "outer")
	inner := savepoint(t, outer, "inner")
	mustCommit(t, outer)
	if err := inner.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("%v", err)
	}
	if _, err := inner.Exec(t.Context(), "select 1"); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("%v", err)
	}
	mustExec(t, tx, "select 1") // not failed by a savepoint that does not exist
	mustCommit(t, tx)
}

func TestTrap18ScopeAndSavepoints(t *testing.T) {
	const show = "select coalesce(current_setting('app.x', true), '') || '|' || coalesce(current_setting('app.y', true), '')"
	p := balanced(t, providers.Config{})
	run := func(tx *Tx, name, v string) {
		t.Helper()
		if err := tx.Run(t.Context(), scoped(providers.CallExec, "select 1", nil, name, v)); err != nil {
			t.Fatal(err)
		}
	}
	for name, undo := range map[string]func(tx, sp *Tx){
		"rollback": func(_, sp *Tx) { mustRollback(t, sp) },
		"rollback after a failure": func(_, sp *Tx) {
			_ = sp.Run(t.Context(), scoped(providers.CallExec, "select 1/0", nil, "app.z", "1"))
			mustRollback(t, sp)
		},
		"release that fails": func(_, sp *Tx) { _ = sp.Commit(ended()) },
		"raw rollback of a failed transaction": func(tx, _ *Tx) {
			_, _ = tx.Exec(t.Context(), "select 1/0")
			mustExec(t, tx, "rollback to savepoint sp")
		},
		"release": func(_, sp *Tx) { mustCommit(t, sp) },
	} {
		tx := begin(t, p, providers.TxOptions{})
		run(tx, "app.y", "before")
		sp := savepoint(t, tx, "sp")
		run(sp, "app.x", "inside") // undoes app.y, which the rollback brings back
		undo(tx, sp)
		if got := value[string](t, tx, show); got != "|" {
			t.Errorf("after %s: %q", name, got)
		}
		mustRollback(t, tx)
	}
}

func TestSavepointInAFailedTransaction(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{})
	_, _ = tx.Exec(t.Context(), "select 1/0")
	var pg *providers.PGError
	if _, err := tx.Savepoint(t.Context(), "x"); !errors.As(err, &pg) || pg.Code != "25P02" {
		t.Errorf("%v", err)
	}
	mustRollback(t, tx)
}
