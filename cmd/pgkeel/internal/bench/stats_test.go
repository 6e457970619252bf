package bench

import (
	"math"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{nil, 0.5, 0},
		{[]float64{7}, 0.25, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{5, 4, 3, 2, 1}, 0.25, 2},
		{[]float64{5, 4, 3, 2, 1}, 0.75, 4},
		{[]float64{1, 2}, 1, 2},
		{[]float64{1, 2}, 0, 1},
	} {
		if got := quantile(tc.values, tc.q); got != tc.want {
			t.Errorf("quantile %v of %v is %v, want %v", tc.q, tc.values, got, tc.want)
		}
	}
}

func TestQuantileLeavesItsInputAlone(t *testing.T) {
	values := []float64{3, 1, 2}
	quantile(values, 0.5)
	if values[0] != 3 || values[1] != 1 {
		t.Errorf("sorted in place: %v", values)
	}
}

func TestHistogramBucketsCoverEveryLatencyWithinOnePartIn32(t *testing.T) {
	previous := -1
	for _, d := range []time.Duration{0, 1, 31, 32, 33, 63, 64, 1000, 12345, time.Millisecond, time.Second, time.Hour} {
		b := bucketOf(d)
		if b < previous {
			t.Errorf("%v is in a bucket below that of a shorter one", d)
		}
		previous = b
		if top := upperBound(b); top < d || float64(top-d) > float64(d)/32 {
			t.Errorf("%v is told as %v", d, top)
		}
		if b > 0 && upperBound(b-1) >= d {
			t.Errorf("%v also fits the bucket before its own", d)
		}
	}
	if b := bucketOf(math.MaxInt64); b != octaves*subBuckets-1 {
		t.Errorf("the longest latency is in bucket %d", b)
	}
	if bucketOf(-1) != 0 {
		t.Error("a clock that went back must not count outside of the histogram")
	}
}

func TestHistogramQuantiles(t *testing.T) {
	var h, other histogram
	if h.quantile(0.99) != 0 {
		t.Error("nothing recorded has no latency")
	}
	for i := range 99 {
		h.record(time.Duration(i % 20))
	}
	other.record(time.Second)
	h.add(&other)
	if got := h.quantile(0.5); got != 9 {
		t.Errorf("p50 is %v", got)
	}
	if got := h.quantile(0.98); got != 19 {
		t.Errorf("p98 is %v", got)
	}
	if got := h.quantile(1); got < time.Second || got > time.Second*33/32 {
		t.Errorf("the maximum is %v", got)
	}
}

// aSample has as many operations in a second, with a CPU of 10 µs and 5
// allocations of 20 bytes each.
func aSample(ops int64) sample {
	s := sample{
		ops: ops, wall: time.Second, cpu: time.Duration(ops) * 10 * time.Microsecond,
		mallocs: uint64(ops) * 5, bytes: uint64(ops) * 100,
	}
	for range ops {
		s.latency.record(time.Second / time.Duration(ops))
	}
	return s
}

func TestSummaryIsTheMedianOfTheRoundsRatios(t *testing.T) {
	// The medians of the sides alone would give 1; within the rounds ours was
	// mostly twice as fast.
	pairs := [][2]sample{
		{aSample(200), aSample(100)},
		{aSample(100), aSample(50)},
		{aSample(50), aSample(200)},
	}
	r := summarize(Scenario{Name: "x"}, pairs)
	m, ok := r.metric(throughput)
	if !ok || m.Ratio != 2 || m.Ours != 100 || m.Baseline != 100 || m.Low != 1.125 || m.High != 2 {
		t.Errorf("throughput: %+v", m)
	}
	if cpu, _ := r.metric(cpuPerOp); cpu.Ours != 10 || cpu.Baseline != 10 || cpu.Ratio != 1 || cpu.Better != "lower" {
		t.Errorf("CPU: %+v", cpu)
	}
	if b, _ := r.metric(bytesPerOp); b.Ours != 100 {
		t.Errorf("bytes: %+v", b)
	}
	if r.AllocsOurs != 5 || r.AllocsBaseline != 5 {
		t.Errorf("allocations: %v / %v", r.AllocsOurs, r.AllocsBaseline)
	}
}

func TestSummaryLeavesOutWhatCouldNotBeMeasured(t *testing.T) {
	noCPU, nothing := aSample(10), sample{}
	noCPU.cpu = 0
	r := summarize(Scenario{}, [][2]sample{{noCPU, aSample(10)}, {nothing, aSample(10)}})
	if _, ok := r.metric(cpuPerOp); ok {
		t.Error("a CPU time of 0 has no ratio")
	}
	if m, ok := r.metric(throughput); !ok || m.Ratio != 1 {
		t.Errorf("throughput: %+v", m)
	}
	if r := summarize(Scenario{}, [][2]sample{{nothing, nothing}}); len(r.Metrics) != 0 {
		t.Errorf("metrics of nothing: %+v", r.Metrics)
	}
}
