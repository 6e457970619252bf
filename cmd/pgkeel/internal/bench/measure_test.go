package bench

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// counting is a side that does nothing but count.
func counting(calls *atomic.Int64) Side {
	return Side{Op: func(context.Context, int, int) error { calls.Add(1); return nil }}
}

func brieflyWith(callers int) meter {
	return meter{duration: 2 * time.Millisecond, slice: 100 * time.Microsecond, callers: callers}
}

func noReset() error { return nil }

func TestTurnsAreABBA(t *testing.T) {
	want := []int{ours, baseline, baseline, ours, ours, baseline, baseline, ours}
	for turn, side := range want {
		if whose(turn) != side {
			t.Errorf("turn %d is that of %s", turn, sideNames[whose(turn)])
		}
	}
}

func TestBothSidesGetTheSameNumberOfSlicesAndAtLeastOne(t *testing.T) {
	for _, tc := range []struct {
		duration time.Duration
		want     int
	}{{1, 2}, {2 * time.Millisecond, 2}, {3 * time.Millisecond, 4}, {150 * time.Millisecond, 150}} {
		m := meter{duration: tc.duration, slice: 2 * time.Millisecond}
		if got := m.turns(); got != tc.want {
			t.Errorf("%v: %d turns, want %d", tc.duration, got, tc.want)
		}
	}
}

func TestPlayWarmsUpAndResetsBeforeEveryRound(t *testing.T) {
	var calls [2]atomic.Int64
	resets := 0
	pairs, err := brieflyWith(1).play(t.Context(), [2]Side{counting(&calls[0]), counting(&calls[1])}, 3,
		func() error { resets++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if resets != 4 || len(pairs) != 3 {
		t.Errorf("%d resets, %d pairs", resets, len(pairs))
	}
	for side := range calls {
		var measured int64
		for _, pair := range pairs {
			measured += pair[side].ops
		}
		if measured == 0 || measured >= calls[side].Load() {
			t.Errorf("%s: %d of %d operations were measured, all but the warm-up should be", sideNames[side], measured, calls[side].Load())
		}
	}
}

func TestARoundCountsOperationsLatenciesAndAllocations(t *testing.T) {
	const callers = 3
	var calls [callers]atomic.Int64
	var sink atomic.Pointer[[64]byte]
	allocating := Side{Op: func(_ context.Context, caller, n int) error {
		if int64(n) != calls[caller].Load() {
			t.Errorf("caller %d was told %d at call %d", caller, n, calls[caller].Load())
		}
		calls[caller].Add(1)
		sink.Store(new([64]byte))
		return nil
	}}
	var others atomic.Int64
	m := brieflyWith(callers)
	pair, err := m.round(t.Context(), [2]Side{ours: allocating, baseline: counting(&others)})
	if err != nil {
		t.Fatal(err)
	}
	s := pair[ours]
	// Each caller's first operation is outside of the measuring.
	if all := calls[0].Load() + calls[1].Load() + calls[2].Load(); s.ops != all-callers || s.latency.total != s.ops {
		t.Errorf("%d operations of %d calls, %d latencies", s.ops, all, s.latency.total)
	}
	if s.wall < m.duration || s.cpu <= 0 {
		t.Errorf("%v of CPU in %v", s.cpu, s.wall)
	}
	if s.mallocs < uint64(s.ops) || s.bytes < 64*uint64(s.ops) {
		t.Errorf("%d operations: %d allocations of %d bytes", s.ops, s.mallocs, s.bytes)
	}
	if per := perOp(&pair[baseline], float64(pair[baseline].mallocs)); per > 0.1 {
		t.Errorf("measuring itself allocates %v times per operation", per)
	}
}

func TestOnlyLatenciesThatAreAskedForCount(t *testing.T) {
	var calls [2]atomic.Int64
	m := brieflyWith(2)
	m.timed = func(caller, n int) bool { return caller == 1 && n < 5 }
	pair, err := m.round(t.Context(), [2]Side{counting(&calls[0]), counting(&calls[1])})
	if err != nil {
		t.Fatal(err)
	}
	for i := range pair {
		// The first operation of each caller is outside of the measuring.
		if s := &pair[i]; s.latency.total != 4 || s.ops != calls[i].Load()-2 {
			t.Errorf("%s: %d latencies, %d operations of %d calls", sideNames[i], s.latency.total, s.ops, calls[i].Load())
		}
	}
}

func TestAScenarioMaySayHowItIsMeasured(t *testing.T) {
	s := settings{duration: time.Second, callers: 7}
	for _, tc := range []struct {
		sc      Scenario
		callers int
		slice   time.Duration
	}{
		{Scenario{}, 1, defaultSlice},
		{Scenario{Parallel: true}, 7, defaultSlice},
		{Scenario{Callers: 128, Slice: time.Minute}, 128, time.Minute},
	} {
		if m := meterOf(s, tc.sc); m.callers != tc.callers || m.slice != tc.slice || m.duration != s.duration {
			t.Errorf("%+v: %+v", tc.sc, m)
		}
	}
}

func TestAFailingCallerEndsTheRound(t *testing.T) {
	fail := errors.New("on purpose")
	for name, failsAt := range map[string]int{"at the first operation": 0, "later": 3} {
		t.Run(name, func(t *testing.T) {
			m := meter{duration: time.Hour, slice: time.Hour, callers: 2}
			failing := Side{Op: func(ctx context.Context, caller, n int) error {
				if caller == 1 && n == failsAt {
					return fail
				}
				return ctx.Err()
			}}
			if _, err := m.round(t.Context(), [2]Side{failing, failing}); !errors.Is(err, fail) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

func TestPlayNamesTheSideThatFailed(t *testing.T) {
	fail := errors.New("on purpose")
	var calls atomic.Int64
	bad := Side{Op: func(context.Context, int, int) error { return fail }}
	for _, tc := range []struct {
		sides [2]Side
		reset func() error
		want  string
	}{
		{[2]Side{ours: bad, baseline: counting(&calls)}, noReset, "pgkeel"},
		{[2]Side{ours: counting(&calls), baseline: bad}, noReset, "pgxpool"},
		{[2]Side{counting(&calls), counting(&calls)}, func() error { return fail }, "reset"},
	} {
		_, err := brieflyWith(1).play(t.Context(), tc.sides, 1, tc.reset)
		if !errors.Is(err, fail) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v does not name %s", err, tc.want)
		}
	}
}
