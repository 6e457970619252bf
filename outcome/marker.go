package outcome

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// insertSQL leaves the marker. The lock tells which session the transaction is in:
// that of a transaction in progress is the only thing that others can see of it.
const insertSQL = `insert into public.pgkeel_markers (key) ` +
	`select $1::uuid from pg_advisory_xact_lock_shared($2::bigint)`

// Markers are those of a pool's transactions. The zero value is not ready for use.
type Markers struct {
	pool   providers.Pool
	logger *slog.Logger

	// life ends with Stop; background is what Wait waits for.
	life       context.Context //nolint:containedctx // the markers' own life
	end        context.CancelFunc
	background sync.WaitGroup

	mu sync.Mutex
	// due is when the table is swept next; zero until it is used.
	due               time.Time
	sweeping, stopped bool
}

// New returns the markers of a pool's transactions. The logger hears of sweeps
// that failed; nil is slog.Default.
func New(pool providers.Pool, logger *slog.Logger) *Markers {
	if logger == nil {
		logger = slog.Default()
	}
	m := &Markers{pool: pool, logger: logger}
	m.life, m.end = context.WithCancel(context.Background())
	return m
}

// Marker is what one transaction leaves behind. It is for one transaction: one
// that is run again needs another.
type Marker struct {
	of    *Markers
	key   key
	began time.Time
}

// New returns a marker for a transaction.
func (m *Markers) New() *Marker { return &Marker{of: m, key: newKey(), began: time.Now()} }

// Begin starts the marker's transaction, of which the marker is a part. Where the
// pool can, it leaves in the flush of the BEGIN. The table is made if it is
// missing. A transaction with an error has not begun.
func (k *Marker) Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	opts.ExactlyOnce = false // that is done here
	tx, err := k.begin(ctx, opts)
	if hasCode(err, codeUndefinedTable) {
		if err := k.of.create(ctx); err != nil {
			return nil, err
		}
		tx, err = k.begin(ctx, opts)
	}
	if err != nil {
		return nil, explain(err)
	}
	return tx, nil
}

func (k *Marker) begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	first := providers.Statement{SQL: insertSQL, Args: []any{k.key.String(), k.key.lock()}}
	if starter, ok := k.of.pool.(providers.Starter); ok {
		tx, err := starter.BeginWith(ctx, opts, first)
		if !errors.Is(err, errors.ErrUnsupported) { // by what the pool stands on
			return tx, err
		}
	}
	tx, err := k.of.pool.Begin(ctx, opts)
	if err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, first.SQL, first.Args...); err != nil {
		_ = tx.Rollback(ctx) // at the worst the connection is closed, which rolls back
		return nil, &providers.TxError{Result: providers.OutcomeNotSent, Operation: "begin", Attempts: 1, Err: err}
	}
	return tx, nil
}
