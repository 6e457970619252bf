package pgkeel_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
)

// savepoints notes what happens to savepoints.
func savepoints(seen *journal) pgkeel.Option {
	return pgkeel.WithHooks(pgkeel.Hook{
		Name: "savepoints", Events: []pgkeel.HookEvent{pgkeel.EventSavepoint},
		After: func(_ context.Context, info *pgkeel.HookInfo) { seen.note(info.SQL) },
	})
}

func TestNestedRunTx(t *testing.T) {
	var seen journal
	db := openTable(t, one(), savepoints(&seen))
	err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
		first := insert(ctx, tx, 1)
		kept := tx.RunSavepoint(ctx, `my "own"`, func(ctx context.Context, tx pgkeel.Tx) error {
			return errors.Join(insert(ctx, tx, 2), tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
				return insert(ctx, tx, 3)
			}))
		})
		undone := tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			return errors.Join(insert(ctx, tx, 4), errMine)
		})
		if !errors.Is(undone, errMine) {
			t.Errorf("not what the function returned: %v", undone)
		}
		failed := tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			_, err := tx.Exec(ctx, "select 1/0")
			return err
		})
		mustSay(t, failed, nil, "division by zero")
		return errors.Join(first, kept)
	})
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, db, 1, 2, 3)
	log := seen.String()
	for _, sql := range []string{`savepoint "my ""own"""`, `release savepoint "my ""own"""`} {
		if !strings.Contains(log, sql) {
			t.Errorf("no %s in:\n%s", sql, log)
		}
	}
	if begun, ended := strings.Count(log, "\nsavepoint")+1, strings.Count(log, "release"); begun != 4 || ended != 4 {
		t.Errorf("%d begun and %d released:\n%s", begun, ended, log)
	}
}

func TestNestedRunTxFails(t *testing.T) {
	db := openTable(t, one())
	var open pgx.Rows
	for name, tc := range map[string]struct {
		nested func(ctx context.Context, tx pgkeel.Tx) error
		is     error
		text   string
	}{
		"nil": {func(ctx context.Context, tx pgkeel.Tx) error { return tx.RunTx(ctx, nil) }, nil, "function is nil; nothing was sent"},
		"a name too long": {func(ctx context.Context, tx pgkeel.Tx) error {
			return tx.RunSavepoint(ctx, strings.Repeat("n", 64), nop)
		}, nil, "at most 63"},
		"in use": {func(ctx context.Context, tx pgkeel.Tx) error {
			rows, err := tx.Query(ctx, "select 1")
			if err != nil {
				return err
			}
			defer rows.Close()
			return tx.RunTx(ctx, nop)
		}, pgkeel.ErrConcurrentUse, ""},
		"a failed statement that is passed over": {func(ctx context.Context, tx pgkeel.Tx) error {
			return tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
				_, _ = tx.Exec(ctx, "select 1/0")
				return nil
			})
		}, pgx.ErrTxCommitRollback, "release failed"},
	} {
		t.Run(name, func(t *testing.T) {
			mustExec(t, db, "truncate t")
			err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
				first := insert(ctx, tx, 1)
				mustSay(t, tc.nested(ctx, tx), tc.is, tc.text)
				return errors.Join(first, insert(ctx, tx, 2)) // all is well outside of it
			})
			if err != nil {
				t.Error(err)
			}
			mustHave(t, db, 1, 2)
		})
	}

	// What cannot be undone must not be committed with the rest.
	for name, end := range map[string]error{"with an error": errMine, "without": nil} {
		t.Run("poisoned "+name, func(t *testing.T) {
			mustExec(t, db, "truncate t")
			err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
				err := tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) (err error) {
					first := insert(ctx, tx, 1)
					open, err = tx.Query(ctx, "select n from generate_series(1, 9) n")
					return errors.Join(first, err, end)
				})
				mustSay(t, err, pgkeel.ErrConcurrentUse)
				open.Close()
				return nil
			})
			mustSay(t, err, pgkeel.ErrTxPoisoned)
			mustBe(t, err, pgkeel.OutcomeRolledBack)
			mustHave(t, db)
		})
	}
}

func nop(context.Context, pgkeel.Tx) error { return nil }

// The one who began a transaction ends it.
func TestManagedTransactions(t *testing.T) {
	db := openTable(t, one())
	refuses := func(ctx context.Context, tx pgkeel.Tx) {
		for _, err := range []error{tx.Commit(ctx), tx.Rollback(ctx)} {
			mustSay(t, err, nil, "RunTx ends this transaction itself", "nothing was sent")
			mustBe(t, err, pgkeel.OutcomeNotSent)
		}
	}
	err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
		refuses(ctx, tx)
		nested := tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			refuses(ctx, tx)
			return insert(ctx, tx, 1)
		})
		byHand, err := tx.Savepoint(ctx, "by_hand")
		if err != nil {
			return err
		}
		return errors.Join(nested, insert(ctx, byHand, 2), byHand.Rollback(ctx))
	})
	if err != nil {
		t.Error(err)
	}
	mustHave(t, db, 1)
}
