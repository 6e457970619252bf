package pgx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

func TestMapError(t *testing.T) {
	p := &Pool{}
	alive := context.Background()
	dead := ended()
	late, cancel := context.WithDeadlineCause(alive, aLongTimeAgo, errTxTimeout)
	defer cancel()
	passed, cancel := context.WithDeadline(alive, aLongTimeAgo)
	defer cancel()
	server := func(code, message string) error {
		return &pgconn.PgError{Code: code, Message: message, Severity: "ERROR", Detail: "Key (secret)=(1)"}
	}
	other := errors.New("other")
	for name, tc := range map[string]struct {
		ctx     context.Context //nolint:containedctx // a case of a table
		err     error
		limit   string
		is      error
		code    string
		outcome providers.Outcome
	}{
		"nothing":             {alive, nil, "", nil, "", providers.OutcomeCommitted},
		"no rows":             {dead, pgx.ErrNoRows, "", pgx.ErrNoRows, "", providers.OutcomeUnknown},
		"too many rows":       {dead, pgx.ErrTooManyRows, "", pgx.ErrTooManyRows, "", providers.OutcomeUnknown},
		"closed":              {dead, pgx.ErrTxClosed, "", pgx.ErrTxClosed, "", providers.OutcomeUnknown},
		"other":               {alive, other, "", other, "", providers.OutcomeUnknown},
		"other, dead context": {dead, other, "", other, "", providers.OutcomeUnknown},
		"server":              {alive, server("23505", "duplicate"), "", nil, "23505", providers.OutcomeRolledBack},
		"server, dead":        {dead, server("23505", "duplicate"), "", nil, "23505", providers.OutcomeRolledBack},
		"cancelled":           {dead, server("57014", "canceling statement due to user request"), limitCanceled, context.Canceled, "57014", providers.OutcomeRolledBack},
		"deadline":            {passed, server("57014", "canceling statement due to user request"), limitContext, context.DeadlineExceeded, "57014", providers.OutcomeRolledBack},
		"transaction":         {late, server("57014", "canceling statement due to user request"), limitTx, context.DeadlineExceeded, "57014", providers.OutcomeRolledBack},
		"by somebody else":    {alive, server("57014", "canceling statement due to user request"), "", nil, "57014", providers.OutcomeRolledBack},
		"statement_timeout":   {alive, server("57014", "canceling statement due to statement timeout"), "statement_timeout", context.DeadlineExceeded, "57014", providers.OutcomeRolledBack},
		"both at once":        {passed, server("57014", "canceling statement due to statement timeout"), "statement_timeout", context.DeadlineExceeded, "57014", providers.OutcomeRolledBack},
		"lock_timeout":        {alive, server("55P03", "canceling statement due to lock timeout"), "lock_timeout", context.DeadlineExceeded, "55P03", providers.OutcomeRolledBack},
		"nowait":              {alive, server("55P03", "could not obtain lock"), "", nil, "55P03", providers.OutcomeRolledBack},
		"idle in transaction": {alive, server("25P03", "terminating"), "idle_in_transaction_session_timeout", context.DeadlineExceeded, "25P03", providers.OutcomeRolledBack},
		"transaction_timeout": {alive, server("25P04", "terminating"), "transaction_timeout", context.DeadlineExceeded, "25P04", providers.OutcomeRolledBack},
		"idle session":        {alive, server("57P05", "terminating"), "idle_session_timeout", context.DeadlineExceeded, "57P05", providers.OutcomeRolledBack},
		"context":             {dead, fmt.Errorf("x: %w", context.Canceled), limitCanceled, context.Canceled, "", providers.OutcomeUnknown},
		"somebody's deadline": {alive, fmt.Errorf("x: %w", context.DeadlineExceeded), "", context.DeadlineExceeded, "", providers.OutcomeUnknown},
		"lost":                {alive, fmt.Errorf("x: %w", pgconn.ErrConnClosed), "", pgconn.ErrConnClosed, "", providers.OutcomeUnknown},
		"lost earlier":        {alive, errConnLost, "", pgconn.ErrConnClosed, "", providers.OutcomeNotSent},
	} {
		t.Run(name, func(t *testing.T) {
			got := p.mapError(tc.ctx, "op", tc.err)
			var limit *providers.TimeoutError
			if errors.As(got, &limit) != (tc.limit != "") || limit != nil && (limit.Limit != tc.limit || limit.Operation != "op") {
				t.Errorf("limit %q: %v", tc.limit, got)
			}
			var pg *providers.PGError
			if errors.As(got, &pg) != (tc.code != "") || pg != nil && pg.Code != tc.code {
				t.Errorf("code %q: %v", tc.code, got)
			}
			if tc.code != "" && !errors.As(got, new(*pgconn.PgError)) {
				t.Error("the driver's error must stay in the chain")
			}
			if !errors.Is(got, tc.is) && tc.is != nil {
				t.Errorf("not %v: %v", tc.is, got)
			}
			if o := providers.OutcomeOf(got); o != tc.outcome {
				t.Errorf("outcome %s", o)
			}
			if again := p.mapError(tc.ctx, "again", got); fmt.Sprint(again) != fmt.Sprint(got) && tc.err != nil {
				t.Errorf("mapped twice: %v, %v", got, again)
			}
			if got != nil && strings.Contains(got.Error(), "secret") {
				t.Errorf("details quote rows: %v", got)
			}
		})
	}
}

