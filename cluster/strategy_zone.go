package cluster

import (
	"errors"
	"slices"
	"sync/atomic"
)

// NearestZone takes the replicas whose [Host.Zone] is zone, or all if none of those
// is fit, and leaves the choice among them to then.
func NearestZone(zone string, then Strategy) Strategy {
	return &nearestZone{zone: zone, then: then}
}

type nearestZone struct {
	zone string
	then Strategy
	// known is what was found last, so that nothing is made for a choice among the
	// same replicas.
	known atomic.Pointer[near]
}

// near are those of all replicas that are in the zone, and where each stands.
type near struct {
	all, inZone []*Replica
	places      []int
}

func (s *nearestZone) Choose(replicas []*Replica) int {
	n := s.known.Load()
	if n == nil || !slices.Equal(n.all, replicas) {
		n = s.find(replicas)
		s.known.Store(n)
	}
	if len(n.inZone) == 0 {
		return s.then.Choose(replicas)
	}
	return n.places[inRange(s.then.Choose(n.inZone), len(n.places))]
}

func (s *nearestZone) find(replicas []*Replica) *near {
	n := &near{all: slices.Clone(replicas)}
	for i, r := range replicas {
		if r.host.Zone == s.zone {
			n.inZone, n.places = append(n.inZone, r), append(n.places, i)
		}
	}
	return n
}

func (s *nearestZone) check() error {
	switch {
	case s.zone == "":
		return errors.New("NearestZone has no zone; name the one that this program runs in, or leave NearestZone out")
	case s.then == nil:
		return errors.New("NearestZone has no strategy for the replicas of a zone; RoundRobin() is one")
	}
	if c, ok := s.then.(checker); ok {
		return c.check()
	}
	return nil
}

// inRange has an index that is out of range count as 0.
func inRange(index, length int) int {
	if index < 0 || index >= length {
		return 0
	}
	return index
}
