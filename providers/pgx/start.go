package pgx

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

var _ providers.Starter = (*Pool)(nil)

var errEndsItself = &notSentError{errors.New("pgkeel: a transaction cannot begin with a statement that begins or ends one")}

// BeginWith starts a transaction on a connection of its own and runs its first
// statement, in one flush with the settings of its scope. If the statement fails,
// nothing of the transaction is left, and the error is a [*providers.TxError]. The
// time of TxOptions.Timeout counts from here.
func (p *Pool) BeginWith(ctx context.Context, opts providers.TxOptions, first providers.Statement) (providers.Tx, error) {
	if err := p.canBeginWith(opts, first); err != nil {
		return nil, err
	}
	scope, err := p.confined(ctx)
	if err != nil {
		return nil, err
	}
	l, err := p.borrow(ctx, opTx, scope.Gate)
	if err != nil {
		return nil, err
	}
	t, err := p.startOn(ctx, l, opts, scope.Settings, first)
	if err != nil {
		return nil, err // not a nil *Tx
	}
	return t, nil
}

// canBeginWith refuses what would not be the first statement of the transaction.
func (p *Pool) canBeginWith(opts providers.TxOptions, first providers.Statement) error {
	if err := opts.Validate(); err != nil {
		return err
	}
	if p.endsScope(first.SQL) {
		return errEndsItself
	}
	if p.classifier.classify(first.SQL)&sqltext.CopiesIn != 0 {
		return &notSentError{errCopyIn}
	}
	if err := scopable(first.Args); err != nil {
		return fmt.Errorf("pgkeel: the first statement of a transaction: %w", err)
	}
	return nil
}

// startOn begins the transaction on a connection, which goes back if that fails.
func (p *Pool) startOn(ctx context.Context, l lease, opts providers.TxOptions, scope []providers.Setting, first providers.Statement) (t *Tx, err error) {
	begin := time.Now()
	returned := false
	defer func() {
		if !returned { // an argument panicked
			l.release()
		}
	}()
	limited := ctx
	if opts.Timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeoutCause(ctx, opts.Timeout, errTxTimeout)
		defer cancel()
		opts.Timeout = max(opts.Timeout-time.Since(begin), 1)
	}
	if changesMeaning(scope, nil) {
		t, err = p.startApart(limited, l, opts, scope, first)
	} else {
		t, err = p.beginOn(limited, l, nil, opts, scope, &first)
	}
	returned = true
	return t, err
}

// startApart is for a scope that decides what the names in the statement mean. The
// driver prepares it ahead of the flush with the settings.
func (p *Pool) startApart(ctx context.Context, l lease, opts providers.TxOptions, scope []providers.Setting, first providers.Statement) (*Tx, error) {
	t, err := p.beginOn(ctx, l, nil, opts, scope, nil)
	if err != nil {
		return nil, err
	}
	if _, err := t.Exec(ctx, first.SQL, first.Args...); err != nil {
		_ = t.Rollback(ctx) // at the worst the connection is closed, which rolls back
		return nil, failedStart(err)
	}
	return t, nil
}

// failedStart is the error of a transaction whose first statement failed.
func failedStart(err error) error {
	result := providers.OutcomeRolledBack // nobody sent COMMIT
	if providers.OutcomeOf(err) == providers.OutcomeNotSent {
		result = providers.OutcomeNotSent
	}
	return &providers.TxError{Result: result, Operation: "begin", Attempts: 1, Err: err}
}

// sqlOf is the text of a statement, if there is one.
func sqlOf(first *providers.Statement) string {
	if first == nil {
		return ""
	}
	return first.SQL
}

// sendBegin begins a transaction, makes the settings of its scope and runs its
// first statement, if there is one, in one flush.
func (p *Pool) sendBegin(ctx context.Context, s *session, opts pgx.TxOptions, scope []providers.Setting, first *providers.Statement) (pgx.Tx, error) {
	b := &pgx.Batch{}
	b.BeginTx(opts)
	if len(scope) > 0 {
		sql, args := settingsSQL(scope, nil)
		b.Queue(sql, args...)
	}
	if first != nil {
		b.Queue(first.SQL, first.Args...)
	}
	before := s.dirt
	results := s.conn.SendBatch(ctx, b)
	s.dirt = before // the settings end with the transaction
	if first != nil {
		s.soil(first.SQL)
	}
	tx := results.Tx()
	err := results.Close()
	if err == nil {
		return tx, nil
	}
	if s.conn.PgConn().TxStatus() != 'I' {
		undo, cancel := detached(ctx)
		defer cancel()
		if tx == nil || tx.Rollback(undo) != nil {
			_ = s.conn.Close(ended()) // rolls back as well
		}
	}
	return nil, err
}
