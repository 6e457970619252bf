package stdsql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// The names of limits, as errors print them.
const (
	limitContext  = "context deadline"
	limitCanceled = "context cancelled"
	limitAcquire  = "acquire timeout"
	limitTx       = "transaction timeout"
)

var (
	errAcquireTimeout = errors.New("acquire timeout")
	errTxTimeout      = errors.New("transaction timeout")
	errTaken          = errors.New("pgkeel: the connection was taken from its borrower")
	errScannedTwice   = errors.New("pgkeel: the row was scanned already")
	errNoRow          = errors.New("pgkeel: there is no current row: call Next first, and Scan before Close")
	errNUL            = errors.New("pgkeel: the statement contains a NUL byte")
	errCopyIn         = errors.New("pgkeel: COPY … FROM STDIN has no data here, and database/sql no way to hand them over; use the pgx provider with package bulk")
	errSQLTx          = errors.New("pgkeel: a transaction was begun in SQL on this connection: use Begin, " +
		"as nobody else knows when it ends")
	errInTx = errors.New("pgkeel: the connection has a transaction open; use that, or a savepoint of it")
)

// outcomeError adds what happened to the work.
type outcomeError struct {
	error
	outcome providers.Outcome
}

func (e *outcomeError) Unwrap() error              { return e.error }
func (e *outcomeError) Outcome() providers.Outcome { return e.outcome }
func (e *outcomeError) Error() string {
	switch e.outcome {
	case providers.OutcomeNotSent:
		return e.error.Error() + "; nothing was sent"
	case providers.OutcomeRolledBack:
		return e.error.Error() + "; it was rolled back"
	default:
		return e.error.Error() + "; it may have been sent"
	}
}

// refused is an error of what was not sent.
func refused(err error) error { return &outcomeError{err, providers.OutcomeNotSent} }

// errConnLost refuses a statement on a connection that is known to be lost.
var errConnLost = refused(fmt.Errorf("pgkeel: the connection was lost earlier: %w", driver.ErrBadConn))

// notSent is what a context that had ended before prevented.
func notSent(ctx context.Context, op string, err error) error {
	return &providers.TimeoutError{Operation: op, Limit: limitOf(ctx), Err: refused(err), Context: ctx.Err()}
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

// fault makes the error of a statement say what happened, and notes what it
// means for the connection.
func (l *lease) fault(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	var already *providers.TimeoutError
	if errors.As(err, &already) || errors.Is(err, pgx.ErrTxClosed) {
		return err
	}
	l.examine(err)
	pg := pgError(err)
	mapped := l.unsure(err, pg)
	if limit := serverLimit(pg); limit != "" {
		return &providers.TimeoutError{Operation: op, Limit: limit, Err: mapped, Context: context.DeadlineExceeded}
	}
	if ended := ctx.Err(); ended != nil && causedBy(ended, err, pg) {
		return &providers.TimeoutError{Operation: op, Limit: limitOf(ctx), Err: mapped, Context: ended}
	}
	return mapped
}

// unsure sees to it that nobody takes an error for more than it tells. Drivers
// say that a connection is bad, or that it is safe to try again, also when they
// lost it while they waited for the server's answer.
func (l *lease) unsure(err error, pg *providers.PGError) error {
	switch {
	case pg != nil:
		return pg
	case errors.Is(err, sql.ErrConnDone):
		return errConnLost // database/sql itself refuses to use it
	case l.isOver():
		return &outcomeError{errors.Join(errTaken, err), providers.OutcomeUnknown}
	case isArgument(err):
		return withoutArguments(err)
	case wrongCount.MatchString(err.Error()):
		return refused(fmt.Errorf("pgkeel: %w", err))
	case errors.Is(err, driver.ErrBadConn), pgconn.SafeToRetry(err), isTimeout(err):
		return &outcomeError{err, providers.OutcomeUnknown}
	default:
		return err
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// causedBy reports whether the end of the context is what the error is about. A
// value that cannot be scanned is not, even if the context has ended since.
func causedBy(ended, err error, pg *providers.PGError) bool {
	if pg != nil {
		return pg.IsQueryCanceled()
	}
	return errors.Is(err, ended) || isTimeout(err) || errors.Is(err, driver.ErrBadConn)
}

// serverLimit names the limit of the server's that fired, or returns nothing.
// Where the code alone does not tell, the message does, in English: in another
// language the error stays a PGError.
func serverLimit(pg *providers.PGError) string {
	switch {
	case pg == nil:
		return ""
	case pg.IsQueryCanceled() && strings.Contains(pg.Message, "statement timeout"):
		return "statement_timeout"
	case pg.Code == "55P03" && strings.Contains(pg.Message, "lock timeout"): // else it is NOWAIT
		return "lock_timeout"
	case pg.Code == "25P03":
		return "idle_in_transaction_session_timeout"
	case pg.Code == "25P04":
		return "transaction_timeout"
	case pg.Code == "57P05":
		return "idle_session_timeout"
	default:
		return ""
	}
}

// codeFailedTx is the SQLSTATE of a statement in a transaction that has failed.
const codeFailedTx = "25P02"

func hasCode(err error, code string) bool {
	pg := pgError(err)
	return pg != nil && pg.Code == code
}

var argumentFailure = regexp.MustCompile(`(?:unable|failed) to encode |^sql: converting argument |^pgkeel: argument `)

// wrongCount is how drivers say, before they send the statement, that there are
// more or fewer arguments than it has parameters.
var wrongCount = regexp.MustCompile(`^(?:mismatched param and argument count|(?:sql: )?expected \d+ arguments, got \d+|pq: got \d+ parameters but the statement requires \d+)$`)

// isArgument reports that an argument could not be encoded, which happens before
// anything is sent.
func isArgument(err error) bool { return argumentFailure.MatchString(err.Error()) }

// argumentError stands for an error of a driver whose text quotes an argument.
type argumentError struct {
	text  string
	cause error
}

func (e *argumentError) Error() string              { return e.text }
func (e *argumentError) Unwrap() error              { return e.cause }
func (e *argumentError) Outcome() providers.Outcome { return providers.OutcomeNotSent }

var argumentName = regexp.MustCompile(`args\[\d+\]|argument \$\d+`)

// withoutArguments takes the argument out of a driver's complaint about it.
func withoutArguments(err error) error {
	what := argumentName.FindString(err.Error())
	if what == "" {
		what = "an argument"
	}
	return &argumentError{text: "pgkeel: " + what + " cannot be encoded; nothing was sent", cause: err}
}
