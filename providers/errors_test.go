package providers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// wrapped puts an error where real ones are found: deep in a chain, beside
// others.
func wrapped(err error) error {
	return fmt.Errorf("outer: %w", errors.Join(io.ErrClosedPipe, fmt.Errorf("inner: %w", err)))
}

func TestErrorsMatchTheirCauses(t *testing.T) {
	server := serverError("57014", "ERROR")
	for name, tc := range map[string]struct {
		err     error
		matches []error
		not     []error
	}{
		"exhausted": {
			&providers.ExhaustedError{Err: context.DeadlineExceeded},
			[]error{providers.ErrPoolExhausted, context.DeadlineExceeded},
			[]error{providers.ErrUnreachable, context.Canceled},
		},
		"exhausted without a context's error": {
			&providers.ExhaustedError{},
			[]error{providers.ErrPoolExhausted},
			[]error{context.DeadlineExceeded, nil},
		},
		"unreachable": {
			&providers.UnreachableError{Err: io.ErrUnexpectedEOF},
			[]error{providers.ErrUnreachable, io.ErrUnexpectedEOF},
			[]error{providers.ErrPoolExhausted},
		},
		"unreachable without a reason": {
			&providers.UnreachableError{}, []error{providers.ErrUnreachable}, []error{io.EOF, nil},
		},
		"timeout": {
			&providers.TimeoutError{Err: providers.NewPGError(server), Context: context.DeadlineExceeded},
			[]error{context.DeadlineExceeded, server},
			[]error{context.Canceled},
		},
		"timeout without causes": {&providers.TimeoutError{}, nil, []error{context.DeadlineExceeded, nil}},
		"transaction": {
			&providers.TxError{Err: &providers.TimeoutError{Err: server, Context: context.Canceled}},
			[]error{context.Canceled, server},
			[]error{context.DeadlineExceeded},
		},
		"transaction without a cause": {&providers.TxError{}, nil, []error{io.EOF, nil}},
		"close":                       {&providers.CloseError{Err: context.Canceled}, []error{context.Canceled}, []error{io.EOF}},
		"close without a cause":       {&providers.CloseError{}, nil, []error{context.Canceled, nil}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, target := range tc.matches {
				if !errors.Is(tc.err, target) || !errors.Is(wrapped(tc.err), target) {
					t.Errorf("%v does not match %v", tc.err, target)
				}
			}
			for _, target := range tc.not {
				if errors.Is(tc.err, target) {
					t.Errorf("%v matches %v", tc.err, target)
				}
			}
			if tc.err.Error() == "" {
				t.Error("no text")
			}
		})
	}
}

func TestErrorsAsThroughEachOther(t *testing.T) {
	server := serverError("40001", "ERROR")
	err := wrapped(&providers.TxError{
		Operation: "commit",
		Err: &providers.TimeoutError{
			Operation: "query",
			Err:       &providers.UnreachableError{Err: &providers.ExhaustedError{MaxSize: 3, Err: providers.NewPGError(wrapped(server))}},
		},
	})
	var (
		tx          *providers.TxError
		timeout     *providers.TimeoutError
		unreachable *providers.UnreachableError
		exhausted   *providers.ExhaustedError
		pg          *providers.PGError
		driver      *pgconn.PgError
		closed      *providers.CloseError
		config      *providers.ConfigError
	)
	if !errors.As(err, &tx) || tx.Operation != "commit" || !errors.As(err, &timeout) || timeout.Operation != "query" ||
		!errors.As(err, &unreachable) || !errors.As(err, &exhausted) || exhausted.MaxSize != 3 {
		t.Errorf("a typed error is lost in %v", err)
	}
	if !errors.As(err, &pg) || !pg.IsRetryable() || !errors.As(err, &driver) || driver != server {
		t.Errorf("the server's error is lost in %v", err)
	}
	if errors.As(err, &closed) || errors.As(err, &config) {
		t.Error("found an error that is not there")
	}
}

func TestErrorsAsPastNilCauses(t *testing.T) {
	for _, err := range []error{
		&providers.ExhaustedError{}, &providers.UnreachableError{}, &providers.TimeoutError{},
		&providers.TxError{}, &providers.CloseError{}, &providers.PGError{},
	} {
		var driver *pgconn.PgError
		if errors.As(err, &driver) {
			t.Errorf("%T holds a server's error", err)
		}
	}
}

