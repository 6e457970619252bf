package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

func results() []Result {
	slower := aSample(100)
	slower.cpu *= 2
	slower.mallocs *= 2
	return []Result{
		summarize(Scenario{Name: "good", Bar: nothingEnabled}, [][2]sample{{aSample(100), aSample(100)}}),
		summarize(Scenario{Name: "bad", Bar: nothingEnabled}, [][2]sample{{slower, aSample(100)}}),
		summarize(Scenario{Name: "free"}, [][2]sample{{slower, aSample(100)}}),
		summarize(Scenario{Name: "empty", Bar: nothingEnabled}, [][2]sample{{}}),
	}
}

func printed(t *testing.T, s settings) string {
	t.Helper()
	var out bytes.Buffer
	rep := newReport(s, &out)
	if err := rep.begin(&database{version: "17.1"}); err != nil {
		t.Fatal(err)
	}
	for _, r := range results() {
		if err := rep.add(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := rep.end(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestJSONIsOneObjectALineAndMetric(t *testing.T) {
	var names []string
	for text := range strings.Lines(printed(t, settings{json: true})) {
		checkLine(t, text)
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		names = append(names, l.Scenario)
	}
	for _, want := range []string{"good", "good.cpu", "good.p50", "good.p99", "good.bytes", "bad.cpu"} {
		if !slices.Contains(names, want) {
			t.Errorf("no line for %s in %v", want, names)
		}
	}
}

// checkLine checks the shape that readers of -json rely on.
func checkLine(t *testing.T, text string) {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(text), &fields); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	want := []string{"allocs_baseline", "allocs_ours", "baseline", "better", "ours", "ratio", "scenario", "unit"}
	if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, want) {
		t.Fatalf("%s: the fields are %v", text, got)
	}
	if b := fields["better"]; b != "higher" && b != "lower" {
		t.Errorf("%s: better is %v", text, b)
	}
	for _, number := range []string{"ours", "baseline", "ratio", "allocs_ours", "allocs_baseline"} {
		if v, ok := fields[number].(float64); !ok || v <= 0 {
			t.Errorf("%s: %s is %v", text, number, fields[number])
		}
	}
}

func TestTableTellsWhichBarsHeld(t *testing.T) {
	out := printed(t, settings{rounds: 3, duration: time.Second, callers: 4})
	for _, want := range []string{
		"PostgreSQL 17.1", "3 rounds of 1s a side", "pools of 4",
		"bar held: good, empty\n",
		"bar missed: bad (CPU 2.000 > 1.01, 5.0 allocations more)\n",
		"100.0/s", "2.000 (2.00-2.00)", "10.0 / 5.0",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "NaN") || strings.Contains(out, "Inf") {
		t.Errorf("numbers that are none in\n%s", out)
	}
}

func TestThroughputAndLatencyCanBePromised(t *testing.T) {
	twice := [][2]sample{{aSample(200), aSample(100)}} // and half the latency
	half := [][2]sample{{aSample(100), aSample(200)}}
	for _, tc := range []struct {
		bar   Bar
		pairs [][2]sample
		want  string
	}{
		{Bar{Throughput: 1.9}, twice, ""},
		{Bar{Throughput: 2.1}, twice, "throughput 2.000 < 2.10"},
		{Bar{Throughput: 0.95}, half, "throughput 0.500 < 0.95"},
		{Bar{P99: 1.5}, twice, ""},
		{Bar{P99: 1.5}, half, "p99 2.0"},
		{Bar{Throughput: 1, P99: 1}, half, "throughput 0.500 < 1.00, p99 2.0"},
		{Bar{Throughput: 1, P99: 1}, nil, ""}, // nothing could be measured
	} {
		got := strings.Join(faults(summarize(Scenario{Bar: tc.bar}, tc.pairs)), ", ")
		if !strings.HasPrefix(got, tc.want) || tc.want == "" && got != "" {
			t.Errorf("%+v: %q", tc.bar, got)
		}
	}
}

func TestTheTableTellsWhatTheSidesNote(t *testing.T) {
	r := summarize(Scenario{Name: "noted"}, [][2]sample{{aSample(100), aSample(100)}})
	r.Notes = []string{"ours was lucky", "theirs was not"}
	for writes := range 4 { // header, row, legend, notes
		w := fullAfter(writes)
		rep := newReport(settings{}, &w)
		if err := errors.Join(rep.begin(&database{}), rep.add(r), rep.end()); !errors.Is(err, errFull) {
			t.Errorf("after %d writes: %v", writes, err)
		}
	}
	var out bytes.Buffer
	rep := newReport(settings{}, &out)
	if err := errors.Join(rep.begin(&database{}), rep.add(r), rep.end()); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(out.String(), "pgxpool.\nnoted: ours was lucky\nnoted: theirs was not\n") {
		t.Error(out.String())
	}
}

func TestAThousandOperationsNeedNoDecimals(t *testing.T) {
	if got := perSecond(1234.56); got != "1235/s" {
		t.Error(got)
	}
}

var errFull = errors.New("disk full")

// fullAfter is a writer that fails after some writes.
type fullAfter int

func (f *fullAfter) Write(p []byte) (int, error) {
	if *f--; *f < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestAReportThatCannotBeWrittenIsAnError(t *testing.T) {
	for writes := range 7 { // header, 3 rows, legend, 2 verdicts
		w := fullAfter(writes)
		rep := newReport(settings{}, &w)
		err := rep.begin(&database{})
		for _, r := range results()[:3] {
			err = errors.Join(err, rep.add(r))
		}
		if err = errors.Join(err, rep.end()); !errors.Is(err, errFull) {
			t.Errorf("after %d writes: %v", writes, err)
		}
	}
	w := fullAfter(0)
	if err := newReport(settings{json: true}, &w).add(results()[0]); !errors.Is(err, errFull) {
		t.Errorf("JSON: %v", err)
	}
}
