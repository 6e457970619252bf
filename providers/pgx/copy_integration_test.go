package pgx

import (
	"context"
	"database/sql/driver"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// copier is what loads rows.
type copier interface {
	runner
	providers.Copier
}

// faulty is a source that ends badly after a few rows.
type faulty struct {
	rows int
	bad  func(where string) error
}

func (f *faulty) Next() bool {
	f.rows--
	if f.rows < 0 {
		_ = f.bad("next")
	}
	return f.rows >= 0
}
func (f *faulty) Values() ([]any, error) { return []any{f.rows}, f.bad("values") }
func (f *faulty) Err() error             { return f.bad("err") }

func TestCopyFrom(t *testing.T) {
	hooks, seen := watched(t)
	onEach(t, providers.Config{Hooks: hooks}, `create schema s; create table s."t.x" (n int, v text)`, func(t *testing.T, p *Pool, q runner) {
		seen.forget()
		table := pgx.Identifier{"s", "t.x"}
		n, err := q.(copier).CopyFrom(t.Context(), table, []string{"n", "v"}, pgx.CopyFromSlice(1000, func(i int) ([]any, error) {
			return []any{i, "x"}, nil
		}))
		if err != nil || n != 1000 {
			t.Errorf("%d %v", n, err)
		}
		got := seen.of(providers.EventCopy)
		if len(got) != 1 || got[0].Rows != 1000 || got[0].Name != `"s"."t.x"` || got[0].PID == 0 {
			t.Errorf("%+v", got)
		}
		if q == runner(p) && p.Stats().InUse != 0 {
			t.Error("the connection is not back")
		}
		if n := value[int](t, q, `select count(*) from s."t.x"`); n != 1000 {
			t.Errorf("%d rows", n)
		}
	})
}

// copySpy is a user's tracer that hears of COPY.
type copySpy struct {
	table pgx.Identifier
	ends  []pgx.TraceCopyFromEndData
}

func (*copySpy) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (*copySpy) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (s *copySpy) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceCopyFromStartData) context.Context {
	s.table = data.TableName
	return ctx
}

func (s *copySpy) TraceCopyFromEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceCopyFromEndData) {
	s.ends = append(s.ends, data)
}

func TestCopyFromTellsTheTracer(t *testing.T) {
	spy := &copySpy{}
	p := balanced(t, providers.Config{Tracer: spy})
	mustExec(t, p, "create table t (n int unique)")
	for range 2 { // the second time they are there
		_, _ = p.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {2}}))
	}
	if len(spy.ends) != 2 || len(spy.table) != 1 || spy.table[0] != "t" {
		t.Fatalf("%+v", spy)
	}
	if first, second := spy.ends[0], spy.ends[1]; first.Err != nil || first.CommandTag.RowsAffected() != 2 || second.Err == nil || second.CommandTag.RowsAffected() != 0 {
		t.Errorf("%+v", spy.ends)
	}
}

