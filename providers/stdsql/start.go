package stdsql

import (
	"context"
	"errors"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

var _ providers.Starter = (*Pool)(nil)

var errEndsItself = errors.New("pgkeel: a transaction cannot begin with a statement that begins or ends one")

// BeginWith starts a transaction on a connection of its own and runs its first
// statement, in a round trip each. If the statement fails, the transaction is
// rolled back, and the error is a [*providers.TxError].
func (p *Pool) BeginWith(ctx context.Context, opts providers.TxOptions, first providers.Statement) (providers.Tx, error) {
	if sqltext.Classify(first.SQL).ControlTx() {
		return nil, refused(errEndsItself)
	}
	tx, err := p.Begin(ctx, opts)
	if err != nil {
		return nil, err
	}
	begun := false
	defer func() {
		if !begun { // it failed, or an argument panicked
			_ = tx.Rollback(ctx) // at the worst the connection is closed, which rolls back
		}
	}()
	if _, err := tx.Exec(ctx, first.SQL, first.Args...); err != nil {
		result := providers.OutcomeRolledBack // nobody sent COMMIT
		if providers.OutcomeOf(err) == providers.OutcomeNotSent {
			result = providers.OutcomeNotSent
		}
		return nil, &providers.TxError{Result: result, Operation: "begin", Attempts: 1, Err: err}
	}
	begun = true
	return tx, nil
}
