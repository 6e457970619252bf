package cluster

import (
	"math/rand/v2"
	"sync/atomic"
)

// Strategy chooses the replica that a read goes to.
type Strategy interface {
	// Choose returns the index of one of the replicas, all of which are fit for the
	// read. There is at least one. An index that is out of range counts as 0. Choose
	// is called for each read, from several goroutines: it has to be quick, and must
	// neither change nor keep the slice.
	Choose(replicas []*Replica) int
}

// RoundRobin takes one replica after the other. It is the default.
func RoundRobin() Strategy { return &roundRobin{} }

type roundRobin struct{ next atomic.Uint64 }

func (s *roundRobin) Choose(replicas []*Replica) int {
	return int((s.next.Add(1) - 1) % uint64(len(replicas))) //nolint:gosec // less than the length
}

// Random takes any replica, each as often as the others.
func Random() Strategy { return random{} }

type random struct{}

func (random) Choose(replicas []*Replica) int { return rand.IntN(len(replicas)) } //nolint:gosec // no secret