func TestCopyFromFails(t *testing.T) {
	why := errors.New("the source's own")
	for name, tc := range map[string]struct {
		src   pgx.CopyFromSource
		is    error
		panic string
	}{
		"source":       {src: &faulty{2, func(w string) error { return map[string]error{"err": why}[w] }}, is: why},
		"values":       {src: &faulty{2, func(w string) error { return map[string]error{"values": why}[w] }}, is: why},
		"deadline":     {src: &faulty{2, func(w string) error { return map[string]error{"err": context.DeadlineExceeded}[w] }}, is: context.DeadlineExceeded},
		"constraint":   {src: pgx.CopyFromRows([][]any{{1}, {1}})},
		"panic next":   {src: &faulty{2, explodeAt("next")}, panic: "next"},
		"panic values": {src: &faulty{2, explodeAt("values")}, panic: "values"},
		"panic err":    {src: &faulty{2, explodeAt("err")}, panic: "err"},
	} {
		t.Run(name, func(t *testing.T) {
			hooks, seen := watched(t)
			p := balanced(t, providers.Config{Hooks: hooks})
			mustExec(t, p, "create table t (n int unique)")
			var err error
			r := panics(func() { _, err = p.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n"}, tc.src) })
			if tc.panic != "" {
				if r != tc.panic {
					t.Errorf("the panic is the caller's to see: %v", r)
				}
				if got := seen.of(providers.EventCopy); len(got) != 1 || !errors.Is(got[0].Err, errPanicked) {
					t.Errorf("%+v", got)
				}
			} else {
				var pg *providers.PGError
				var limit *providers.TimeoutError
				if !errors.As(err, &pg) || errors.As(err, &limit) || tc.is != nil && !errors.Is(err, tc.is) {
					t.Errorf("%v", err)
				}
				if providers.OutcomeOf(err) != providers.OutcomeRolledBack {
					t.Errorf("outcome %s", providers.OutcomeOf(err))
				}
			}
			if n := rowsIn(t, p); n != 0 || p.Stats().Connects != 1 {
				t.Errorf("%d rows, %d connections made", n, p.Stats().Connects)
			}
		})
	}
}

func explodeAt(where string) func(string) error {
	return func(at string) error {
		if at == where {
			panic(where)
		}
		return nil
	}
}

func TestCopyFromIntoNothing(t *testing.T) {
	p := balanced(t, providers.Config{})
	_, err := p.CopyFrom(t.Context(), pgx.Identifier{"missing"}, []string{"n"}, pgx.CopyFromRows(nil))
	var pg *providers.PGError
	if !errors.As(err, &pg) || pg.Code != "42P01" {
		t.Errorf("%v", err)
	}
	_, err = p.CopyFrom(ended(), pgx.Identifier{"missing"}, []string{"n"}, pgx.CopyFromRows(nil))
	if providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("%v", err)
	}
}

// halting is a source that yields a row, and then waits to be interrupted.
type halting struct {
	faulty
	interrupted chan struct{}
}

func (h *halting) Next() bool {
	if h.rows--; h.rows >= 0 {
		return true
	}
	<-h.interrupted
	return false
}

func (h *halting) Interrupt() { close(h.interrupted) }

func TestCopyFromInterruptsASourceThatWaits(t *testing.T) {
	onEach(t, providers.Config{}, `create table t (n int check (n > 100000))`, func(t *testing.T, p *Pool, q runner) {
		// So many rows that the server gets some of them before the end.
		src := &halting{faulty{20_000, func(string) error { return nil }}, make(chan struct{})}
		_, err := q.(copier).CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n"}, src)
		var pg *providers.PGError
		if !errors.As(err, &pg) || !pg.IsCheckViolation() || p.Stats().Connects != 1 {
			t.Errorf("%v", err)
		}
	})
}

// panickingValuer encodes itself, and panics.
type panickingValuer struct{}

func (panickingValuer) Value() (driver.Value, error) { panic("in Value") }

// A value that panics does so for the caller, not on a goroutine of the driver,
// where it would end the program.
func TestCopyFromOfAValueThatPanics(t *testing.T) {
	p := openPool(t, providers.Config{})
	mustExec(t, p, "create table t (n int)")
	func() {
		defer func() {
			if r := recover(); r != "in Value" {
				t.Errorf("recovered %v", r)
			}
		}()
		_, err := p.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}, {panickingValuer{}}}))
		t.Errorf("it returned: %v", err)
	}()
	if n := value[int](t, p, "select count(*) from t"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// leaving is a source that ends its goroutine, as a test's FailNow does.
type leaving struct{ pgx.CopyFromSource }

func (leaving) Next() bool { runtime.Goexit(); return false }

func TestCopyFromOfASourceThatEndsItsGoroutine(t *testing.T) {
	p := openPool(t, providers.Config{})
	mustExec(t, p, "create table t (n int)")
	if _, err := p.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n"}, leaving{}); !errors.Is(err, errPanicked) ||
		providers.OutcomeOf(err) != providers.OutcomeRolledBack || err.Error() != "pgkeel: copy: row 1: the source ended its goroutine; rolled back" {
		t.Errorf("the error is %v (%s)", err, providers.OutcomeOf(err))
	}
	if n := value[int](t, p, "select count(*) from t"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// What has no binary form of the column's type is read from its text, arrays with
// their dimensions; NULLs, rows larger than a message and many rows arrive whole.
func TestCopyFromOfAnything(t *testing.T) {
	p := openPool(t, providers.Config{})
	mustExec(t, p, "create table t (n int, d date, a int[], s text)")
	large := strings.Repeat("x", 3*feedSize)
	rows := [][]any{{"1", "2026-11-24", "{{1,2},{3,4}}", large}, {nil, nil, nil, nil}}
	for i := range 10_000 {
		rows = append(rows, []any{i, time.Unix(0, 0), []int{i}, "é"})
	}
	n, err := p.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n", "d", "a", "s"}, pgx.CopyFromRows(rows))
	if err != nil || n != int64(len(rows)) {
		t.Fatal(n, err)
	}
	got := value[string](t, p, `select concat_ws(' ', count(*), count(n), sum(n), max(array_ndims(a)), max(length(s)), min(d)) from t`)
	if want := "10002 10001 49995001 2 196593 1970-01-01"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

// A row that cannot be sent is named, with its column and without its values. The
// server, which only hears that the client gave up, stays in the chain.
func TestCopyFromNamesTheRowAtFault(t *testing.T) {
	p := openPool(t, providers.Config{})
	mustExec(t, p, "create table t (n int, s text)")
	why := errors.New("the source's own")
	for want, src := range map[string]pgx.CopyFromSource{
		"row 2: the source has 1 values for 2 columns":                                  pgx.CopyFromRows([][]any{{1, "x"}, {2}}),
		`row 1, column "n": a value of the Go type string cannot be encoded as int4`:    pgx.CopyFromRows([][]any{{"s3cr3t", "x"}}),
		`row 1, column "s": a value of the Go type struct {} cannot be encoded as text`: pgx.CopyFromRows([][]any{{1, struct{}{}}}),
		"row 1: the source failed: the source's own":                                    &faulty{2, func(w string) error { return map[string]error{"values": why}[w] }},
	} {
		_, err := p.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n", "s"}, src)
		if err == nil || err.Error() != "pgkeel: copy: "+want+"; rolled back" || providers.OutcomeOf(err) != providers.OutcomeRolledBack {
			t.Errorf("%v", err)
		}
		var pg *providers.PGError
		if !errors.As(err, &pg) || !pg.IsQueryCanceled() || strings.Contains(want, "own") && !errors.Is(err, why) {
			t.Errorf("the chain of %v", err)
		}
	}
}
