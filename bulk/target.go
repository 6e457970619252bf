package bulk

import (
	"context"

	"github.com/pgkeel/pgkeel/providers"
)

// Target is where COPY runs: a *pgkeel.DB, a *pgkeel.Conn or a pgkeel.Tx.
type Target interface {
	providers.Querier
	providers.Copier
	providers.RawCopier
}

// Tx is a transaction that COPY runs in: a pgkeel.Tx.
type Tx interface {
	Target
	Commit(ctx context.Context) error
	Rollback(ctx context.Context) error
}

// Beginner begins transactions: a *pgkeel.DB or a *pgkeel.Conn. Its parameter
// is inferred.
type Beginner[T Tx] interface {
	providers.Querier
	Begin(ctx context.Context, options ...providers.TxOptions) (T, error)
}

// Result is what a COPY came to.
type Result struct {
	// Rows is how many were copied. Rows that WHERE or ON_ERROR left out are
	// not among them.
	Rows int64
	// Bytes is the size of the data, uncompressed; 0 for rows of Go values,
	// which the driver encodes.
	Bytes int64
}
