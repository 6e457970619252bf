package pgkeel_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"
	"go.uber.org/mock/gomock"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/pgx/mocks"
	"github.com/pgkeel/pgkeel/providers/stdsql"
)

// overMock opens the face over a mocked provider, and returns the mock of its pool.
func overMock(t *testing.T, options ...pgkeel.Option) (*pgkeel.DB, *mocks.MockPool) {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	ctrl := gomock.NewController(t)
	provider, pool := mocks.NewMockProvider(ctrl), mocks.NewMockPool(ctrl)
	provider.EXPECT().Open(gomock.Any(), gomock.Any()).Return(pool, nil)
	db, err := pgkeel.Open(t.Context(), "host=none", append(options, pgkeel.WithProvider(register(t, provider)))...)
	if err != nil {
		t.Fatal(err)
	}
	return db, pool
}

// A provider needs no name. Of several choices the last counts.
func TestMockedProviderWithoutAName(t *testing.T) {
	provider := mocks.NewMockProvider(gomock.NewController(t))
	pool := mocks.NewMockPool(gomock.NewController(t))
	provider.EXPECT().Open(gomock.Any(), gomock.Any()).Return(pool, nil)
	pool.EXPECT().Ping(gomock.Any()).Return(nil)
	db, err := pgkeel.Open(t.Context(), "host=none", pgkeel.WithProvider("no such provider"), pgkeel.WithOpener(provider))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	_, err = pgkeel.Open(t.Context(), "host=none", pgkeel.WithOpener(provider), pgkeel.WithProvider("no such provider"))
	if !errors.Is(err, pgkeel.ErrUnknownProvider) {
		t.Errorf("%v", err)
	}
	var bad *pgkeel.ConfigError
	if _, err := pgkeel.Open(t.Context(), "host=none", pgkeel.WithOpener(nil)); !errors.As(err, &bad) {
		t.Errorf("%v", err)
	}
	var nobody *stdsql.Provider
	if _, err := pgkeel.Open(t.Context(), "host=none", pgkeel.WithOpener(nobody)); !errors.Is(err, providers.ErrInvalidProvider) {
		t.Errorf("%v", err)
	}
}

// A provider that opens nothing, and says nothing, is found at Open.
func TestProviderThatOpensNothing(t *testing.T) {
	provider := mocks.NewMockProvider(gomock.NewController(t))
	provider.EXPECT().Open(gomock.Any(), gomock.Any()).Return(nil, nil).Times(2)
	for _, option := range []pgkeel.Option{pgkeel.WithOpener(provider), pgkeel.WithProvider(register(t, provider))} {
		if db, err := pgkeel.Open(t.Context(), "host=none", option); !errors.Is(err, providers.ErrInvalidProvider) || db != nil {
			t.Errorf("%v, %v", db, err)
		}
	}
}

func failed(err error) (pgx.Rows, pgx.Row) {
	results := pgx.FailedBatchResults(&pgx.Batch{}, err)
	rows, _ := results.Query()
	return rows, results.QueryRow()
}

// Nothing enabled costs nothing: a call goes straight to the provider's own
// method. The mock fails the test on any call that it does not expect, such as
// one of Run.
func TestMockedPoolWithoutLayers(t *testing.T) {
	db, pool := overMock(t)
	lost := errors.New("lost")
	rows, row := failed(lost)
	pool.EXPECT().Exec(gomock.Any(), "select 1", 7).Return(pgconn.NewCommandTag("SELECT 1"), nil)
	pool.EXPECT().Query(gomock.Any(), "select 2").Return(rows, lost)
	pool.EXPECT().QueryRow(gomock.Any(), "select 3").Return(row)
	if tag, err := db.Exec(t.Context(), "select 1", 7); err != nil || tag.String() != "SELECT 1" {
		t.Errorf("%s, %v", tag, err)
	}
	if got, err := db.Query(t.Context(), "select 2"); got != rows || !errors.Is(err, lost) {
		t.Errorf("%v, %v", got, err)
	}
	if err := db.QueryRow(t.Context(), "select 3").Scan(new(int)); !errors.Is(err, lost) {
		t.Error(err)
	}
}

// With a layer everything goes through Run, and a call that was refused there
// still answers with rows that can be closed, and a row that can be scanned.
func TestMockedPoolWithALayer(t *testing.T) {
	db, pool := overMock(t, pgkeel.WithDeadlinePropagation())
	pool.EXPECT().Run(gomock.Any(), gomock.Any()).Return(providers.ErrPoolClosed).Times(3)
	rows, err := db.Query(t.Context(), "select 1")
	if !errors.Is(err, pgkeel.ErrPoolClosed) {
		t.Fatal(err)
	}
	rows.Close()
	if rows.Next() || !errors.Is(rows.Err(), pgkeel.ErrPoolClosed) {
		t.Errorf("%v", rows.Err())
	}
	if err := db.QueryRow(t.Context(), "select 1").Scan(new(int)); !errors.Is(err, pgkeel.ErrPoolClosed) {
		t.Error(err)
	}
	_, err = db.Exec(t.Context(), "select 1")
	if !errors.Is(err, pgkeel.ErrPoolClosed) || pgkeel.OutcomeOf(err) != pgkeel.OutcomeNotSent {
		t.Error(err)
	}
}

// An error of the commit says what became of the transaction, and only one that
// is known to be undone is tried again.
func TestMockedTransactionIsRetriedOnlyWhenUndone(t *testing.T) {
	conflict := providers.NewPGError(&pgconn.PgError{Severity: "ERROR", Code: "40001"})
	for name, tc := range map[string]struct {
		commit   error
		want     pgkeel.Outcome
		attempts int
	}{
		"conflict": {&providers.TxError{Result: providers.OutcomeRolledBack, Operation: "commit", Err: conflict}, pgkeel.OutcomeRolledBack, 2},
		"unknown":  {&providers.TxError{Result: providers.OutcomeUnknown, Operation: "commit", Err: conflict}, pgkeel.OutcomeUnknown, 1},
	} {
		t.Run(name, func(t *testing.T) {
			db, pool := overMock(t)
			tx := mocks.NewMockTx(gomock.NewController(t))
			pool.EXPECT().Begin(gomock.Any(), gomock.Any()).Return(tx, nil).Times(tc.attempts)
			tx.EXPECT().Commit(gomock.Any()).Return(tc.commit).Times(tc.attempts)
			err := db.RunTx(t.Context(), func(context.Context, pgkeel.Tx) error { return nil }, pgkeel.TxOptions{MaxAttempts: 2})
			var got *pgkeel.TxError
			if !errors.As(err, &got) || got.Result != tc.want || got.Attempts != tc.attempts {
				t.Errorf("%+v", got)
			}
		})
	}
}
