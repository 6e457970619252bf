package bench

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

// The two sides, as indexes.
const (
	ours = iota
	baseline
)

var sideNames = [2]string{ours: "pgkeel", baseline: "pgxpool"}

// opLimit ends a round that hangs. It also gives every operation a deadline, as
// a service would, which matters where pgkeel sends it along.
const opLimit = time.Minute

// sample is what one side did in one turn.
type sample struct {
	ops       int64
	wall, cpu time.Duration
	mallocs   uint64
	bytes     uint64
	latency   histogram
}

// add puts another sample of the same side to this one.
func (s *sample) add(other sample) {
	s.ops += other.ops
	s.wall += other.wall
	s.cpu += other.cpu
	s.mallocs += other.mallocs
	s.bytes += other.bytes
}

// defaultSlice is how long a side works before it is the other's turn. On a
// shared machine the speed of one and the same code changes by a third from one
// tenth of a second to the next; within a few milliseconds both sides meet the
// same conditions.
const defaultSlice = 2 * time.Millisecond

// meter takes samples.
type meter struct {
	// duration is what each side gets in a round, a slice at a time.
	duration, slice time.Duration
	callers         int
	// timed says which operations count for the latency; nil for all.
	timed func(caller, n int) bool
}

// play warms both sides up and plays the rounds.
func (m meter) play(ctx context.Context, sides [2]Side, rounds int, reset func() error) ([][2]sample, error) {
	pairs := make([][2]sample, 0, rounds)
	for range 1 + rounds {
		if err := reset(); err != nil {
			return nil, fmt.Errorf("reset: %w", err)
		}
		pair, err := m.round(ctx, sides)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair)
	}
	return pairs[1:], nil // the first one was the warm-up
}

// round lets the sides work in turns. It begins without garbage; what is
// collected on the way falls to the sides by chance, in proportion to what they
// allocate.
func (m meter) round(ctx context.Context, sides [2]Side) (pair [2]sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*m.duration+opLimit)
	defer cancel()
	var crews [2]*crew
	for i, side := range sides {
		crews[i] = newCrew(ctx, m.callers, side.Op, m.timed)
		defer crews[i].dismiss()
	}
	for i, c := range crews {
		// Outside of the measuring: connections that idled get their ping now.
		if err := c.rehearse(); err != nil {
			return pair, fmt.Errorf("%s: %w", sideNames[i], err)
		}
	}
	runtime.GC()
	for turn, turns := 0, m.turns(); turn < turns; turn++ {
		side := whose(turn)
		s, err := crews[side].work(m.slice)
		if err != nil {
			return pair, fmt.Errorf("%s: %w", sideNames[side], err)
		}
		pair[side].add(s)
	}
	for i, c := range crews {
		pair[i].latency = c.latency()
	}
	return pair, nil
}

// turns is the number of slices in a round, those of both sides.
func (m meter) turns() int { return 2 * int(max(1, (m.duration+m.slice/2)/m.slice)) }

// whose turn it is: A B B A, so that what drifts favours nobody.
func whose(turn int) int { return turn&1 ^ turn>>1&1 }

// reading is the state of the process's meters.
type reading struct {
	at      time.Time
	cpu     time.Duration
	mallocs uint64
	bytes   uint64
}

func takeReading() reading {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return reading{mallocs: mem.Mallocs, bytes: mem.TotalAlloc, cpu: cpuTime(), at: time.Now()}
}

func (r reading) since(before reading) sample {
	return sample{
		wall: r.at.Sub(before.at), cpu: r.cpu - before.cpu,
		mallocs: r.mallocs - before.mallocs, bytes: r.bytes - before.bytes,
	}
}
