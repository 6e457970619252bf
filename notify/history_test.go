package notify

import "testing"

func TestHistory(t *testing.T) {
	at := func(i int) delivered { return delivered{Position{uint64(i), int64(i)}, int64(i)} }
	h := history{base: Position{0, 5}}
	for i := 1; i <= historySize+3; i++ {
		h.add(at(i))
	}
	if len(h.records) != historySize || h.base != at(3).Position || h.records[0] != at(4) {
		t.Errorf("%d records from %v behind %v", len(h.records), h.records[0], h.base)
	}
	there := map[delivered]bool{}
	for i := range h.records {
		there[h.records[i]] = true
	}
	if _, parted := h.rewind(there); parted || len(h.records) != historySize {
		t.Error("it went back without a reason")
	}
	delete(there, at(1000))
	if p, parted := h.rewind(there); !parted || p != at(999).Position || len(h.records) != 996 {
		t.Errorf("it went back to %v, with %d records", p, len(h.records))
	}
	for _, d := range []struct {
		delivered
		want bool
	}{{at(1000), false}, {at(1001), true}, {at(1001), false}, {at(1003), true}, {at(999), false}} {
		if h.repeated(d.delivered) != d.want {
			t.Errorf("%v repeated: %v", d.delivered, !d.want)
		}
	}
	if p, parted := h.rewind(nil); !parted || p != h.base || len(h.records) != 0 {
		t.Errorf("it went back to %v", p)
	}
}
