package bench

import (
	"math"
	"slices"
)

// quantile of values that need not be sorted, interpolated between the two
// nearest; 0 of none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(math.Floor(at))
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// Metric is one quantity of a scenario on both sides.
type Metric struct {
	// Suffix follows the scenario's name in the metric's; empty for throughput.
	Suffix string
	// Unit of Ours and Baseline, which are medians over the rounds.
	Unit           string
	Ours, Baseline float64
	// Ratio is the median of the rounds' ratios of ours to the baseline, Low
	// and High are their quartiles.
	Ratio, Low, High float64
	// Better is "higher" or "lower".
	Better string
}

// Result is what a scenario came to.
type Result struct {
	Scenario Scenario
	// Metrics that could be measured, throughput first.
	Metrics []Metric
	// AllocsOurs and AllocsBaseline are allocations per operation.
	AllocsOurs, AllocsBaseline float64
	// Notes are what the sides had to tell.
	Notes []string
}

// metric finds one by its suffix.
func (r Result) metric(suffix string) (Metric, bool) {
	i := slices.IndexFunc(r.Metrics, func(m Metric) bool { return m.Suffix == suffix })
	if i < 0 {
		return Metric{}, false
	}
	return r.Metrics[i], true
}

// The suffixes of the metrics.
const (
	throughput = ""
	cpuPerOp   = ".cpu"
	latency50  = ".p50"
	latency99  = ".p99"
	bytesPerOp = ".bytes"
)

// quantities are how the metrics are read off a sample that has operations.
var quantities = []struct {
	suffix, unit, better string
	of                   func(s *sample) float64
}{
	{throughput, "ops/s", "higher", func(s *sample) float64 { return float64(s.ops) / s.wall.Seconds() }},
	{cpuPerOp, "us/op", "lower", func(s *sample) float64 { return perOp(s, s.cpu.Seconds()*1e6) }},
	{latency50, "us", "lower", func(s *sample) float64 { return s.latency.quantile(0.50).Seconds() * 1e6 }},
	{latency99, "us", "lower", func(s *sample) float64 { return s.latency.quantile(0.99).Seconds() * 1e6 }},
	{bytesPerOp, "B/op", "lower", func(s *sample) float64 { return perOp(s, float64(s.bytes)) }},
}

func perOp(s *sample, total float64) float64 { return total / float64(s.ops) }

// summarize turns the rounds of a scenario into its result.
func summarize(sc Scenario, pairs [][2]sample) Result {
	r := Result{Scenario: sc}
	for _, q := range quantities {
		if values, ok := read(pairs, q.of); ok {
			r.Metrics = append(r.Metrics, newMetric(q.suffix, q.unit, q.better, values))
		}
	}
	allocs := func(s *sample) float64 { return perOp(s, float64(s.mallocs)) }
	if values, ok := read(pairs, allocs); ok {
		m := newMetric("", "", "", values)
		r.AllocsOurs, r.AllocsBaseline = m.Ours, m.Baseline
	}
	return r
}

// read takes a quantity of both sides from every round in which it has a
// meaning: one that is 0 was not measurable, and has no ratio.
func read(pairs [][2]sample, of func(*sample) float64) (values [2][]float64, ok bool) {
	for i := range pairs {
		a, b := &pairs[i][ours], &pairs[i][baseline]
		if a.ops == 0 || b.ops == 0 || a.wall <= 0 || b.wall <= 0 {
			continue
		}
		x, y := of(a), of(b)
		if x <= 0 || y <= 0 {
			continue
		}
		values[ours], values[baseline] = append(values[ours], x), append(values[baseline], y)
	}
	return values, len(values[ours]) > 0
}

func newMetric(suffix, unit, better string, values [2][]float64) Metric {
	ratios := make([]float64, len(values[ours]))
	for i := range ratios {
		ratios[i] = values[ours][i] / values[baseline][i]
	}
	return Metric{
		Suffix: suffix, Unit: unit, Better: better,
		Ours: median(values[ours]), Baseline: median(values[baseline]),
		Ratio: median(ratios), Low: quantile(ratios, 0.25), High: quantile(ratios, 0.75),
	}
}
