package notify

import (
	"context"
	"fmt"
	"time"
)

// historySize is how many delivered records a follower remembers.
const historySize = 1000

// delivered is a record that a follower has dealt with. The time tells it from
// another one in its place.
type delivered struct {
	Position

	created int64 // in microseconds, which is all that the server keeps
}

func newDelivered(p Position, created time.Time) delivered {
	return delivered{Position: p, created: created.UnixMicro()}
}

// history is what a follower delivered last. A standby that takes over may lack
// the last transactions of the old primary, and gives their ids to others: what
// these write then stands before records that were delivered already, and who
// only goes forward never sees it. So after every interruption the follower
// looks whether what it delivered is still there, and goes back to where
// histories part.
type history struct {
	// base is the position before the oldest.
	base Position
	// records are in the order of their positions.
	records []delivered
	// again are those behind the place to which it went back.
	again map[delivered]bool
}

func (h *history) add(d delivered) {
	if len(h.records) == historySize {
		h.base = h.records[0].Position
		h.records = append(h.records[:0], h.records[1:]...)
	}
	h.records = append(h.records, d)
}

// repeated reports whether a record was delivered before the follower went back.
func (h *history) repeated(d delivered) bool {
	found := h.again[d]
	delete(h.again, d)
	return found
}

// rewind returns the position up to which all records are still there. The ones
// behind it that are there as well will not be delivered again.
func (h *history) rewind(there map[delivered]bool) (Position, bool) {
	at := h.base
	for i, d := range h.records {
		if there[d] {
			at = d.Position
			continue
		}
		if h.again == nil {
			h.again = map[delivered]bool{}
		}
		for _, later := range h.records[i:] {
			if there[later] {
				h.again[later] = true
			}
		}
		h.records = h.records[:i]
		return at, true
	}
	return at, false
}

// compare looks whether the records delivered last are still there, and if not
// goes back to where they end. That they were purged looks the same, and only
// costs reading the rest of them again.
func (f *follower) compare(ctx context.Context) error {
	if len(f.past.records) == 0 {
		return nil
	}
	newest := f.past.records[len(f.past.records)-1]
	rows, err := f.q.Query(ctx, `select xid::text, id, created_at from `+f.table()+`
		where channel = $1 and (xid, id) > ($2::text::xid8, $3) and (xid, id) <= ($4::text::xid8, $5)`,
		f.s.Channel(), fmt.Sprint(f.past.base.XID), f.past.base.ID, fmt.Sprint(newest.XID), newest.ID)
	if err != nil {
		return err
	}
	defer rows.Close()
	there := map[delivered]bool{}
	for rows.Next() {
		var xid string
		var id int64
		var created time.Time
		if err := rows.Scan(&xid, &id, &created); err != nil {
			return err
		}
		p, err := newPosition(xid, id)
		if err != nil {
			return err
		}
		there[newDelivered(p, created)] = true
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if at, parted := f.past.rewind(there); parted {
		f.at = at
	}
	return nil
}
