package cluster

import (
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

func TestHistory(t *testing.T) {
	var h history
	start := time.Now()
	second := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	if _, ok := h.reached(100); ok {
		t.Error("something is known")
	}
	for n, lsn := range []providers.LSN{10, 20, 20, 30} {
		h.add(lsn, second(n))
	}
	for lsn, want := range map[providers.LSN]int{10: 0, 19: 0, 20: 2, 29: 2, 30: 3, 99: 3} {
		if at, ok := h.reached(lsn); !ok || !at.Equal(second(want)) {
			t.Errorf("%v was reached at %s, want %s", lsn, at, second(want))
		}
	}
	if _, ok := h.reached(9); ok {
		t.Error("it is known of before the first look")
	}
	// The new primary is not as far as the old one was.
	h.add(25, second(9))
	for lsn, want := range map[providers.LSN]int{20: 2, 25: 9, 30: 9} {
		if at, _ := h.reached(lsn); !at.Equal(second(want)) {
			t.Errorf("%v was reached at %s, want %s", lsn, at, second(want))
		}
	}
}

// A day takes no more room than a few minutes, and what is told of it is hardly too long, and never too short.
func TestHistoryOfADay(t *testing.T) {
	var h history
	start := time.Now()
	const day = 24 * 60 * 60
	for n := range day {
		h.add(providers.LSN(n+1), start.Add(time.Duration(n)*time.Second))
	}
	if len(h.moments) > maxMoments {
		t.Errorf("%d moments", len(h.moments))
	}
	for n := range day {
		at, ok := h.reached(providers.LSN(n + 1))
		told, lag := time.Duration(day-1)*time.Second-at.Sub(start), time.Duration(day-1-n)*time.Second
		if !ok || told < lag || told > lag+lag/exactness+time.Second {
			t.Fatalf("the lag is %s, and told to be %s", lag, told)
		}
	}
}
