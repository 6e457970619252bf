package cluster

import (
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func replicasAt(hosts ...Host) []*Replica {
	replicas := make([]*Replica, len(hosts))
	for i, h := range hosts {
		replicas[i] = newReplica(h)
	}
	return replicas
}

// chosen counts how often each replica is chosen.
func chosen(s Strategy, replicas []*Replica, choices int) []int {
	counts := make([]int, len(replicas))
	for range choices {
		counts[s.Choose(replicas)]++
	}
	return counts
}

// wantShares checks counts against what chance makes of shares: six standard
// deviations, which a fair strategy exceeds once in 500 million times.
func wantShares(t *testing.T, counts []int, shares ...float64) {
	t.Helper()
	all, whole := 0, 0.0
	for i, n := range counts {
		all, whole = all+n, whole+shares[i]
	}
	for i, n := range counts {
		p := shares[i] / whole
		want := float64(all) * p
		if math.Abs(float64(n)-want) > 6*math.Sqrt(want*(1-p))+0.5 {
			t.Errorf("%d was chosen %d times of %d, want about %.0f: %v", i, n, all, want, counts)
		}
	}
}

func TestEqualShares(t *testing.T) {
	for name, s := range map[string]Strategy{
		"round robin": RoundRobin(), "random": Random(), "weighted": Weighted(),
		"least connections": LeastConnections(), "lowest latency": LowestLatency(),
		"zone": NearestZone("a", Random()),
	} {
		t.Run(name, func(t *testing.T) {
			for n := 1; n <= 5; n++ {
				shares := make([]float64, n)
				for i := range shares {
					shares[i] = 1
				}
				wantShares(t, chosen(s, replicasAt(make([]Host, n)...), 20000), shares...)
			}
		})
	}
}

func TestTrap41RoundRobin(t *testing.T) {
	s, r := RoundRobin(), replicasAt(Host{}, Host{}, Host{})
	for i := range 9 {
		if got := s.Choose(r); got != i%3 {
			t.Fatalf("choice %d is %d", i, got)
		}
	}
	// Reads that may go to two of the replicas come in turn with reads that may go to
	// all: a counter would send each of one kind to the same replica.
	all, two := make([]int, 3), make([]int, 2)
	for range 3000 {
		all[s.Choose(r)]++
		two[s.Choose(r[:2])]++
	}
	if all[2] < 1499 || two[0] < 1499 || two[1] < 1499 {
		t.Errorf("of reads for all: %v, for two: %v", all, two)
	}
	// One that was away is not made up to.
	late := append(slices.Clone(r), newReplica(Host{}))
	if n := chosen(s, late, 8); n[3] != 2 {
		t.Errorf("%v", n)
	}
}

func TestRoundRobinIsFairToManyAtOnce(t *testing.T) {
	s, r := RoundRobin(), replicasAt(make([]Host, 3)...)
	var mu sync.Mutex
	counts := make([]int, len(r))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			mine := chosen(s, r, 3000)
			mu.Lock()
			defer mu.Unlock()
			for i, n := range mine {
				counts[i] += n
			}
		})
	}
	all.Wait()
	// Each swap is of the least turn, but who compares may have read another's a little
	// earlier.
	for i, n := range counts {
		if n < 7900 || n > 8100 {
			t.Errorf("replica %d was taken %d times of 24000", i, n)
		}
	}
}

func TestWeighted(t *testing.T) {
	wantShares(t, chosen(Weighted(), replicasAt(Host{Weight: 1}, Host{Weight: 2}, Host{Weight: 5}), 40000), 1, 2, 5)
	wantShares(t, chosen(Weighted(), replicasAt(Host{}, Host{Weight: -7}, Host{Weight: 2}), 40000), 1, 1, 2)
	wantShares(t, chosen(Weighted(), replicasAt(Host{Weight: math.MaxInt}, Host{Weight: math.MaxInt}), 20000), 1, 1)
}

