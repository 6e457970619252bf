package pgkeel_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
)

// beginner is a DB or a Conn.
type beginner interface {
	pgkeel.Querier
	Begin(ctx context.Context, options ...pgkeel.TxOptions) (pgkeel.Tx, error)
}

// onBeginners runs a test on a DB and a Conn with a table t.
func onBeginners(t *testing.T, test func(t *testing.T, on beginner)) {
	t.Helper()
	t.Run("db", func(t *testing.T) { test(t, openTable(t, one())) })
	t.Run("conn", func(t *testing.T) {
		conn := acquire(t, openTable(t, one()))
		defer conn.Release()
		test(t, conn)
	})
}

func mustBegin(t testing.TB, on beginner, options ...pgkeel.TxOptions) pgkeel.Tx {
	t.Helper()
	tx, err := on.Begin(t.Context(), options...)
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func TestTransactionsByHand(t *testing.T) {
	onBeginners(t, func(t *testing.T, on beginner) {
		tx := mustBegin(t, on)
		mustExec(t, tx, "insert into t values (1)")
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		isOver(t, tx)
		mustHave(t, on, 1)

		tx = mustBegin(t, on, pgkeel.TxOptions{Isolation: pgkeel.Serializable})
		if level := value[string](t, tx, "show transaction_isolation"); level != "serializable" {
			t.Error(level)
		}
		mustExec(t, tx, "insert into t values (2)")
		dead, cancel := context.WithCancel(t.Context())
		cancel()
		if err := tx.Rollback(dead); err != nil {
			t.Fatal(err)
		}
		isOver(t, tx)
		mustHave(t, on, 1)
	})
}

// isOver fails unless a transaction that has ended refuses everything.
func isOver(t *testing.T, tx pgkeel.Tx) {
	t.Helper()
	ctx := t.Context()
	_, queried := tx.Query(ctx, "select 1")
	_, executed := tx.Exec(ctx, "select 1")
	_, savepoint := tx.Savepoint(ctx, "")
	_, copied := tx.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows(nil))
	batch := &pgx.Batch{}
	batch.Queue("select 1")
	for name, err := range map[string]error{
		"Query": queried, "Exec": executed, "QueryRow": tx.QueryRow(ctx, "select 1").Scan(new(int)),
		"Savepoint": savepoint, "CopyFrom": copied, "SendBatch": tx.SendBatch(ctx, batch).Close(),
		"Commit": tx.Commit(ctx), "Rollback": tx.Rollback(ctx), "RunTx": tx.RunTx(ctx, nop),
	} {
		if !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
}

func TestSavepointsByHand(t *testing.T) {
	onBeginners(t, func(t *testing.T, on beginner) {
		tx := mustBegin(t, on)
		for n, end := range []func(pgkeel.Tx) error{
			func(sp pgkeel.Tx) error { return sp.Commit(t.Context()) },
			func(sp pgkeel.Tx) error { return sp.Rollback(t.Context()) },
		} {
			sp, err := tx.Savepoint(t.Context(), "same")
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, sp, "insert into t values ($1)", n)
			if err := end(sp); err != nil {
				t.Fatal(err)
			}
			if err := sp.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
				t.Error(err)
			}
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Error(err)
		}
		mustHave(t, on, 0)
	})
}

func TestBeginIsRefused(t *testing.T) {
	onBeginners(t, func(t *testing.T, on beginner) {
		for name, tc := range map[string]struct {
			options []pgkeel.TxOptions
			fields  []string
		}{
			"twice": {[]pgkeel.TxOptions{{}, {}}, []string{"TxOptions", "more than once"}},
			"faults": {
				[]pgkeel.TxOptions{{Isolation: "chaos", Access: "none", Deferrable: true, Timeout: -1, MaxAttempts: -1, RetryBudget: -1}},
				[]string{"Isolation", "Access", "Deferrable", "Timeout", "MaxAttempts", "RetryBudget"},
			},
		} {
			_, err := on.Begin(t.Context(), tc.options...)
			mustSay(t, err, nil, tc.fields...)
			mustBe(t, err, pgkeel.OutcomeNotSent)
			if as[*pgkeel.ConfigError](t, err).Field == "" {
				t.Errorf("%s: no field", name)
			}
		}
		dead, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := on.Begin(dead)
		mustSay(t, err, context.Canceled)
		mustBe(t, err, pgkeel.OutcomeNotSent)
	})
}

func TestTransactionTimeoutByHand(t *testing.T) {
	onBeginners(t, func(t *testing.T, on beginner) {
		tx := mustBegin(t, on, pgkeel.TxOptions{Timeout: 2 * time.Second}) // time to begin
		_, err := tx.Exec(t.Context(), "insert into t select 1 from pg_sleep(60)")
		mustSay(t, err, context.DeadlineExceeded, "transaction timeout")
		err = tx.Commit(t.Context())
		mustSay(t, err, nil, "transaction timeout")
		mustBe(t, err, pgkeel.OutcomeRolledBack)
		if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("a deferred rollback: %v", err)
		}
		mustHave(t, on)
	})
}

func TestConcurrentUseIsRefused(t *testing.T) {
	onBeginners(t, func(t *testing.T, on beginner) {
		tx := mustBegin(t, on)
		defer func() { _ = tx.Rollback(t.Context()) }()
		rows, err := tx.Query(t.Context(), "select 1")
		if err != nil {
			t.Fatal(err)
		}
		_, err = tx.Exec(t.Context(), "insert into t values (1)")
		mustSay(t, err, pgkeel.ErrConcurrentUse)
		mustBe(t, err, pgkeel.OutcomeNotSent)
		rows.Close()
		mustExec(t, tx, "insert into t values (2)")
		mustHave(t, tx, 2)
	})
}

// What takes a pgx.Tx takes what Unwrap returns, and shares the transaction.
func TestUnwrappedTransaction(t *testing.T) {
	onBeginners(t, func(t *testing.T, on beginner) {
		tx := mustBegin(t, on)
		native := tx.Unwrap()
		err := pgx.BeginFunc(t.Context(), native, func(inner pgx.Tx) error { // as river does
			_, err := inner.Exec(t.Context(), "insert into t values (1)")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		mustHave(t, tx, 1)
		if err := native.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		isOver(t, tx)
		mustHave(t, on)
	})
}
