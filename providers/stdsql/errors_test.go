package stdsql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

func TestUnsure(t *testing.T) {
	l := &lease{}
	lost := errors.New("lost")
	for name, tc := range map[string]struct {
		err  error
		want providers.Outcome
	}{
		"bad connection":   {driver.ErrBadConn, providers.OutcomeUnknown},
		"pgx's closed one": {pgconn.ErrConnClosed, providers.OutcomeUnknown},
		"handed back":      {sql.ErrConnDone, providers.OutcomeNotSent},
		"deadline":         {context.DeadlineExceeded, providers.OutcomeUnknown},
		"timeout":          {&net.OpError{Err: context.DeadlineExceeded}, providers.OutcomeUnknown},
		"anything":         {lost, providers.OutcomeUnknown},
		"argument":         {errors.New("sql: converting argument $2 type: unsupported type chan int, a channel"), providers.OutcomeNotSent},
		"encoding":         {errors.New(`failed to encode args[0]: unable to encode "secret" into text format for int4`), providers.OutcomeNotSent},
	} {
		got := l.unsure(tc.err, nil)
		if o := providers.OutcomeOf(got); o != tc.want {
			t.Errorf("%s: %s: %v", name, o, got)
		}
		if strings.Contains(got.Error(), "secret") {
			t.Errorf("%s: %v", name, got)
		}
		if !errors.Is(got, tc.err) && !errors.Is(tc.err, sql.ErrConnDone) {
			t.Errorf("%s: the cause is lost", name)
		}
	}
	l.over = true
	if got := l.unsure(lost, nil); !errors.Is(got, errTaken) || !errors.Is(got, lost) || providers.OutcomeOf(got) != providers.OutcomeUnknown {
		t.Errorf("%v", got)
	}
}

func TestCommitOutcome(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want providers.Outcome
	}{
		"conflict":       {&pgconn.PgError{Severity: "ERROR", Code: "40001"}, providers.OutcomeRolledBack},
		"killed":         {&pgconn.PgError{Severity: "FATAL", Code: "57P01"}, providers.OutcomeUnknown},
		"unknown":        {&pgconn.PgError{Severity: "ERROR", Code: "40003"}, providers.OutcomeUnknown},
		"bad connection": {driver.ErrBadConn, providers.OutcomeUnknown},
		"closed":         {pgconn.ErrConnClosed, providers.OutcomeUnknown},
		"never sent":     {sql.ErrConnDone, providers.OutcomeRolledBack},
	} {
		if got := commitOutcome(tc.err); got != tc.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestServerLimit(t *testing.T) {
	for _, tc := range []struct{ code, message, want string }{
		{"57014", "canceling statement due to statement timeout", "statement_timeout"},
		{"57014", "canceling statement due to user request", ""},
		{"55P03", "canceling statement due to lock timeout", "lock_timeout"},
		{"55P03", "could not obtain lock", ""},
		{"25P03", "", "idle_in_transaction_session_timeout"},
		{"25P04", "", "transaction_timeout"},
		{"57P05", "", "idle_session_timeout"},
		{"22012", "", ""},
	} {
		pg := providers.NewPGError(&pgconn.PgError{Code: tc.code, Message: tc.message})
		if got := serverLimit(pg); got != tc.want {
			t.Errorf("%s: %q", tc.code, got)
		}
	}
}

func TestOutcomeErrorText(t *testing.T) {
	for outcome, want := range map[providers.Outcome]string{
		providers.OutcomeNotSent: "x; nothing was sent", providers.OutcomeRolledBack: "x; it was rolled back", providers.OutcomeUnknown: "x; it may have been sent",
	} {
		if got := (&outcomeError{errors.New("x"), outcome}).Error(); got != want {
			t.Error(got)
		}
	}
	refusal := withoutArguments(errors.New("pgkeel: argument of some kind"))
	if refusal.Error() != "pgkeel: an argument cannot be encoded; nothing was sent" || errors.Unwrap(refusal) == nil {
		t.Error(refusal)
	}
	known := providers.NewPGError(&pgconn.PgError{Severity: "ERROR", Code: "22012"})
	if providers.OutcomeOf(undone(known)) != providers.OutcomeRolledBack || undone(known).Error() != known.Error() || providers.OutcomeOf(undone(errors.New("x"))) != providers.OutcomeRolledBack {
		t.Error("undone only adds to what is unknown")
	}
}
