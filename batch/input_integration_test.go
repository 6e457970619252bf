package batch_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/batch"
	"github.com/pgkeel/pgkeel/providers"
)

func stream(queued ...*pgx.QueuedQuery) iter.Seq2[*pgx.QueuedQuery, error] {
	return func(yield func(*pgx.QueuedQuery, error) bool) {
		for _, q := range queued {
			if !yield(q, nil) {
				return
			}
		}
	}
}

func TestBadInputIsRefused(t *testing.T) {
	db := open(t)
	begun := &pgx.Batch{}
	begun.BeginTx(pgx.TxOptions{})
	for name, run := range map[string]func() error{
		"nil batch":     func() error { _, err := batch.Run(t.Context(), db, nil, batch.Options{}); return err },
		"nil handle":    func() error { _, err := batch.Run(t.Context(), nil, inserts(1), batch.Options{}); return err },
		"nil iterator":  func() error { _, err := batch.Stream(t.Context(), db, nil, batch.Options{}); return err },
		"nil handle, 2": func() error { _, err := batch.Stream(t.Context(), nil, stream(), batch.Options{}); return err },
		"BeginTx":       func() error { _, err := batch.Run(t.Context(), db, begun, batch.Options{}); return err },
		"nil statement": func() error {
			_, err := batch.Run(t.Context(), db, &pgx.Batch{QueuedQueries: []*pgx.QueuedQuery{nil}}, batch.Options{})
			return err
		},
		"options":    func() error { _, err := batch.Run(t.Context(), db, inserts(1), batch.Options{Mode: 9}); return err },
		"options, 2": func() error { _, err := batch.Stream(t.Context(), db, stream(), batch.Options{Mode: 9}); return err },
	} {
		if err := run(); err == nil || pgkeel.OutcomeOf(err) != pgkeel.OutcomeNotSent || !strings.HasSuffix(err.Error(), "nothing was sent") || db.Stats().Acquires != 1 { // that of the table's making
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnEmptyBatchNeedsNothing(t *testing.T) {
	db := open(t)
	if err := db.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report, err := batch.Run(t.Context(), db, &pgx.Batch{}, batch.Options{}); err != nil || len(report.States) != 0 {
		t.Error(err)
	}
	report, err := batch.Run(t.Context(), db, inserts(1, 2), batch.Options{})
	if !errors.Is(err, pgkeel.ErrPoolClosed) || states(report) != "nn" || pgkeel.OutcomeOf(err) != pgkeel.OutcomeNotSent {
		t.Errorf("%s %v", states(report), err)
	}
}

func TestABatchMayRunAgain(t *testing.T) {
	db, other := open(t), open(t) // other connections know other statements
	b := inserts(1, 2)
	b.Queue(`select @n::int`, pgx.NamedArgs{"n": 1})
	ran := callbacks(b)
	for _, o := range modes {
		for _, on := range []*pgkeel.DB{db, other} {
			*ran = nil
			mustExec(t, on, `truncate t`)
			if report, err := batch.Run(t.Context(), on, b, o); err != nil || states(report) != "ooo" || !slices.Equal(*ran, []int{0, 1, 2}) {
				t.Errorf("%s: %s %v %v", o.Mode, states(report), *ran, err)
			}
		}
	}
}

func TestADeadContextIsRefused(t *testing.T) {
	places(t, func(t *testing.T, _ *pgkeel.DB, on runner) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		report, err := batch.Run(ctx, on, inserts(1), batch.Options{})
		if !errors.Is(err, context.Canceled) || states(report) != "n" || pgkeel.OutcomeOf(err) != pgkeel.OutcomeNotSent {
			t.Errorf("%s %v", states(report), err)
		}
	})
}

func TestAStreamIsLikeABatch(t *testing.T) {
	for _, o := range modes {
		db := open(t)
		report, err := batch.Stream(t.Context(), db, stream(
			batch.Queue(`insert into t values ($1)`, 1), batch.Queue(`insert into t values ($1)`, 2)), o)
		if err != nil || states(report) != "oo" || report.RowsAffected != 2 {
			t.Errorf("%s: %s %v", o.Mode, states(report), err)
		}
		if report, err := batch.Stream(t.Context(), db, stream(), o); err != nil || len(report.States) != 0 {
			t.Error(err)
		}
	}
}

func TestAStreamThatFailsOrIsNil(t *testing.T) {
	db := open(t)
	broken := errors.New("line 3 is cut")
	_, err := batch.Stream(t.Context(), db, func(yield func(*pgx.QueuedQuery, error) bool) {
		_ = yield(batch.Queue(`insert into t values (1)`), nil) && yield(nil, broken)
	}, batch.Options{})
	var item *batch.ItemError
	if !errors.Is(err, broken) || !errors.As(err, &item) || item.Operation != batch.OpSource || item.Index != 1 {
		t.Error(err)
	}
	if _, err = batch.Stream(t.Context(), db, stream(nil), batch.Options{}); err == nil || !strings.Contains(err.Error(), "batch.Queue") {
		t.Error(err)
	}
	if got := numbers(t, db); len(got) != 0 {
		t.Errorf("left are %v", got)
	}
}

// A stream is not asked for more once the batch has to end, and ends itself.
func TestAStreamIsLeftWhenTheBatchEnds(t *testing.T) {
	db := open(t)
	handed, left := 0, false
	_, err := batch.Stream(t.Context(), db, func(yield func(*pgx.QueuedQuery, error) bool) {
		defer func() { left = true }()
		for yield(batch.Queue(`insert into t values (1)`), nil) {
			handed++
		}
	}, batch.Options{MaxStatements: 4})
	if err == nil || !left || handed > 12 {
		t.Errorf("%d handed out, left %v: %v", handed, left, err)
	}
}

// plain opens pools that cannot run batches.
type plain struct{}

func (plain) Open(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
	pool, err := providers.Open(ctx, "pgx", cfg)
	return struct{ providers.Pool }{pool}, err
}

func TestAProviderThatCannotRunBatches(t *testing.T) {
	const name = "plain"
	if err := providers.Register(name, plain{}); err != nil && !errors.Is(err, providers.ErrDuplicateProvider) {
		t.Fatal(err)
	}
	db := open(t, pgkeel.WithProvider(name))
	report, err := batch.Run(t.Context(), db, inserts(1, 2), batch.Options{})
	if !errors.Is(err, errors.ErrUnsupported) || states(report) != "nn" || pgkeel.OutcomeOf(err) != pgkeel.OutcomeNotSent {
		t.Errorf("%s %v", states(report), err)
	}
}
