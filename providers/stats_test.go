package providers_test

import (
	"reflect"
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

// Every number of two pools is in the sum, or the larger one is.
func TestPoolStatsAdd(t *testing.T) {
	var one providers.PoolStats
	one.Pipeline = &providers.PipelineStats{}
	fill(reflect.ValueOf(&one).Elem())
	sum := one
	sum.Add(one)
	larger := map[string]bool{"OldestWait": true, "HookPanics": true, "MaxDepth": true, "RoundTrip": true}
	compare(t, "", reflect.ValueOf(sum), larger)
	if one.Pipeline.Statements != 1 {
		t.Error("a snapshot was changed")
	}
	var none providers.PoolStats
	none.Add(one)
	if !reflect.DeepEqual(none, one) {
		t.Errorf("%+v", none)
	}
	one.Add(providers.PoolStats{})
	if !reflect.DeepEqual(none, one) {
		t.Errorf("%+v", one)
	}
}

// fill sets every number to 1.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i))
		}
	default:
		v.SetInt(1)
	}
}

func compare(t *testing.T, name string, v reflect.Value, larger map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		compare(t, name, v.Elem(), larger)
	case reflect.Struct:
		for i := range v.NumField() {
			compare(t, v.Type().Field(i).Name, v.Field(i), larger)
		}
	case reflect.Array:
		for i := range v.Len() {
			compare(t, name, v.Index(i), larger)
		}
	default:
		want := int64(2)
		if larger[name] {
			want = 1
		}
		if v.Int() != want {
			t.Errorf("%s is %d, not %d", name, v.Int(), want)
		}
	}
}
