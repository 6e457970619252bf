package pgkeel

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestPauseGrowsAndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := time.Now().Add(time.Hour)
		for attempt, most := range map[int]time.Duration{
			1: 4 * time.Millisecond, 2: 8 * time.Millisecond, 7: 256 * time.Millisecond,
			8: maxRetryPause, 100: maxRetryPause,
		} {
			var longest time.Duration
			for range 200 {
				start := time.Now()
				if !pause(t.Context(), attempt, budget) {
					t.Fatal("it gave up")
				}
				took := time.Since(start)
				if took <= 0 || took > most {
					t.Fatalf("attempt %d paused for %s", attempt, took)
				}
				longest = max(longest, took)
			}
			if longest < most/2 {
				t.Errorf("attempt %d never paused for more than %s", attempt, longest)
			}
		}
	})
}

func TestPauseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if pause(t.Context(), 1, start) {
			t.Error("it waited beyond the budget")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if pause(ctx, 1, start.Add(time.Hour)) {
			t.Error("it outlived the context")
		}
		if time.Since(start) != 0 {
			t.Error("it took its time")
		}
	})
}
