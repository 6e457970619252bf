package cluster

import (
	"sort"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// history is where the primary was, and when. Against it lag is measured: a standby
// that is cut off does not know how old it is, and what it last replayed may be old
// because nothing was written since.
type history struct{ moments []moment }

// moment is a position that the primary had reached at a time.
type moment struct {
	lsn providers.LSN
	at  time.Time
}

const (
	// maxMoments is how many are kept before they are thinned out. That leaves fewer,
	// however long the time is.
	maxMoments = 512
	// exactness is the part of a lag by which it is told longer than it is.
	exactness = 16
)

// add notes that the primary was there. Positions beyond belong to a log that was
// lost in a failover.
func (h *history) add(lsn providers.LSN, at time.Time) {
	n := h.after(lsn)
	h.moments = h.moments[:n]
	if n > 0 && h.moments[n-1].lsn == lsn {
		h.moments[n-1].at = at // nothing was written since
		return
	}
	if n >= maxMoments {
		h.thin(at)
	}
	h.moments = append(h.moments, moment{lsn, at})
}

// reached is the last time at which the primary was certainly not ahead of lsn. Of a
// position from before the first look nothing is known.
func (h *history) reached(lsn providers.LSN) (at time.Time, ok bool) {
	n := h.after(lsn)
	if n == 0 {
		return time.Time{}, false
	}
	return h.moments[n-1].at, true
}

// after is the index of the first moment beyond lsn.
func (h *history) after(lsn providers.LSN) int {
	return sort.Search(len(h.moments), func(i int) bool { return h.moments[i].lsn > lsn })
}

// thin drops moments that hardly tell more than their neighbours do, at that age.
func (h *history) thin(now time.Time) {
	all := h.moments
	h.moments = all[:1]
	for i, next := range all[2:] {
		if next.at.Sub(h.moments[len(h.moments)-1].at) > now.Sub(next.at)/exactness {
			h.moments = append(h.moments, all[i+1])
		}
	}
	h.moments = append(h.moments, all[len(all)-1])
}
