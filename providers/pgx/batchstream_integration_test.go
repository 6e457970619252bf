package pgx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

var groupings = []int{0, 1, 2}

func TestBatchOccupiesWhatItRunsOn(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, p *Pool, q runner) {
		one := queued("select 1")
		var err error
		one.Exec(func(pgconn.CommandTag) error {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err = q.Exec(ctx, "select 1")
			return nil
		})
		if err := q.(batchRunner).RunBatch(t.Context(), callOf(0, one)); err != nil {
			t.Error(err)
		}
		if !errors.Is(err, providers.ErrConcurrentUse) && !errors.Is(err, providers.ErrPoolExhausted) {
			t.Errorf("%v", err)
		}
		if q != runner(p) {
			rows, _ := q.Query(t.Context(), "select 1")
			call := callOf(1, one)
			if err := q.(batchRunner).RunBatch(t.Context(), call); !errors.Is(err, providers.ErrConcurrentUse) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Errorf("%v", err)
			}
			rows.Close()
		}
	})
}

func TestBatchRunHooksAndTracer(t *testing.T) {
	hooks, seen := watched(t)
	spy := &batchSpy{}
	p := balanced(t, providers.Config{Hooks: hooks, Tracer: spy})
	for _, group := range groupings {
		seen.forget()
		spy.log = nil
		err := p.RunBatch(t.Context(), callOf(group, queued("select 1"), queued("select 2"), queued("select 1/0")))
		got := seen.of(providers.EventBatch)
		if len(got) != 1 || got[0].Rows != 3 || got[0].PID == 0 || !errors.Is(got[0].Err, err.(*providers.BatchFailure).Errors[0]) { //nolint:errorlint // what it is
			t.Errorf("%+v", got)
		}
		want := []string{"start 3", "select 1 SELECT 1 true", "select 2 SELECT 1 true", "select 1/0  false", "end false"}
		if !slices.Equal(spy.log, want) {
			t.Errorf("%q", spy.log)
		}
	}
}

// batchSpy is a tracer of the user's.
type batchSpy struct{ log []string }

func (s *batchSpy) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *batchSpy) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (s *batchSpy) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (s *batchSpy) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	s.note("start %d", data.Batch.Len())
	return context.WithValue(ctx, s, true)
}

func (s *batchSpy) TraceBatchQuery(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	if ctx.Value(s) == nil {
		s.note("another context")
	}
	s.note("%s %s %v", data.SQL, data.CommandTag, data.Err == nil)
}

func (s *batchSpy) TraceBatchEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	s.note("end %v", data.Err == nil)
}

func TestBatchRefused(t *testing.T) {
	p := balanced(t, providers.Config{AcquireTimeout: 20 * time.Millisecond})
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	conn := acquireN(t, p, 1)[0].(*Conn)
	tx, err := conn.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, want error, run func(call *providers.BatchCall) error) {
		t.Helper()
		call := callOf(1, queued("select 1"))
		if err := run(call); !errors.Is(err, want) || providers.OutcomeOf(err) != providers.OutcomeNotSent || len(call.Report.States) != 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("exhausted", providers.ErrPoolExhausted, func(c *providers.BatchCall) error { return p.RunBatch(t.Context(), c) })
	refused("dead", context.Canceled, func(c *providers.BatchCall) error { return tx.(*Tx).RunBatch(dead, c) })
	mustRollback(t, tx)
	refused("over", pgx.ErrTxClosed, func(c *providers.BatchCall) error { return tx.(*Tx).RunBatch(t.Context(), c) })
	refused("dead", context.Canceled, func(c *providers.BatchCall) error { return conn.RunBatch(dead, c) })
	conn.Release()
	refused("released", providers.ErrReleased, func(c *providers.BatchCall) error { return conn.RunBatch(t.Context(), c) })
	refused("dead", context.Canceled, func(c *providers.BatchCall) error { return p.RunBatch(dead, c) })
	_ = p.Close(t.Context())
	refused("closed", providers.ErrPoolClosed, func(c *providers.BatchCall) error { return p.RunBatch(t.Context(), c) })
}

func TestBatchSourceFails(t *testing.T) {
	broken := errors.New("the file ends in the middle of a line")
	for _, tc := range []struct {
		group, window int
		states        string
	}{
		{0, 1000, "nnnnn"}, {0, 2, "rrrrn"}, {1, 1000, "ooooo"}, {2, 1000, "oooon"}, {2, 2, "oooon"}, {3, 2, "ooorn"},
	} {
		onEach(t, providers.Config{}, batchTable, func(t *testing.T, _ *Pool, q runner) {
			call := callOf(tc.group, insertsOf(0, 1, 2, 3, 4)...)
			next := call.Next
			call.Next = func() (*pgx.QueuedQuery, error) {
				one, err := next()
				if one == nil {
					err = broken
				}
				return one, err
			}
			call.MaxStatements = tc.window
			err := q.(batchRunner).RunBatch(t.Context(), call)
			var item *providers.BatchError
			if !errors.Is(err, broken) || !errors.As(err, &item) || item.Operation != providers.BatchSource || item.Index != 5 {
				t.Errorf("%v", err)
			}
			got := statesOf(call)
			if len(got) != 5 || strings.Count(got, "o") != strings.Count(tc.states, "o") {
				t.Errorf("%+v: %s", tc, got)
			}
			agree(t, "the source failed", call, numbersIn(t, q))
		})
	}
}

func TestBatchStopOnError(t *testing.T) {
	for _, group := range []int{1, 2} {
		onEach(t, providers.Config{}, batchTable, func(t *testing.T, _ *Pool, q runner) {
			call := callOf(group, insertsOf(0, 0, 1, 2, 3, 4)...)
			call.StopOnError, call.MaxStatements = true, 1
			err := q.(batchRunner).RunBatch(t.Context(), call)
			if got := strings.TrimRight(statesOf(call), "n"); err == nil || len(call.Report.Errors) != 1 || got != "of" && got != "rf" && got != "ofo" {
				t.Errorf("groups of %d: %s %v", group, statesOf(call), err)
			}
		})
	}
}

// The statements' own marks on the session are undone as after any other.
func TestBatchSoilsTheSession(t *testing.T) {
	for _, exec := range []string{"cache_statement", "exec"} {
		p := balanced(t, providers.Config{DSN: pgtest.NewDB(t) + "&default_query_exec_mode=" + exec})
		for _, group := range groupings {
			call := callOf(group, queued("set application_name = 'soiled'"))
			if err := p.RunBatch(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			if got := value[string](t, p, "show application_name"); got == "soiled" {
				t.Errorf("%s, groups of %d: it stays", exec, group)
			}
		}
	}
}

// Behind PgBouncer in transaction mode.
func TestBatchBehindPgBouncer(t *testing.T) {
	bouncer := pgtest.New(t, pgtest.Options{}).Primary().NewPgBouncer(t, nil)
	p := balanced(t, providers.Config{DSN: bouncer.DSN(""), Profile: providers.ProfilePgBouncer})
	mustExec(t, p, batchTable)
	for _, group := range groupings {
		mustExec(t, p, "truncate t")
		call := callOf(group, insertsOf(1, 2, 1, 3)...)
		_ = p.RunBatch(t.Context(), call)
		want := map[int]string{0: "rrfn", 1: "oofo", 2: "oofn"}[group]
		if got := statesOf(call); got != want {
			t.Errorf("groups of %d: %s", group, got)
		}
	}
}