func TestTimeout(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"exhausted":          {&providers.ExhaustedError{Err: context.DeadlineExceeded}, true},
		"context's deadline": {&providers.TimeoutError{Context: context.DeadlineExceeded}, true},
		"cancelled":          {&providers.TimeoutError{Context: context.Canceled}, false},
		"cancelled, wrapped": {&providers.TimeoutError{Context: fmt.Errorf("why: %w", context.Canceled)}, false},
		"server's limit":     {&providers.TimeoutError{Err: serverError("57014", "ERROR")}, true},
	} {
		var timeout interface{ Timeout() bool }
		if !errors.As(wrapped(tc.err), &timeout) || timeout.Timeout() != tc.want {
			t.Errorf("%s: Timeout() is not %v", name, tc.want)
		}
	}
}

func TestErrorTexts(t *testing.T) {
	holder := providers.Holder{PID: 4711, Operation: "tx", Held: 1500*time.Millisecond + 300, CorrelationID: "req-9"}
	withStack := providers.Holder{PID: 12, Operation: "conn", Held: 2 * time.Minute, Stack: "main.go:7"}
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"exhausted": {
			&providers.ExhaustedError{Waited: 2*time.Second + 400, Limit: "acquire timeout", MaxSize: 4, Waiters: 3, Holders: []providers.Holder{holder, withStack}},
			"pgkeel: pool exhausted: all 4 connections in use, 3 waiting; gave up after 2s (acquire timeout); nothing was sent; " +
				"held by: tx for 1.5s on server process 4711 (correlation id req-9); conn for 2m0s on server process 12 taken at\nmain.go:7",
		},
		"exhausted by nobody known": {
			&providers.ExhaustedError{Waited: time.Millisecond, Limit: "context", MaxSize: 1, Waiters: 1},
			"pgkeel: pool exhausted: all 1 connections in use, 1 waiting; gave up after 1ms (context); nothing was sent",
		},
		"unreachable": {
			&providers.UnreachableError{Waited: 5 * time.Second, Err: io.EOF},
			"pgkeel: database unreachable after 5s; nothing was sent: EOF",
		},
		"timeout": {
			&providers.TimeoutError{Operation: "query", Limit: "statement_timeout", Err: serverError("57014", "ERROR")},
			"pgkeel: query ended by statement_timeout (rolled back): ERROR: message (SQLSTATE 57014)",
		},
		"timeout, nobody knows": {
			&providers.TimeoutError{Operation: "commit", Limit: "context deadline", Err: io.EOF},
			"pgkeel: commit ended by context deadline (unknown): EOF",
		},
		"transaction": {
			&providers.TxError{Result: providers.OutcomeRolledBack, Operation: "begin", Attempts: 1, Err: io.EOF},
			"pgkeel: transaction rolled back (begin failed): EOF",
		},
		"transaction tried again": {
			&providers.TxError{Result: providers.OutcomeUnknown, Operation: "commit", Attempts: 5, Err: io.EOF},
			"pgkeel: transaction unknown after 5 attempts (commit failed): EOF",
		},
		"close": {
			&providers.CloseError{Holders: []providers.Holder{holder}, Err: context.DeadlineExceeded},
			"pgkeel: close ended 1 connections by force, as their borrowers kept them (context deadline exceeded); " +
				"held by: tx for 1.5s on server process 4711 (correlation id req-9)",
		},
	} {
		if got := tc.err.Error(); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, tc.want)
		}
	}
}

func TestErrorTextsOfZeroValues(t *testing.T) {
	for _, err := range []error{
		&providers.ExhaustedError{}, &providers.UnreachableError{}, &providers.TimeoutError{},
		&providers.TxError{}, &providers.CloseError{}, &providers.PGError{}, &providers.ConfigError{},
	} {
		if text := err.Error(); strings.Contains(text, "%!") {
			t.Errorf("%T: %s", err, text)
		}
	}
}

func TestSentinelsAreDistinctAndNamed(t *testing.T) {
	sentinels := []error{
		providers.ErrPoolClosed, providers.ErrPoolExhausted, providers.ErrUnreachable, providers.ErrNestedAcquire,
		providers.ErrConcurrentUse, providers.ErrReleased, providers.ErrTooManyRows, providers.ErrTxPoisoned,
		providers.ErrUnknownProvider, providers.ErrDuplicateProvider, providers.ErrInvalidProvider,
		providers.ErrInvalidHook, providers.ErrDuplicateHook,
	}
	for i, a := range sentinels {
		if !strings.HasPrefix(a.Error(), "pgkeel: ") {
			t.Errorf("%q does not say whose it is", a)
		}
		for j, b := range sentinels {
			if errors.Is(a, b) != (i == j) {
				t.Errorf("errors.Is(%v, %v) = %v", a, b, i != j)
			}
		}
	}
}