func TestLeastConnections(t *testing.T) {
	s, r := LeastConnections(), replicasAt(make([]Host, 4)...)
	for i, n := range []int{2, 1, 3, 1} {
		for range n {
			r[i].begin()
		}
	}
	wantShares(t, chosen(s, r, 20000), 0, 1, 0, 1)
	r[3].end(0)
	if n := chosen(s, r, 10); n[3] != 10 {
		t.Errorf("%v", n)
	}
}

func TestLowestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := LowestLatency(), replicasAt(make([]Host, 3)...)
		read := func(i int, took time.Duration) {
			r[i].begin()
			r[i].end(took)
		}
		read(0, 2*time.Millisecond)
		read(1, 4*time.Millisecond)
		read(2, time.Second)
		// Of each pair the faster: 0 of two pairs, 1 of one, and 2 of none.
		wantShares(t, chosen(s, r, 20000), 2, 1, 0)
		// Reads under way count: 3 at 2 ms each are more than one at 4 ms.
		for range 2 {
			r[0].begin()
		}
		wantShares(t, chosen(s, r, 20000), 1, 2, 0)
		r[0].end(0)
		r[0].end(0)
		// Two are read from, and so the third is not forgotten for ever.
		for range 120 {
			read(0, 2*time.Millisecond)
			read(1, 2*time.Millisecond)
			<-time.After(time.Second)
		}
		if n := chosen(s, r, 1000); n[2] == 0 {
			t.Errorf("a replica that was slow two minutes ago is not tried again: %v", n)
		}
		if got := chosen(s, r[:1], 3); got[0] != 3 {
			t.Error(got)
		}
	})
}

func TestNearestZone(t *testing.T) {
	r := replicasAt(Host{Zone: "a"}, Host{Zone: "b", Weight: 1}, Host{Zone: "c"}, Host{Zone: "b", Weight: 3})
	s := NearestZone("b", Weighted())
	wantShares(t, chosen(s, r, 20000), 0, 1, 0, 3)
	wantShares(t, chosen(s, r[:2], 1000), 0, 1)                                              // the other is not fit
	wantShares(t, chosen(s, []*Replica{r[0], r[2]}, 20000), 1, 1)                            // none is
	wantShares(t, chosen(s, []*Replica{r[2], r[3], r[1]}, 20000), 0, 3, 1)                   // another order
	wantShares(t, chosen(NearestZone("z", NearestZone("c", Random())), r, 1000), 0, 0, 1, 0) // the next nearest
}

// own is a strategy as a user may write it, wrong answers included.
type own int

func (o own) Choose([]*Replica) int { return int(o) }

func TestAnIndexOutOfRangeIsTheFirst(t *testing.T) {
	r := replicasAt(Host{Zone: "a"}, Host{Zone: "b"}, Host{Zone: "b"})
	for index, want := range map[own]int{-1: 1, 0: 1, 1: 2, 2: 1, math.MaxInt: 1, math.MinInt: 1} {
		if got := NearestZone("b", index).Choose(r); got != want {
			t.Errorf("%d: %d, want %d", index, got, want)
		}
	}
}

func TestAChoiceAllocatesNothing(t *testing.T) {
	r := replicasAt(Host{Zone: "a"}, Host{Zone: "b"}, Host{Zone: "b", Weight: 4}, Host{Zone: "a"})
	for name, s := range map[string]Strategy{
		"round robin": RoundRobin(), "random": Random(), "weighted": Weighted(),
		"least connections": LeastConnections(), "lowest latency": LowestLatency(),
		"zone": NearestZone("b", LowestLatency()), "no such zone": NearestZone("c", RoundRobin()),
	} {
		if n := testing.AllocsPerRun(100, func() { s.Choose(r) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkStrategies(b *testing.B) {
	r := replicasAt(Host{Zone: "a"}, Host{Zone: "b"}, Host{Zone: "b", Weight: 4})
	for _, x := range r {
		x.begin()
		x.end(time.Millisecond)
	}
	for name, s := range map[string]Strategy{
		"RoundRobin": RoundRobin(), "Random": Random(), "Weighted": Weighted(),
		"LeastConnections": LeastConnections(), "LowestLatency": LowestLatency(), "NearestZone": NearestZone("b", RoundRobin()),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Choose(r)
			}
		})
	}
}
