package demo

import (
	"strings"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/providers"
)

// pool is the statistics of a handle's pool.
type pool struct {
	handle string
	stats  pgkeel.PoolStats
}

// results print what came together over all scenes.
func (e *environment) results() {
	e.out.latencies(&e.timings)
	var pools []pool
	for _, h := range e.handles {
		if h.name != "" {
			pools = append(pools, pool{h.name, h.db.Stats()})
		}
	}
	e.out.pools(pools)
	e.out.waits(pools)
	e.out.hooks(&e.events)
	s := e.db.Stats()
	e.out.check(s.HookPanics == 0 && s.Leaks == 0 && s.Reclaimed == 0,
		"no connection was forgotten, and no hook panicked")
	e.out.check(e.events.count(pgkeel.EventAcquire) == e.events.count(pgkeel.EventRelease)+e.failedAcquires(),
		"for every connection that was acquired the hooks saw its release")
}

// failedAcquires are those that have no release.
func (e *environment) failedAcquires() int64 { return e.events[pgkeel.EventAcquire].failed.Load() }

// latencies print how long the operations took.
func (r *report) latencies(t *timings) {
	if len(t.series) == 0 {
		return
	}
	r.section("Throughput and latency")
	var rows [][]string
	for _, s := range t.series {
		rows = append(rows, []string{
			s.name, count(len(s.took)), count(int(s.rate())),
			short(percentile(s.took, 50)), short(percentile(s.took, 95)), short(percentile(s.took, 99)), short(percentile(s.took, 100)),
		})
	}
	r.table([]string{"operation", "count", "a second", "p50", "p95", "p99", "longest"}, rows)
}

// pools print the statistics of the pools side by side.
func (r *report) pools(pools []pool) {
	r.section("Pools")
	figures := []struct {
		name string
		of   func(pgkeel.PoolStats) int64
	}{
		{"size", func(s pgkeel.PoolStats) int64 { return int64(s.MaxSize) }},
		{"open now", func(s pgkeel.PoolStats) int64 { return int64(s.Open) }},
		{"in use now", func(s pgkeel.PoolStats) int64 { return int64(s.InUse) }},
		{"acquired", func(s pgkeel.PoolStats) int64 { return s.Acquires }},
		{"waited for a connection", func(s pgkeel.PoolStats) int64 { return waited(s.Waits) }},
		{"connects", func(s pgkeel.PoolStats) int64 { return s.Connects }},
		{"failed connects", func(s pgkeel.PoolStats) int64 { return s.ConnectErrors }},
		{"connections ended", func(s pgkeel.PoolStats) int64 { return s.Closed }},
		{"session resets", func(s pgkeel.PoolStats) int64 { return s.Resets }},
	}
	header := []string{"handle"}
	for _, p := range pools {
		header = append(header, p.handle)
	}
	var rows [][]string
	for _, f := range figures {
		row := []string{f.name}
		for _, p := range pools {
			row = append(row, count(f.of(p.stats)))
		}
		rows = append(rows, row)
	}
	r.table(header, rows)
}

// outcomes are the ways in which a wait can end.
var outcomes = []providers.WaitOutcome{
	providers.WaitAcquired, providers.WaitExhausted, providers.WaitUnreachable, providers.WaitCanceled,
}

func waited(h providers.WaitHistogram) int64 {
	var n int64
	for _, o := range outcomes {
		n += h.Count(o)
	}
	return n
}

// waits print the histograms of waits, without the buckets and outcomes that
// stayed empty everywhere.
func (r *report) waits(pools []pool) {
	var rows [][]string
	last := 0
	for _, p := range pools {
		for _, o := range outcomes {
			if p.stats.Waits.Count(o) == 0 {
				continue
			}
			row := []string{p.handle + ", " + o.String()}
			for b, n := range p.stats.Waits.Counts[o] {
				if n > 0 {
					last = max(last, b)
				}
				row = append(row, count(n))
			}
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		return
	}
	for i := range rows {
		rows[i] = rows[i][:last+2]
	}
	r.line("")
	r.table(append([]string{"waits by length"}, bucketNames()[:last+1]...), rows)
}

func bucketNames() []string {
	var names []string
	for _, b := range providers.WaitBuckets {
		names = append(names, "≤ "+bound(b))
	}
	return append(names, "longer")
}

// bound prints the bound of a bucket, which is a round number.
func bound(d time.Duration) string {
	s := d.String()
	unit := strings.TrimLeft(s, "0123456789")
	return strings.TrimSuffix(s, unit) + " " + unit
}

// hooks print what the hook of the main handle saw.
func (r *report) hooks(t *tally) {
	r.section("What the hooks of the primary's handle saw")
	var rows [][]string
	for event := range tallied {
		if n := t.count(event); n > 0 {
			rows = append(rows, []string{event.String(), count(n), count(t[event].failed.Load()), short(t.mean(event))})
		}
	}
	r.table([]string{"event", "count", "failed", "mean"}, rows)
	r.line("failures are the refused transfers, taken numbers, conflicts and losses that the scenes provoke")
}