func TestWithoutArguments(t *testing.T) {
	cause := errors.New("cause")
	for text, want := range map[string]string{
		`failed to encode args[2]: unable to encode "s3cr3t" into binary format for int4 (OID 23): cannot find encode plan`:                      "pgkeel: exec: args[2] cannot be encoded as int4; nothing was sent",
		`error preprocessing batch (build): failed to encode args[0]: unable to encode []string{"s3cr3t"} into text format for _int4 (OID 1007)`: "pgkeel: exec: args[0] cannot be encoded as int4; nothing was sent",
		`failed to encode args[0]: unable to encode map[s3cr3t:1] into text format for unknown type (OID 0): x`:                                  "pgkeel: exec: args[0] cannot be encoded as unknown type; nothing was sent",
		`unable to encode for s3cr3t (OID 7) s3cr3t`: "pgkeel: exec: a value cannot be encoded; nothing was sent",
		`something else`: "something else",
	} {
		err := withoutArguments(fmt.Errorf("%s%w", text, hidden{cause}), opExec)
		if err.Error() != want || !errors.Is(err, cause) {
			t.Errorf("%q", err)
		}
	}
	err := withoutArguments(providers.NewPGError(&pgconn.PgError{
		Code: "57014", Severity: "ERROR", Message: `COPY from stdin failed: unable to encode "s3cr3t" into binary format for int4 (OID 23)`,
	}), opCopy)
	if err.Error() != "pgkeel: copy: a value cannot be encoded as int4" || providers.OutcomeOf(err) != providers.OutcomeRolledBack {
		t.Errorf("%v, %s", err, providers.OutcomeOf(err))
	}
}

// hidden is an error without a text.
type hidden struct{ error }

func (hidden) Error() string   { return "" }
func (h hidden) Unwrap() error { return h.error }

func TestCommitOutcome(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want providers.Outcome
	}{
		"the server said ROLLBACK": {pgx.ErrTxCommitRollback, providers.OutcomeRolledBack},
		"a constraint":             {&pgconn.PgError{Code: "23505", Severity: "ERROR"}, providers.OutcomeRolledBack},
		"the session ended":        {&pgconn.PgError{Code: "57P01", Severity: "FATAL"}, providers.OutcomeUnknown},
		"the server does not know": {&pgconn.PgError{Code: "40003", Severity: "ERROR"}, providers.OutcomeUnknown},
		"lost on the way":          {fmt.Errorf("x: %w", pgconn.ErrConnClosed), providers.OutcomeUnknown},
		"not sent":                 {safe{}, providers.OutcomeRolledBack},
		"anything else":            {errors.New("EOF"), providers.OutcomeUnknown},
	} {
		if got := commitOutcome(tc.err); got != tc.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// safe is an error of a driver that sent nothing.
type safe struct{}

func (safe) Error() string     { return "not sent" }
func (safe) SafeToRetry() bool { return true }
