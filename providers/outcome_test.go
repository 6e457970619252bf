package providers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

type safeToRetry bool

func (s safeToRetry) Error() string     { return "driver's error" }
func (s safeToRetry) SafeToRetry() bool { return bool(s) }

func TestOutcomeOf(t *testing.T) {
	const (
		unknown    = providers.OutcomeUnknown
		notSent    = providers.OutcomeNotSent
		rolledBack = providers.OutcomeRolledBack
		committed  = providers.OutcomeCommitted
	)
	unsaid := serverError("40001", "ERROR")
	unsaid.SeverityUnlocalized = ""
	translated := serverError("40001", "ERROR")
	translated.Severity = "FEHLER"
	old := serverError("40001", "")
	old.Severity = "FEHLER"
	var nilServer *pgconn.PgError

	for _, tc := range []struct {
		name string
		err  error
		want providers.Outcome
	}{
		{"success", nil, committed},
		{"anything else", io.ErrUnexpectedEOF, unknown},
		{"deadline", context.DeadlineExceeded, unknown},
		{"cancelled", context.Canceled, unknown},
		{"no rows", pgx.ErrNoRows, unknown},

		{"server's ERROR", serverError("23505", "ERROR"), rolledBack},
		{"server's ERROR as PGError", providers.NewPGError(serverError("23505", "ERROR")), rolledBack},
		{"server's FATAL, maybe in the place of COMMIT's answer", serverError("57P01", "FATAL"), unknown},
		{"server's PANIC", serverError("XX000", "PANIC"), unknown},
		{"severity in its old field", unsaid, rolledBack},
		{"severity in the server's language", translated, rolledBack},
		{"severity only in the server's language", old, unknown},
		{"no severity", &pgconn.PgError{Code: "40001"}, unknown},
		{"statement_completion_unknown", serverError("40003", "ERROR"), unknown},
		{"transaction_resolution_unknown", serverError("08007", "ERROR"), unknown},
		{"a balancer that lost the server", serverError("08P01", "ERROR"), unknown},
		{"a statement that lost a third server", &pgconn.PgError{Code: "08006", Severity: "ERROR", Routine: "pgfdw_report_error"}, rolledBack},
		{"nil server error", nilServer, unknown},
		{"PGError of no server", &providers.PGError{Code: "40001", Severity: "ERROR"}, unknown},

		{"driver: safe", safeToRetry(true), notSent},
		{"driver: not safe", safeToRetry(false), unknown},

		{"pool closed", providers.ErrPoolClosed, notSent},
		{"pool exhausted", providers.ErrPoolExhausted, notSent},
		{"unreachable", providers.ErrUnreachable, notSent},
		{"nested acquire", providers.ErrNestedAcquire, notSent},
		{"concurrent use", providers.ErrConcurrentUse, notSent},
		{"released", providers.ErrReleased, notSent},
		{"too many rows: the statement ran", providers.ErrTooManyRows, unknown},

		{"exhausted", &providers.ExhaustedError{Err: context.Canceled}, notSent},
		{"unreachable, FATAL", &providers.UnreachableError{Err: serverError("53300", "FATAL")}, notSent},

		{"timeout, cancelled by the server", &providers.TimeoutError{Err: serverError("57014", "ERROR"), Context: context.DeadlineExceeded}, rolledBack},
		{"timeout, session ended", &providers.TimeoutError{Err: serverError("57P05", "FATAL")}, unknown},
		{"timeout, connection lost", &providers.TimeoutError{Err: io.EOF, Context: context.DeadlineExceeded}, unknown},
		{"timeout, nothing sent", &providers.TimeoutError{Err: safeToRetry(true), Context: context.DeadlineExceeded}, notSent},
		{"timeout without a cause", &providers.TimeoutError{Context: context.DeadlineExceeded}, unknown},
		{"timeout in a timeout without a cause", &providers.TimeoutError{Err: &providers.TimeoutError{}}, unknown},

		{"transaction: its result, not the cause's", &providers.TxError{Result: committed, Err: serverError("40001", "ERROR")}, committed},
		{"transaction rolled back", &providers.TxError{Result: rolledBack, Err: io.EOF}, rolledBack},
		{"transaction, unknown commit", &providers.TxError{Err: serverError("40001", "ERROR")}, unknown},
		{"timeout of a transaction", &providers.TimeoutError{Err: &providers.TxError{Result: notSent}}, notSent},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := providers.OutcomeOf(tc.err); got != tc.want {
				t.Errorf("OutcomeOf(%v) = %s, want %s", tc.err, got, tc.want)
			}
			if tc.err == nil {
				return
			}
			if got := providers.OutcomeOf(fmt.Errorf("a: %w", fmt.Errorf("b: %w", tc.err))); got != tc.want {
				t.Errorf("wrapped: %s, want %s", got, tc.want)
			}
			if got := providers.OutcomeOf(errors.Join(io.EOF, tc.err)); got != tc.want {
				t.Errorf("joined: %s, want %s", got, tc.want)
			}
		})
	}
}

func TestOutcomeString(t *testing.T) {
	for outcome, want := range map[providers.Outcome]string{
		providers.OutcomeUnknown:    "unknown",
		providers.OutcomeNotSent:    "not sent",
		providers.OutcomeRolledBack: "rolled back",
		providers.OutcomeCommitted:  "committed",
		providers.Outcome(99):       "unknown",
	} {
		if got := outcome.String(); got != want {
			t.Errorf("Outcome(%d).String() = %q, want %q", outcome, got, want)
		}
	}
	// Who forgets to say must not promise anything.
	if (&providers.TxError{}).Outcome() != providers.OutcomeUnknown {
		t.Error("the zero outcome is a promise")
	}
}
