package pgx

import (
	"strconv"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

func TestClassifierRemembers(t *testing.T) {
	var c classifier
	var learners sync.WaitGroup
	for range 4 {
		learners.Go(func() {
			for i := range classifierBound {
				if got := c.classify("set x = " + strconv.Itoa(i)); got != sqltext.State {
					t.Errorf("%b", got)
				}
			}
		})
	}
	learners.Wait()
	if n := len(*c.known.Load()); n != classifierBound {
		t.Errorf("%d statements known, want %d", n, classifierBound)
	}
	if got := c.classify("listen beyond_the_bound"); got != sqltext.State {
		t.Errorf("beyond the bound: %b", got)
	}
	if n := len(*c.known.Load()); n != classifierBound {
		t.Errorf("it goes on learning: %d", n)
	}
	if n := testing.AllocsPerRun(100, func() { c.classify("set x = 1") }); n != 0 {
		t.Errorf("a known statement costs %v allocations", n)
	}
}
