package pgx

import (
	"context"
	"database/sql/driver"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

func TestPipelinedHooksAndTracers(t *testing.T) {
	hooks, seen := watched(t)
	tracer := &spyTracer{}
	p := pipelinedPool(t, providers.Config{Hooks: hooks, Tracer: tracer})
	seen.forget()
	tracer.reset()
	ctx := providers.WithCorrelationID(t.Context(), "c-1")
	n := sent(p, func() {
		_ = value[int](t, p, "select 1")
		mustExec(t, p, "select 1")
		_, _ = p.Exec(ctx, "select 1/0")
	})
	if n < 3 {
		t.Fatalf("%d pipelined", n)
	}
	if got := len(seen.of(providers.EventQuery)); got != 1 {
		t.Errorf("%d queries seen", got)
	}
	execs := seen.of(providers.EventExec)
	failed := seen.of(providers.EventError)
	if len(execs) != 2 || len(failed) != 1 || failed[0].CorrelationID != "c-1" || failed[0].SQL != "select 1/0" {
		t.Errorf("execs %+v, errors %+v", execs, failed)
	}
	pid := uint32(value[int](t, p, "select pg_backend_pid()"))
	for _, seen := range append(execs, failed...) {
		if seen.PID != pid {
			t.Errorf("%s ran on process %d, hooks saw %d", seen.SQL, pid, seen.PID)
		}
	}
	if starts, ends := tracer.counts("select 1/0"); starts != ends || starts < 1 {
		t.Errorf("the tracer saw %d starts and %d ends", starts, ends)
	}
}

// spyTracer counts what it is told of.
type spyTracer struct {
	mu     sync.Mutex
	starts []string
	ends   int
}

func (s *spyTracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	_ = conn.Config() // as tracers do
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starts = append(s.starts, data.SQL)
	return context.WithValue(ctx, spyKey{}, data.SQL)
}

func (s *spyTracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Value(spyKey{}) == "select 1/0" {
		s.ends++
	}
}

type spyKey struct{}

func (s *spyTracer) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starts, s.ends = nil, 0
}

func (s *spyTracer) counts(sql string) (starts, ends int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, start := range s.starts {
		if start == sql {
			starts++
		}
	}
	return starts, s.ends
}

// A tracer hears of what is sent, and of nothing that only might have been.
func TestPipelinedTracerSeesEachOnce(t *testing.T) {
	tracer := &spyTracer{}
	p := pipelinedPool(t, providers.Config{
		Tracer: tracer, Pipelining: &providers.Pipelining{Connections: 1, ReadConnections: 1, SlowAfter: 50 * time.Millisecond},
	})
	const slow, wrong, large = "select pg_sleep(0.2)", "select nothing", "select length($1::text)"
	tracer.reset()
	for range 3 {
		mustExec(t, p, slow) // once pipelined, and then known to be slow
		_, _ = p.Exec(t.Context(), wrong)
		mustExec(t, p, large, strings.Repeat("x", 100_000))
	}
	for _, sql := range []string{slow, wrong, large} {
		if starts, _ := tracer.counts(sql); starts != 3 {
			t.Errorf("%s: the tracer saw %d starts of 3", sql, starts)
		}
	}
}

// stubborn is an argument that cannot be asked for its value.
type stubborn struct{}

func (stubborn) Value() (driver.Value, error) { panic("mine") }

// What a hook has seen begin, it sees end.
func TestPipelinedHooksSeePanickingArguments(t *testing.T) {
	hooks, seen := watched(t)
	p := pipelinedPool(t, providers.Config{Hooks: hooks})
	const sql = "select $1::text"
	_ = value[string](t, p, sql, "x")
	seen.forget()
	for _, ask := range []func(){
		func() { _, _ = p.Exec(t.Context(), sql, stubborn{}) },
		func() { _, _ = p.Query(t.Context(), sql, stubborn{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic went nowhere")
				}
			}()
			ask()
		}()
	}
	if failed := seen.of(providers.EventError); len(failed) != 2 {
		t.Errorf("%d ends were seen", len(failed))
	}
	if got := value[string](t, p, sql, "y"); got != "y" {
		t.Error(got)
	}
}

// Every call is accounted for: answered on a shared connection, or left to the pool
// for one reason.
func TestPipelinedStatisticsAddUp(t *testing.T) {
	hooks, seen := watched(t)
	p := pipelinedPool(t, providers.Config{
		Hooks:      hooks,
		Pipelining: &providers.Pipelining{Connections: 1, ReadConnections: 1, MaxResultBytes: 10_000, MaxInFlight: 20},
	}, everyTime)
	before, taken := *p.Stats().Pipeline, p.Stats().Acquires
	seen.forget()
	const callers, each = 30, 20
	var all sync.WaitGroup
	for w := range callers {
		all.Go(func() {
			for i := range each {
				ctx := t.Context()
				if w%2 == 0 {
					ctx = providers.WithReadOnly(ctx)
				}
				var n int
				switch i % 5 {
				case 0: // fails, and with it the group
					_ = p.QueryRow(ctx, "select 1 / $1::int", 0).Scan(&n)
				case 1: // returns much
					_ = p.QueryRow(ctx, "select 1, repeat('x', $1)", 20_000).Scan(&n, nil)
				case 2:
					_, _ = p.Exec(ctx, "select repeat('x', $1)", 20_000)
				case 3:
					rows, err := p.Query(ctx, "select repeat('x', $1)", 20_000)
					if err == nil {
						rows.Close()
					}
				default:
					_ = p.QueryRow(ctx, "select $1::int", i).Scan(&n)
				}
			}
		})
	}
	all.Wait()
	s, acquired := *p.Stats().Pipeline, p.Stats().Acquires-taken
	elsewhere := s.Full + s.Slow + s.Large + s.Moved - before.Full - before.Slow - before.Large - before.Moved
	if elsewhere != acquired {
		t.Errorf("%d were left to the pool, which gave %d connections: %+v", elsewhere, acquired, s)
	}
	answered := s.Statements - before.Statements - (s.Repeated - before.Repeated) - (s.Large - before.Large)
	if moved := s.Moved - before.Moved; answered+acquired < callers*each || answered+acquired-moved > callers*each {
		t.Errorf("%d calls, %d answered and %d elsewhere: %+v", callers*each, answered, acquired, s)
	}
	if n := len(seen.of(providers.EventQuery)) + len(seen.of(providers.EventExec)); n != callers*each {
		t.Errorf("hooks saw %d of %d calls", n, callers*each)
	}
	if s.Depth != 0 || s.Segments > s.Statements+s.Flushes {
		t.Errorf("%+v", s)
	}
	p.Reset()
	eventually(t, "connections that were made are open or closed", func() bool {
		s := p.Stats()
		return s.Pipeline.Connections == 0 && s.Connects-s.Closed == int64(s.Open)
	})
}
