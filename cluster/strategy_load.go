package cluster

import "time"

// LeastConnections takes the replica on which the fewest reads of this handle run,
// and any of them if there are several.
func LeastConnections() Strategy { return leastConnections{} }

type leastConnections struct{}

func (leastConnections) Choose(replicas []*Replica) int {
	chosen, fewest, equal := 0, replicas[0].InUse(), 1
	for i, r := range replicas[1:] {
		switch n := r.InUse(); {
		case n < fewest:
			chosen, fewest, equal = i+1, n, 1
		case n == fewest:
			// The n-th of equals takes the place with a chance of one in n.
			if equal++; below(equal) == 0 {
				chosen = i + 1
			}
		}
	}
	return chosen
}

// LowestLatency takes two replicas at random, and of those the one where a read is
// likely to be answered sooner: by its [Replica.Latency], times the reads that run
// there. Taking the best of all would send everything to one replica until it is the
// worst.
func LowestLatency() Strategy { return lowestLatency{} }

type lowestLatency struct{}

// leastLatency is what counts for a replica that is faster, or not known: one that
// comes back is not stormed.
const leastLatency = 50 * time.Microsecond

func (lowestLatency) Choose(replicas []*Replica) int {
	if len(replicas) == 1 {
		return 0
	}
	a, b := below(len(replicas)), below(len(replicas)-1)
	if b >= a {
		b++
	}
	if expected(replicas[b]) < expected(replicas[a]) {
		return b
	}
	return a
}

// expected is how long one read more is likely to take, to compare it with others.
func expected(r *Replica) float64 {
	return float64(max(r.Latency(), leastLatency)) * float64(r.InUse()+1)
}
