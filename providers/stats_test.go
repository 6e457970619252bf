package providers_test

import (
	"slices"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

func TestWaitOutcomeString(t *testing.T) {
	for outcome, want := range map[providers.WaitOutcome]string{
		providers.WaitAcquired:     "acquired",
		providers.WaitExhausted:    "exhausted",
		providers.WaitUnreachable:  "unreachable",
		providers.WaitCanceled:     "canceled",
		providers.WaitCanceled + 1: "invalid",
		providers.WaitOutcome(255): "invalid",
	} {
		if got := outcome.String(); got != want {
			t.Errorf("WaitOutcome(%d).String() = %q, want %q", outcome, got, want)
		}
	}
}

func TestWaitHistogramCount(t *testing.T) {
	var h providers.WaitHistogram
	for i := range h.Counts[providers.WaitExhausted] {
		h.Counts[providers.WaitExhausted][i] = 1 << i
	}
	h.Counts[providers.WaitCanceled][len(providers.WaitBuckets)] = 7 // longer than every bound
	for outcome, want := range map[providers.WaitOutcome]int64{
		providers.WaitAcquired:     0,
		providers.WaitExhausted:    1<<(len(providers.WaitBuckets)+1) - 1,
		providers.WaitUnreachable:  0,
		providers.WaitCanceled:     7,
		providers.WaitOutcome(255): 0,
	} {
		if got := h.Count(outcome); got != want {
			t.Errorf("Count(%s) = %d, want %d", outcome, got, want)
		}
	}
}

func TestWaitBucketsAscend(t *testing.T) {
	if !slices.IsSorted(providers.WaitBuckets[:]) || providers.WaitBuckets[0] <= 0 {
		t.Errorf("%v", providers.WaitBuckets)
	}
}
