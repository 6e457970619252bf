package pgx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
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
	errPanicked       = errors.New("pgkeel: code of the application panicked or ended its goroutine")
	errEndedBehind    = providers.ErrTxEnded
	errCopyIn         = errors.New("pgkeel: COPY … FROM STDIN has no data here; use CopyFrom, CopyFromReader or package bulk")
	errInTx           = errors.New("pgkeel: the connection has a transaction open; use that, or a savepoint of it; nothing was sent")
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
	p.trouble(err)
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

func (p *Pool) redact(err error) error { return p.redactFor(err, p.cfg.DSN) }

// redactFor takes the secrets of the DSN, and of what Route returned, out of the
// error of an attempt to connect.
func (p *Pool) redactFor(err error, dsn string) error {
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return err
	}
	cause := connect.Unwrap()
	if pg := providers.NewPGError(cause); pg != nil {
		cause = pg
	}
	return &connectFailure{text: p.routes.redact(providers.Redact(err.Error(), dsn)), cause: cause}
}

// acquireError makes the error of an acquire say what it was.
func (p *Pool) acquireError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return p.acquireFailed(ctx, err)
}

// acquireFailed is apart so that an acquire that succeeds takes no allocation.
func (p *Pool) acquireFailed(ctx context.Context, err error) error {
	var connect *pgconn.ConnectError
	var known interface{ Outcome() providers.Outcome }
	switch {
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
		return &providers.TimeoutError{Operation: "acquire", Limit: limitOf(ctx), Err: &notSentError{err}, Context: ctx.Err()}
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
// errors become a PGError, one that a limit caused a TimeoutError that names the
// limit and matches both the context's error and the server's.
func (p *Pool) mapError(ctx context.Context, op string, err error) error {
	if err == nil || errors.Is(err, pgx.ErrNoRows) || errors.Is(err, pgx.ErrTooManyRows) || errors.Is(err, pgx.ErrTxClosed) {
		return err
	}
	var timeout *providers.TimeoutError
	if errors.As(err, &timeout) {
		return err // mapped already
	}
	if isLoss(op, err) {
		err = &lostError{err}
	}
	mapped, pg := wrapPG(err), providers.NewPGError(err)
	if limit := serverLimit(pg); limit != "" {
		return &providers.TimeoutError{Operation: op, Limit: limit, Err: mapped, Context: context.DeadlineExceeded}
	}
	if ended := ctx.Err(); ended != nil && causedBy(ended, err, pg) {
		return &providers.TimeoutError{Operation: op, Limit: limitOf(ctx), Err: mapped, Context: ended}
	}
	p.doubt(ctx, op, err)
	if pg != nil && pg.IsReadOnly() && providers.IsReadOnly(ctx) {
		return forReader(mapped)
	}
	return withoutArguments(mapped, op)
}

// isLoss reports an error that means that the connection was lost with the
// statement under way. Errors of a COPY can be those of the caller's reader or
// writer.
func isLoss(op string, err error) bool {
	var told interface{ Outcome() providers.Outcome }
	if errors.As(err, &told) {
		return false
	}
	if errors.Is(err, pgconn.ErrConnClosed) {
		return true
	}
	var socket *net.OpError
	broken := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &socket)
	return broken && op != opCopy && !pgconn.Timeout(err) && !pgconn.SafeToRetry(err)
}

// forReader says what to do about a write that was declared a read.
func forReader(err error) error {
	var pg *providers.PGError
	if errors.As(err, &pg) && pg.Hint == "" {
		pg.Hint = "it was declared read-only (Reader, WithReadOnly): run what writes on the handle itself"
	}
	return err
}

// errConnLost refuses a statement on a connection that is known to be closed.
var errConnLost error = &notSentError{fmt.Errorf("pgkeel: the connection was lost earlier: %w", pgconn.ErrConnClosed)}

// lostError is what pgx says of a connection that it finds closed. It calls that
// safe to retry, also when it lost the connection itself while it waited for the
// server's answer. pgkeel hands it no connection that it knows to be closed, so
// the statement may have been sent.
type lostError struct{ cause error }

func (e *lostError) Error() string {
	return "pgkeel: the connection was lost, maybe after the statement was sent: " + e.cause.Error()
}
func (e *lostError) Unwrap() error              { return e.cause }
func (e *lostError) SafeToRetry() bool          { return false }
func (e *lostError) Outcome() providers.Outcome { return providers.OutcomeUnknown }

// serverLimit names the limit of the server's that fired, or returns nothing.
// Where the code alone does not tell, the message does, in English: in another
// language the error stays a PGError.
func serverLimit(pg *providers.PGError) string {
	switch {
	case pg == nil:
		return ""
	case pg.IsQueryCanceled() && strings.Contains(pg.Message, "statement timeout"):
		return limitStatement
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

// causedBy reports whether the end of the context is what the error is about. A
// value that cannot be scanned is not, even if the context has ended since.
func causedBy(ended, err error, pg *providers.PGError) bool {
	if pg != nil {
		return pg.IsQueryCanceled()
	}
	return errors.Is(err, ended) || pgconn.Timeout(err)
}

// argumentError stands for an error of the driver whose text quotes an argument.
type argumentError struct {
	text  string
	cause error
}

func (e *argumentError) Error() string { return e.text }
func (e *argumentError) Unwrap() error { return e.cause }

// Outcome is that of the cause, or that nothing was sent: arguments are encoded
// before.
func (e *argumentError) Outcome() providers.Outcome {
	if providers.NewPGError(e.cause) != nil {
		return providers.OutcomeOf(e.cause)
	}
	return providers.OutcomeNotSent
}

var (
	wrongCount     = regexp.MustCompile(`(?:^|: )(?:mismatched param and argument count|expected \d+ arguments, got \d+)$`)
	encodeFailure  = regexp.MustCompile(`(?:unable|failed) to encode `)
	encodeArgument = regexp.MustCompile(`failed to encode (args\[\d+\])`)
	encodeType     = regexp.MustCompile(` format for (\w+|unknown type) \(OID \d+\)`)
)

// withoutArguments takes the argument out of the driver's complaint that it
// cannot be encoded. The driver's own error stays in the chain.
func withoutArguments(err error, op string) error {
	text := err.Error()
	if wrongCount.MatchString(text) {
		return &notSentError{fmt.Errorf("pgkeel: %s: %w", op, err)}
	}
	if !encodeFailure.MatchString(text) {
		return err
	}
	what, kind := "a value", ""
	if m := encodeArgument.FindStringSubmatch(text); m != nil {
		what = m[1]
	}
	if m := encodeType.FindStringSubmatch(text); m != nil {
		kind = " as " + strings.TrimLeft(m[1], "_")
	}
	safe := &argumentError{text: fmt.Sprintf("pgkeel: %s: %s cannot be encoded%s", op, what, kind), cause: err}
	if safe.Outcome() == providers.OutcomeNotSent {
		safe.text += "; nothing was sent"
	}
	return safe
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

// limitOf names what ended the context. Whoever bounded it can say so by its
// cause.
func limitOf(ctx context.Context) string {
	var named interface{ Limit() string }
	switch cause := context.Cause(ctx); {
	case errors.As(cause, &named):
		return named.Limit()
	case errors.Is(cause, errTxTimeout):
		return limitTx
	case errors.Is(ctx.Err(), context.Canceled):
		return limitCanceled
	default:
		return limitContext
	}
}

// isRepeatable reports that a cached statement no longer fits the schema, and
// that running it again, outside a transaction, is safe. The server finds out
// before it runs anything, except for a plan that the application prepared
// itself by PREPARE and runs by EXECUTE, behind statements or inside a procedure
// that may have committed something.
func isRepeatable(conn *pgx.Conn, err error, sql string) bool {
	pg := providers.NewPGError(err)
	if pg == nil || !pg.IsStalePlan() || pg.Where != "" || conn.PgConn().TxStatus() != 'I' {
		return false
	}
	for w := range sqltext.Words(sql) {
		if w.Text == "execute" {
			return false
		}
	}
	return true
}

// isMisfit reports arguments that could not be encoded as what the statement was
// prepared for, so that nothing was sent. The driver has forgotten it by now: it may
// take others since, as tables of the next tenant have columns of other types, or
// those of this one have changed.
func isMisfit(conn *pgx.Conn, err error) bool {
	status := conn.PgConn().TxStatus()
	return (status == 'I' || status == 'T') && !conn.IsClosed() && providers.NewPGError(err) == nil && encodeFailure.MatchString(err.Error())
}

func itoa(n int) string { return strconv.Itoa(n) }
