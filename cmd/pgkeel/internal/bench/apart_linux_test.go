package bench

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHalvesOfTheProcessors(t *testing.T) {
	for _, c := range []struct {
		name            string
		cpus            []int
		client, servers int
	}{
		{"two", []int{0, 1}, 1, 1},
		{"some of many, an odd number", []int{3, 7, 8}, 1, 2},
		{"four", []int{0, 1, 2, 3}, 2, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var all unix.CPUSet
			for _, cpu := range c.cpus {
				all.Set(cpu)
			}
			client, servers := halves(&all)
			if client.Count() != c.client || servers.Count() != c.servers {
				t.Errorf("%d and %d processors, not %d and %d", client.Count(), servers.Count(), c.client, c.servers)
			}
			for _, cpu := range c.cpus {
				if client.IsSet(cpu) == servers.IsSet(cpu) {
					t.Errorf("processor %d is in both or in none", cpu)
				}
			}
		})
	}
}

func TestKeptApartAndGivenBack(t *testing.T) {
	affinity := func() (set unix.CPUSet) {
		if err := unix.SchedGetaffinity(os.Getpid(), &set); err != nil {
			t.Fatal(err)
		}
		return set
	}
	before, procs := affinity(), runtime.GOMAXPROCS(0)
	undo, err := keepApart(nil)
	if before.Count() < 2 {
		if err == nil {
			t.Error("one processor was made two")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if now := affinity(); now.Count() != before.Count()/2 || runtime.GOMAXPROCS(0) != now.Count() {
		t.Errorf("%d processors and GOMAXPROCS %d", now.Count(), runtime.GOMAXPROCS(0))
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if affinity() != before || runtime.GOMAXPROCS(0) != procs {
		t.Errorf("not given back: %d processors, GOMAXPROCS %d", before.Count(), runtime.GOMAXPROCS(0))
	}
}
