package providertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

var limitTests = []test{
	{name: "DeadContext", run: testDeadContext},
	{name: "Deadline", run: testDeadline},
	{name: "Cancel", run: testCancel},
	{name: "CancelWhileRowsAreOpen", run: testCancelWhileRowsAreOpen},
	{name: "StatementTimeout", run: testStatementTimeout},
	{name: "LockTimeout", run: testLockTimeout},
	{name: "ServerStops", run: testServerStops},
}

// everyCall are the ways to run a statement.
var everyCall = map[string]func(ctx context.Context, q querier, sql string) error{
	"exec":  func(ctx context.Context, q querier, sql string) error { _, err := q.Exec(ctx, sql); return err },
	"query": func(ctx context.Context, q querier, sql string) error { return queryError(ctx, q, sql) },
	"row":   func(ctx context.Context, q querier, sql string) error { return q.QueryRow(ctx, sql).Scan(nil) },
	"call": func(ctx context.Context, q querier, sql string) error {
		return q.Run(ctx, scoped(providers.CallExec, sql, nil))
	},
	"scoped call": func(ctx context.Context, q querier, sql string) error {
		return q.Run(ctx, scoped(providers.CallExec, sql, nil, "app.x", "1"))
	},
	"scoped query": func(ctx context.Context, q querier, sql string) error {
		call := scoped(providers.CallQuery, sql, nil, "app.x", "1")
		if err := q.Run(ctx, call); err != nil {
			return err
		}
		for call.Rows.Next() {
			continue
		}
		return call.Rows.Err()
	},
}

// A context that has ended sends nothing, and harms nothing.
func testDeadContext(t *testing.T, s suite) {
	late, cancel := expired()
	defer cancel()
	s.onEach(t, table, func(t *testing.T, q querier) {
		for name, call := range everyCall {
			err := call(ended(), q, "insert into t values (1) returning n")
			wantOutcome(t, name, err, providers.OutcomeNotSent)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
			err = call(late, q, "insert into t values (1) returning n")
			wantOutcome(t, name, err, providers.OutcomeNotSent)
			wantNoDoubt(t, name, err)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := traces(t, q); n != 0 {
			t.Errorf("%d statements were sent", n)
		}
	})
	p := s.open(t, 1)
	_, acquireErr := p.Acquire(ended())
	_, beginErr := p.Begin(ended(), providers.TxOptions{})
	for what, err := range map[string]error{"acquire": acquireErr, "begin": beginErr, "ping": p.Ping(ended())} {
		wantOutcome(t, what, err, providers.OutcomeNotSent)
		wantNoDoubt(t, what, err)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// interrupted runs a statement that takes a minute by each way, under a context
// that ends, and checks the error.
func interrupted(t *testing.T, s suite, limit string, during func(time.Duration) (context.Context, context.CancelFunc), want error) {
	t.Helper()
	for name, call := range everyCall {
		t.Run(name, func(t *testing.T) {
			s.onEach(t, table, func(t *testing.T, q querier) {
				err := onceSent(t, func(after time.Duration) error {
					ctx, cancel := during(after)
					defer cancel()
					return call(ctx, q, "with i as (insert into t values (1)) select pg_sleep(60)::text")
				})
				var timeout *providers.TimeoutError
				if !errors.As(err, &timeout) || !errors.Is(err, want) {
					t.Fatalf("want a *TimeoutError that is %v, got %v (%T)", want, err, err)
				}
				if timeout.Limit != limit || timeout.Operation == "" || timeout.Timeout() != errors.Is(want, context.DeadlineExceeded) {
					t.Errorf("%+v", timeout)
				}
				if o := providers.OutcomeOf(err); o == providers.OutcomeNotSent || o == providers.OutcomeCommitted {
					t.Errorf("it was sent, and not committed; told as %q", o)
				}
			})
		})
	}
}

// onceSent makes a call that ends after a time, and again with more where a slow machine
// had not sent it by then. It returns the error of the one that was sent.
func onceSent(t testing.TB, call func(after time.Duration) error) (err error) {
	t.Helper()
	for after := 100 * time.Millisecond; after < patience; after *= 4 {
		start := time.Now()
		err = call(after)
		if took := time.Since(start); took > after+patience {
			t.Errorf("it took %s", took)
		}
		if providers.OutcomeOf(err) != providers.OutcomeNotSent {
			break
		}
	}
	return err
}

func testDeadline(t *testing.T, s suite) {
	interrupted(t, s, "context deadline", func(after time.Duration) (context.Context, context.CancelFunc) {
		return context.WithTimeout(t.Context(), after)
	}, context.DeadlineExceeded)
}

func testCancel(t *testing.T, s suite) {
	interrupted(t, s, "context cancelled", func(after time.Duration) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(after, cancel)
		return ctx, cancel
	}, context.Canceled)
}

func testCancelWhileRowsAreOpen(t *testing.T, s suite) {
	s.onEach(t, "", func(t *testing.T, q querier) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		rows, err := q.Query(ctx, "select generate_series(1, 100000000)")
		if err != nil || !rows.Next() {
			t.Fatal("no row", err)
		}
		cancel()
		for rows.Next() {
			continue
		}
		var timeout *providers.TimeoutError
		if err := rows.Err(); !errors.As(err, &timeout) || !errors.Is(err, context.Canceled) {
			t.Errorf("%v (%T)", err, err)
		}
	})
}

// The server's own limit matches both what it says and what it means.
func testStatementTimeout(t *testing.T, s suite) {
	s.onEach(t, "", func(t *testing.T, q querier) {
		err := runExec(t, q, "select pg_sleep(60)", "statement_timeout", "50")
		wantServerLimit(t, err, "statement_timeout", "57014")
	})
}

func testLockTimeout(t *testing.T, s suite) {
	p := s.open(t, 2)
	mustExec(t, p, table+"; insert into t values (1)")
	holder := begin(t, p, providers.TxOptions{})
	mustExec(t, holder, "update t set n = 2")
	wantServerLimit(t, runExec(t, p, "update t set n = 3", "lock_timeout", "50"), "lock_timeout", "55P03")
	rollback(t, holder)
	if n := traces(t, p); n != 1 {
		t.Errorf("%d rows", n)
	}
}

func wantServerLimit(t testing.TB, err error, limit, code string) {
	t.Helper()
	wantCode(t, limit, err, code)
	var timeout *providers.TimeoutError
	if !errors.As(err, &timeout) || timeout.Limit != limit || !timeout.Timeout() || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("want a *TimeoutError by %s that is a deadline as well, got %v (%T)", limit, err, err)
	}
}

// A caller that went away must not leave its work running on the server.
func testServerStops(t *testing.T, s suite) {
	p := s.open(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.Exec(ctx, "select pg_sleep(61)"); err == nil {
		t.Fatal("no error")
	}
	eventually(t, "the server stopped", func() bool {
		return value[int](t, p, "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(61)'") == 0
	})
}
