package pipeline

import (
	"slices"
	"testing"
)

// Where not all of those who wait unsent can go elsewhere, those who came first do.
func TestWhoWaitsLongestIsRelievedFirst(t *testing.T) {
	e := &Engine{opts: Options{Room: func() int { return 2 }}}
	c := &conn{engine: e, session: &Session{}}
	var queue []*request
	for range 3 {
		r := requests.Get().(*request)
		r.size = 10
		queue = append(queue, r)
	}
	c.queue = slices.Clone(queue)
	c.bytes = 30
	c.load.Store(3)
	c.relieve(e.now())
	for i, r := range queue {
		if moved := r.done && r.verdict == moved; moved != (i < 2) {
			t.Errorf("the one in place %d was moved: %v", i, moved)
		}
	}
	if len(c.queue) != 1 || c.bytes != 10 || c.load.Load() != 1 {
		t.Errorf("left are %d, %d bytes, a load of %d", len(c.queue), c.bytes, c.load.Load())
	}
}
