package cluster

import (
	"math"
	"sync/atomic"
	"time"
)

// How the moving average of a replica's latency follows what happens.
const (
	// latencyWindow is how far back the average reaches while there are reads.
	latencyWindow = time.Second
	// latencyFade is how long an average takes to lose most of its weight without
	// any.
	latencyFade = 10 * time.Second
)

// Replica is a standby that is fit for a read, as a [Strategy] sees it. It is safe
// for concurrent use.
type Replica struct {
	host  Host
	made  time.Time
	inUse atomic.Int64
	// turn is when RoundRobin took it last.
	turn atomic.Uint64
	// lag is how long ago the primary was where this server is, in nanoseconds.
	lag atomic.Int64
	// average is of the time to a read's first answer, the bits of a float64 in
	// nanoseconds; newest is when the newest one came, in nanoseconds since made, 0
	// for none. They are not changed together: of two reads that end at the same
	// moment one may count for nothing.
	average atomic.Uint64
	newest  atomic.Int64
}

func newReplica(h Host) *Replica { return &Replica{host: h, made: time.Now()} }

// Host is where the replica is.
func (r *Replica) Host() Host { return r.host }

// InUse is how many reads of this handle run on the replica at the moment. A
// transaction and a connection count while they are begun and taken.
func (r *Replica) InUse() int64 { return r.inUse.Load() }

// Lag is how far the replica is behind the primary, to within a heartbeat.
func (r *Replica) Lag() time.Duration { return time.Duration(r.lag.Load()) }

// Latency is how long the reads of the last second took to their first answer, on
// average. While there are none it fades, by two thirds in ten seconds, so that a
// replica that was slow once is tried again. It is 0 before the first read.
func (r *Replica) Latency() time.Duration {
	newest := r.newest.Load()
	if newest == 0 {
		return 0
	}
	age := time.Since(r.made) - time.Duration(newest)
	return time.Duration(math.Float64frombits(r.average.Load()) * remains(age, latencyFade))
}

// begin counts a read that begins.
func (r *Replica) begin() { r.inUse.Add(1) }

// end counts its end. took is the time to its first answer, 0 if there was none.
func (r *Replica) end(took time.Duration) {
	r.inUse.Add(-1)
	if took <= 0 {
		return
	}
	average, now := float64(took), time.Since(r.made)
	if newest := r.newest.Load(); newest != 0 {
		kept := remains(now-time.Duration(newest), latencyWindow)
		average = math.Float64frombits(r.average.Load())*kept + average*(1-kept)
	}
	r.average.Store(math.Float64bits(average))
	r.newest.Store(max(1, int64(now)))
}

// remains is what is left of something that old, of which an e-th is left after each
// period.
func remains(age, period time.Duration) float64 {
	return math.Exp(-float64(max(age, 0)) / float64(period))
}
