package bench

import (
	"math/bits"
	"time"
)

const (
	// subBuckets divide each power of two, which bounds the error of a
	// quantile to one part in 32.
	subBits    = 5
	subBuckets = 1 << subBits
	// octaves reach beyond an hour in nanoseconds.
	octaves = 42 - subBits + 1
)

// histogram counts latencies. It has a fixed size, so recording one neither
// allocates nor slows down as a turn gets longer.
type histogram struct {
	counts [octaves * subBuckets]uint32
	total  int64
}

func (h *histogram) record(d time.Duration) {
	h.counts[bucketOf(d)]++
	h.total++
}

func bucketOf(d time.Duration) int {
	n := uint64(max(d, 0))
	if n < subBuckets {
		return int(n)
	}
	shift := bits.Len64(n) - subBits - 1
	return min((shift+1)*subBuckets+int(n>>shift)-subBuckets, octaves*subBuckets-1) //nolint:gosec // n>>shift is under 2*subBuckets
}

// upperBound is the longest latency of a bucket.
func upperBound(bucket int) time.Duration {
	if bucket < subBuckets {
		return time.Duration(bucket)
	}
	shift := bucket/subBuckets - 1
	return time.Duration((uint64(bucket%subBuckets+subBuckets+1) << shift) - 1) //nolint:gosec // under 63 bits
}

func (h *histogram) add(other *histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
}

// quantile returns the latency that a share q of all did not exceed; 0 when
// there are none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := int64(q*float64(h.total-1)) + 1
	for i, n := range h.counts {
		if rank -= int64(n); rank <= 0 && n > 0 {
			return upperBound(i)
		}
	}
	return 0
}
