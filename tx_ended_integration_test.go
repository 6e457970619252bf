package pgkeel_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel"
)

// TestRunTxEndedByAStatement has the closure end the transaction by itself:
// nobody can say how, so the outcome is unknown and nothing is run again.
func TestRunTxEndedByAStatement(t *testing.T) {
	conflict := &pgconn.PgError{Code: "40001", Severity: "ERROR"}
	for name, tc := range map[string]struct {
		end    func(ctx context.Context, tx pgkeel.Tx) error
		result error
		rows   int
	}{
		"rollback, and success":        {byStatement("rollback"), nil, 0},
		"commit, and success":          {byStatement("commit"), nil, 1},
		"commit, and an error":         {byStatement("commit"), errors.New("mine"), 1},
		"pgx's commit, and an error":   {byUnwrap, errors.New("mine"), 1},
		"pgx's commit, and a conflict": {byUnwrap, conflict, 1},
	} {
		t.Run(name, func(t *testing.T) {
			db := openDB(t)
			mustExec(t, db, `create table t (n int)`)
			err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
				mustExec(t, tx, `insert into t values (1)`)
				if err := tc.end(ctx, tx); err != nil {
					t.Error(err)
				}
				return tc.result
			})
			if err == nil || pgkeel.OutcomeOf(err) != pgkeel.OutcomeUnknown || tc.result != nil && !errors.Is(err, tc.result) {
				t.Errorf("RunTx says %v (%v)", err, pgkeel.OutcomeOf(err))
			}
			if n := value[int](t, db, `select count(*)::int from t`); n != tc.rows {
				t.Errorf("%d rows, want %d", n, tc.rows)
			}
		})
	}
}

func byStatement(sql string) func(context.Context, pgkeel.Tx) error {
	return func(ctx context.Context, tx pgkeel.Tx) error {
		_, err := tx.Exec(ctx, sql)
		return err
	}
}

func byUnwrap(ctx context.Context, tx pgkeel.Tx) error { return tx.Unwrap().Commit(ctx) }

func TestWhatCannotWorkIsRefused(t *testing.T) {
	db := openDB(t)
	mustExec(t, db, `create table t (n int)`)
	_, err := db.Exec(t.Context(), "copy t from stdin")
	mustSay(t, err, nil, "bulk", "nothing was sent")
	mustBe(t, err, pgkeel.OutcomeNotSent)
	_, err = db.Exec(t.Context(), "select $1::int", 1, 2)
	mustBe(t, err, pgkeel.OutcomeNotSent)
	_, err = db.Exec(t.Context(), "select $1::text::int", "s3cret value")
	mustSay(t, err, nil, "22P02")
	if pg := as[*pgkeel.PGError](t, err); strings.Contains(err.Error(), "s3cret") || !strings.Contains(pg.Message, "s3cret") {
		t.Errorf("the value belongs into the field, not into the text: %v", err)
	}
	_, err = pgkeel.Open(t.Context(), db.Unwrap().Config().ConnString(),
		pgkeel.WithPool(pgkeel.PoolStrategy{InitialSize: 1, WarmupQueries: []string{"begin"}}))
	mustSay(t, err, nil, "transaction open")
}
