package cluster

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/pgkeel/pgkeel/providers"
)

// Strategy chooses the replica that a read goes to.
type Strategy interface {
	// Choose returns the index of one of the replicas, all of which are fit for the
	// read. There is at least one. An index that is out of range counts as 0. Choose
	// is called for each read, from several goroutines: it has to be quick, and must
	// neither change nor keep the slice.
	Choose(replicas []*Replica) int
}

// RoundRobin takes the replica that has not been taken for the longest time. So none
// is left out, also when not every read may go to every replica.
func RoundRobin() Strategy { return &roundRobin{} }

type roundRobin struct{ turns atomic.Uint64 }

// Choose does not count and take the rest of a division: when the number of replicas
// that are fit changes to and fro, that would take some of them never.
func (s *roundRobin) Choose(replicas []*Replica) int {
	for {
		chosen, turn := 0, replicas[0].turn.Load()
		for i, r := range replicas[1:] {
			if t := r.turn.Load(); t < turn {
				chosen, turn = i+1, t
			}
		}
		if replicas[chosen].turn.CompareAndSwap(turn, s.turns.Add(1)) {
			return chosen
		}
	}
}

// Random takes any replica, each as often as the others.
func Random() Strategy { return random{} }

type random struct{}

func (random) Choose(replicas []*Replica) int { return below(len(replicas)) }

// Weighted takes any replica, each as often as its [Host.Weight] says: one of weight
// 3 three times as often as one of weight 1.
func Weighted() Strategy { return weighted{} }

type weighted struct{}

func (weighted) Choose(replicas []*Replica) int {
	total := 0
	for _, r := range replicas {
		total += r.host.share()
	}
	rest := below(total)
	for i, r := range replicas {
		if rest -= r.host.share(); rest < 0 {
			return i
		}
	}
	return 0
}

// below is a number from 0 on and below n.
func below(n int) int { return rand.IntN(n) } //nolint:gosec // it is no secret where a read goes

// checker is a strategy or a discovery that can be wrong.
type checker interface {
	// check returns what is wrong with it, in words that follow its name.
	check() error
}

// checkPart reports what is wrong with a part of the options, as a
// [*providers.ConfigError] of its field.
func checkPart(field string, part any) error {
	if c, ok := part.(checker); ok {
		if err := c.check(); err != nil {
			return &providers.ConfigError{Field: "Cluster." + field, Problem: err.Error()}
		}
	}
	return nil
}
