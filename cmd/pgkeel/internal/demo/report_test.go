package demo

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/providers"
)

func written(write func(r *report)) string {
	var b bytes.Buffer
	write(&report{w: &b})
	return b.String()
}

func TestTablesAreAligned(t *testing.T) {
	got := written(func(r *report) {
		r.table([]string{"what", "n"}, [][]string{{"π", "1"}, {"longer", "10,000"}})
	})
	want := "  what         n\n  π            1\n  longer  10,000\n"
	if got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestColourSurroundsTextWithoutMovingIt(t *testing.T) {
	var b bytes.Buffer
	r := &report{w: &b, paint: true}
	r.check(true, "it holds")
	r.check(false, "it does not")
	r.table([]string{"a", ""}, [][]string{{"b", "c"}})
	want := "  \x1b[32m✓\x1b[0m it holds\n  \x1b[31m✗\x1b[0m it does not\n  \x1b[2ma\x1b[0m\n  b  c\n"
	if b.String() != want {
		t.Errorf("got %q", b.String())
	}
}

func TestSummary(t *testing.T) {
	r := &report{w: &bytes.Buffer{}}
	if r.failed() == nil {
		t.Error("nothing was checked, and yet it passed")
	}
	r.check(true, "a")
	if err := r.failed(); err != nil {
		t.Error(err)
	}
	var b bytes.Buffer
	r.w = &b
	r.summary(1500 * time.Millisecond)
	if want := "\n✓ all 1 checks held, in 1.50 s\n\n" + attribution + "\n"; b.String() != want {
		t.Errorf("got %q", b.String())
	}
}

func TestQuotesAreWrapped(t *testing.T) {
	if got := wrap("to be\nor not to be", 8); !slices.Equal(got, []string{"to be or", "not to", "be"}) {
		t.Errorf("got %q", got)
	}
	if got := wrap("incomprehensibility is", 5); !slices.Equal(got, []string{"incomprehensibility", "is"}) {
		t.Errorf("got %q", got)
	}
	got := written(func(r *report) { r.quote("%s", strings.Repeat("word ", 40)) })
	for line := range strings.Lines(got) {
		if width(line) > quoteWidth+len(quoteIndent)+1 || !strings.HasPrefix(line, quoteIndent+"word") {
			t.Errorf("the line %q", line)
		}
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestTheFirstErrorOfWritingIsKept(t *testing.T) {
	r := &report{w: broken{}}
	r.line("a")
	r.line("b")
	if r.err == nil || r.err.Error() != "writing the report: disk full" {
		t.Error(r.err)
	}
}

func TestNumbersForPeople(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 171075: "171,075", -1234567: "-1,234,567"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) is %s", n, got)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0", 12: "12 ns", 1500: "1.50 µs", 183 * time.Microsecond: "183 µs", 12340 * time.Microsecond: "12.3 ms",
		time.Second: "1.00 s", 90 * time.Second: "90.0 s",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%d) is %s", d, got)
		}
	}
	if got := plural(1, "error", "errors") + ", " + plural(2000, "error", "errors"); got != "1 error, 2,000 errors" {
		t.Error(got)
	}
	if got := strings.Join(bucketNames(), "|"); got != "≤ 1 ms|≤ 5 ms|≤ 10 ms|≤ 50 ms|≤ 100 ms|≤ 500 ms|≤ 1 s|≤ 5 s|≤ 30 s|longer" {
		t.Error(got)
	}
}

func TestWaitsLeaveOutWhatStayedEmpty(t *testing.T) {
	var a, b pgkeel.PoolStats
	a.Waits.Counts[providers.WaitAcquired][0] = 1200
	b.Waits.Counts[providers.WaitExhausted][2] = 3
	got := written(func(r *report) { r.waits([]pool{{"one", a}, {"two", b}}) })
	want := `
  waits by length  ≤ 1 ms  ≤ 5 ms  ≤ 10 ms
  one, acquired     1,200       0        0
  two, exhausted        0       0        3
`
	if got != want {
		t.Errorf("got\n%s", got)
	}
	if got := written(func(r *report) { r.waits([]pool{{handle: "one"}}) }); got != "" {
		t.Errorf("without waits: %q", got)
	}
}

func TestPoolsStandSideBySide(t *testing.T) {
	got := written(func(r *report) {
		r.pools([]pool{{"one", pgkeel.PoolStats{MaxSize: 8, Acquires: 1234}}, {"two", pgkeel.PoolStats{MaxSize: 2, Resets: 5}}})
	})
	for _, line := range []string{
		"  handle                     one  two\n", "  size                         8    2\n",
		"  acquired                 1,234    0\n", "  session resets               0    5\n",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("no %q in\n%s", line, got)
		}
	}
}

func TestHooksAreTallied(t *testing.T) {
	var events tally
	h := events.hook()
	h.After(t.Context(), &pgkeel.HookInfo{Event: pgkeel.EventQuery, Duration: time.Millisecond})
	h.After(t.Context(), &pgkeel.HookInfo{Event: pgkeel.EventQuery, Duration: 3 * time.Millisecond, Err: errNotYet})
	h.After(t.Context(), &pgkeel.HookInfo{Event: tallied})
	got := written(func(r *report) { r.hooks(&events) })
	if !strings.Contains(got, "  query      2       1  2.00 ms\n") || strings.Contains(got, "exec") {
		t.Errorf("got\n%s", got)
	}
	if events.mean(pgkeel.EventExec) != 0 {
		t.Error("a mean of nothing")
	}
}

func TestLatenciesAreATable(t *testing.T) {
	var times timings
	if got := written(func(r *report) { r.latencies(&times) }); got != "" {
		t.Errorf("without any: %q", got)
	}
	var took []time.Duration
	for i := 100; i > 0; i-- {
		took = append(took, time.Duration(i)*time.Millisecond)
	}
	times.collect(2*time.Second, []stopwatch{{"read": took[:60]}, {"read": took[60:]}}, "read")
	got := written(func(r *report) { r.latencies(&times) })
	if !strings.Contains(got, "  read         100        50  50.0 ms  95.0 ms  99.0 ms   100 ms\n") {
		t.Errorf("got\n%s", got)
	}
}
