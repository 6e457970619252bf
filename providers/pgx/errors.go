package pgx

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// The names of limits, as errors print them.
const (
	limitContext   = "context deadline"
	limitCanceled  = "context cancelled"
	limitAcquire   = "acquire timeout"
	limitTx        = "transaction timeout"
	limitStatement = "statement_timeout"
)

var (
	errPoolClosed     = providers.ErrPoolClosed
	errAcquireTimeout = errors.New("acquire timeout")
	errTxTimeout      = errors.New("transaction timeout")
	errScannedTwice   = errors.New("pgkeel: the row was scanned already")
)

// dialResult is how the last attempt to connect ended.
type dialResult struct {
	err  error
	took time.Duration
}

// dialed counts an attempt to connect and returns its error without secrets.
func (p *Pool) dialed(err error, took time.Duration) error {
	if err == nil {
		p.gauges.connects.Add(1)
		p.lastDial.Store(&dialResult{took: took})
		return nil
	}
	err = p.redact(err)
	p.gauges.connectErrors.Add(1)
	p.lastDial.Store(&dialResult{err: err, took: took})
	return err
}

func (p *Pool) lastDialError() error {
	if d := p.lastDial.Load(); d != nil {
		return d.err
	}
	return nil
}

// connectFailure replaces pgconn.ConnectError, whose Config carries the
// password.
type connectFailure struct {
	text  string
	cause error
}

func (e *connectFailure) Error() string { return e.text }
func (e *connectFailure) Unwrap() error { return e.cause }

func (p *Pool) redact(err error) error {
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return err
	}
	cause := connect.Unwrap()
	if pg := providers.NewPGError(cause); pg != nil {
		cause = pg
	}
	return &connectFailure{text: providers.Redact(err.Error(), p.cfg.DSN), cause: cause}
}

// acquireError makes the error of an acquire say what it was.
func (p *Pool) acquireError(ctx context.Context, err error) error {
	var connect *pgconn.ConnectError
	var known interface{ Outcome() providers.Outcome }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known), errors.Is(err, providers.ErrNestedAcquire), errors.Is(err, providers.ErrPoolClosed):
		return err
	case p.closing.Load():
		return errPoolClosed
	case errors.As(err, &connect):
		var took time.Duration
		if d := p.lastDial.Load(); d != nil {
			took = d.took
		}
		return &providers.UnreachableError{Waited: took, Err: p.redact(err)}
	case ctx.Err() != nil:
		// The context had ended before the pool was asked.
		return &notSentError{&providers.TimeoutError{Operation: "acquire", Limit: limitOf(ctx), Err: err, Context: ctx.Err()}}
	default:
		// A new connection that AfterConnect or a warm-up query failed.
		return &providers.UnreachableError{Err: wrapPG(err)}
	}
}

// notSentError adds that nothing was sent.
type notSentError struct{ error }

func (e *notSentError) Unwrap() error              { return e.error }
func (e *notSentError) Outcome() providers.Outcome { return providers.OutcomeNotSent }
func (e *notSentError) Error() string              { return e.error.Error() + "; nothing was sent" }

// mapError makes the error of a statement say what happened: the server's
// errors become a PGError, an ended context a TimeoutError that names the limit
// and matches both the context's error and the server's.
func (p *Pool) mapError(ctx context.Context, op string, err error) error {
	if err == nil || errors.Is(err, pgx.ErrNoRows) || errors.Is(err, pgx.ErrTooManyRows) || errors.Is(err, pgx.ErrTxClosed) {
		return err
	}
	var timeout *providers.TimeoutError
	if errors.As(err, &timeout) {
		return err // mapped already
	}
	mapped := wrapPG(err)
	pg := providers.NewPGError(err)
	switch {
	case ctx.Err() != nil && (pg == nil || pg.IsQueryCanceled()):
		return &providers.TimeoutError{Operation: op, Limit: limitOf(ctx), Err: mapped, Context: ctx.Err()}
	case pg != nil && pg.IsQueryCanceled() && strings.Contains(pg.Message, "statement timeout"):
		return &providers.TimeoutError{Operation: op, Limit: limitStatement, Err: mapped, Context: context.DeadlineExceeded}
	case errors.Is(err, context.DeadlineExceeded):
		// The driver's timer fired a moment before the context's own.
		return &providers.TimeoutError{Operation: op, Limit: limitContext, Err: mapped, Context: context.DeadlineExceeded}
	default:
		return mapped
	}
}

// wrapPG turns the server's errors into a PGError and leaves others alone.
func wrapPG(err error) error {
	var already *providers.PGError
	if errors.As(err, &already) {
		return err
	}
	if pg := providers.NewPGError(err); pg != nil {
		return pg
	}
	return err
}

// limitOf names what ended the context.
func limitOf(ctx context.Context) string {
	switch {
	case errors.Is(context.Cause(ctx), errTxTimeout):
		return limitTx
	case errors.Is(ctx.Err(), context.Canceled):
		return limitCanceled
	default:
		return limitContext
	}
}

// isStalePlan reports that a cached statement no longer fits the schema. The
// server finds out before it runs anything, so running it again is safe.
func isStalePlan(err error) bool {
	pg := providers.NewPGError(err)
	return pg != nil && pg.IsStalePlan()
}

func itoa(n int) string { return strconv.Itoa(n) }

func panicError(r any) error { return fmt.Errorf("pgkeel: panic of type %T", r) }
