package demo

import (
	"slices"
	"time"
)

// timings are how long the operations took, by name, in the order in which the
// names came up.
type timings struct {
	series []series
}

// series are the operations of one name.
type series struct {
	name string
	// over is how long they went on, all callers side by side.
	over time.Duration
	took []time.Duration // sorted
}

// add notes operations that took so long each.
func (t *timings) add(name string, over time.Duration, took []time.Duration) {
	slices.Sort(took)
	t.series = append(t.series, series{name, over, took})
}

// rate is how many there were a second.
func (s series) rate() float64 {
	if s.over <= 0 {
		return 0
	}
	return float64(len(s.took)) / s.over.Seconds()
}

// percentile returns the smallest of the sorted samples that p per cent of them
// do not exceed (the nearest rank), or 0 without samples.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := (p*len(sorted) + 99) / 100 // rounded up, in integers: no rank is missed by a bit
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// stopwatch takes the times of one caller.
type stopwatch map[string][]time.Duration

// time runs fn and notes how long it took, if it succeeded.
func (s stopwatch) time(name string, fn func() error) error {
	begin := time.Now()
	err := fn()
	if err == nil {
		s[name] = append(s[name], time.Since(begin))
	}
	return err
}

// collect adds up the stopwatches of all callers under those names.
func (t *timings) collect(over time.Duration, watches []stopwatch, names ...string) {
	for _, name := range names {
		var all []time.Duration
		for _, w := range watches {
			all = append(all, w[name]...)
		}
		t.add(name, over, all)
	}
}
