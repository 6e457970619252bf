package cluster

import (
	"errors"
	"sync"
)

// NearestZone takes the replicas whose [Host.Zone] is zone, or all if none of those
// is fit, and leaves the choice among them to then.
func NearestZone(zone string, then Strategy) Strategy {
	return &nearestZone{zone: zone, then: then}
}

type nearestZone struct {
	zone string
	then Strategy
	// scratch has *near for choices to come, so that none allocates.
	scratch sync.Pool
}

// near are the replicas in the zone, and where each stood among all.
type near struct {
	replicas []*Replica
	places   []int
}

func (s *nearestZone) Choose(replicas []*Replica) int {
	n, _ := s.scratch.Get().(*near)
	if n == nil {
		n = &near{}
	}
	defer s.scratch.Put(n)
	for i, r := range replicas {
		if r.host.Zone == s.zone {
			n.replicas, n.places = append(n.replicas, r), append(n.places, i)
		}
	}
	defer n.clear()
	if len(n.replicas) == 0 {
		return s.then.Choose(replicas)
	}
	return n.places[inRange(s.then.Choose(n.replicas), len(n.places))]
}

// clear keeps no replica alive.
func (n *near) clear() {
	clear(n.replicas)
	n.replicas, n.places = n.replicas[:0], n.places[:0]
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
