package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
)

// report is where results go, one at a time as they come.
type report interface {
	begin(db *database) error
	add(r Result) error
	end() error
}

func newReport(s settings, w io.Writer) report {
	if s.json {
		return jsonLines{json.NewEncoder(w)}
	}
	return &table{settings: s, w: w}
}

// line is one line of -json.
type line struct {
	Scenario       string  `json:"scenario"`
	Unit           string  `json:"unit"`
	Ours           float64 `json:"ours"`
	Baseline       float64 `json:"baseline"`
	Ratio          float64 `json:"ratio"`
	Better         string  `json:"better"`
	AllocsOurs     float64 `json:"allocs_ours"`
	AllocsBaseline float64 `json:"allocs_baseline"`
}

type jsonLines struct{ encoder *json.Encoder }

func (jsonLines) begin(*database) error { return nil }

func (j jsonLines) add(r Result) error {
	for _, m := range r.Metrics {
		if err := j.encoder.Encode(lineOf(r, m)); err != nil {
			return err
		}
	}
	return nil
}

func (jsonLines) end() error { return nil }

func lineOf(r Result, m Metric) line {
	return line{
		Scenario: r.Scenario.Name + m.Suffix, Unit: m.Unit, Better: m.Better,
		Ours: rounded(m.Ours), Baseline: rounded(m.Baseline), Ratio: rounded(m.Ratio),
		AllocsOurs: rounded(r.AllocsOurs), AllocsBaseline: rounded(r.AllocsBaseline),
	}
}

// rounded leaves four decimals: the rest is noise.
func rounded(v float64) float64 { return math.Round(v*1e4) / 1e4 }

// table is the report for people.
type table struct {
	settings settings
	w        io.Writer
	notes    []string
	held     []string
	missed   []string
}

const tableFormat = "%-18s %11s %11s  %-20s  %-20s  %-15s  %s\n"

func (t *table) begin(db *database) error {
	s := t.settings
	_, err := fmt.Fprintf(t.w, "pgkeel beside pgxpool · PostgreSQL %s · %s %s/%s, %d CPUs · %d rounds of %v a side · pools of %d\n\n"+tableFormat,
		db.version, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), s.rounds, s.duration, s.callers,
		"scenario", "pgkeel", "pgxpool", "throughput", "CPU per operation", "p99 in us", "allocations")
	return err
}

func (t *table) add(r Result) error {
	t.judge(r)
	for _, note := range r.Notes {
		t.notes = append(t.notes, r.Scenario.Name+": "+note+"\n")
	}
	speed, _ := r.metric(throughput)
	cpu, _ := r.metric(cpuPerOp)
	p99, _ := r.metric(latency99)
	_, err := fmt.Fprintf(t.w, tableFormat, r.Scenario.Name, perSecond(speed.Ours), perSecond(speed.Baseline),
		spread(speed), spread(cpu), both("%.0f", p99.Ours, p99.Baseline), both("%.1f", r.AllocsOurs, r.AllocsBaseline))
	return err
}

const legend = `
throughput and CPU: pgkeel to pgxpool, the median of the rounds' ratios and its
quartiles; throughput is better higher, CPU (of this process) lower. p99 and
allocations per operation: pgkeel / pgxpool.
`

func (t *table) end() error {
	if _, err := io.WriteString(t.w, legend); err != nil {
		return err
	}
	if len(t.notes) > 0 {
		if _, err := io.WriteString(t.w, strings.Join(t.notes, "")); err != nil {
			return err
		}
	}
	for _, list := range []struct {
		verb  string
		names []string
	}{{"held", t.held}, {"missed", t.missed}} {
		if len(list.names) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(t.w, "bar %s: %s\n", list.verb, strings.Join(list.names, ", ")); err != nil {
			return err
		}
	}
	return nil
}

// judge holds a result against the scenario's bar.
func (t *table) judge(r Result) {
	faults := faults(r)
	switch {
	case r.Scenario.Bar == Bar{}:
	case len(faults) > 0:
		t.missed = append(t.missed, r.Scenario.Name+" ("+strings.Join(faults, ", ")+")")
	default:
		t.held = append(t.held, r.Scenario.Name)
	}
}

// allocTolerance is for what the runtime and the pools' own goroutines allocate
// meanwhile, and for allocations that many operations share.
const allocTolerance = 0.1

// faults say in what a result misses its bar.
func faults(r Result) []string {
	var faults []string
	bar := r.Scenario.Bar
	if cpu, ok := r.metric(cpuPerOp); ok && bar.CPU > 0 && cpu.Ratio > bar.CPU {
		faults = append(faults, fmt.Sprintf("CPU %.3f > %.2f", cpu.Ratio, bar.CPU))
	}
	if speed, ok := r.metric(throughput); ok && bar.Throughput > 0 && speed.Ratio < bar.Throughput {
		faults = append(faults, fmt.Sprintf("throughput %.3f < %.2f", speed.Ratio, bar.Throughput))
	}
	if p99, ok := r.metric(latency99); ok && bar.P99 > 0 && p99.Ratio > bar.P99 {
		faults = append(faults, fmt.Sprintf("p99 %.3f > %.2f", p99.Ratio, bar.P99))
	}
	if more := r.AllocsOurs - r.AllocsBaseline; bar.NoMoreAllocs && more > allocTolerance {
		faults = append(faults, fmt.Sprintf("%.1f allocations more", more))
	}
	if p50, ok := r.metric(latency50); ok && bar.Added > 0 && p50.Ours-p50.Baseline > float64(bar.Added.Microseconds()) {
		faults = append(faults, fmt.Sprintf("median %.0f us longer", p50.Ours-p50.Baseline))
	}
	return faults
}

func perSecond(v float64) string {
	if v < 1000 {
		return fmt.Sprintf("%.1f/s", v)
	}
	return fmt.Sprintf("%.0f/s", v)
}

// spread is a ratio with its quartiles.
func spread(m Metric) string {
	if m.Unit == "" { // could not be measured
		return "-"
	}
	return fmt.Sprintf("%.3f (%.2f-%.2f)", m.Ratio, m.Low, m.High)
}

func both(format string, our, base float64) string {
	return fmt.Sprintf(format+" / "+format, our, base)
}
