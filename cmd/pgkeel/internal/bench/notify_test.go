package bench

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/pgtest"
)

func TestTheBarOfALatency(t *testing.T) {
	for ours, want := range map[float64][]string{
		150: nil,
		151: {"median 51 us longer"},
		50:  nil,
	} {
		r := Result{
			Scenario: Scenario{Bar: Bar{Added: 50 * time.Microsecond}},
			Metrics:  []Metric{{Suffix: latency50, Ours: ours, Baseline: 100}},
		}
		if got := faults(r); !slices.Equal(got, want) {
			t.Errorf("%v instead of 100: %q", ours, got)
		}
	}
}

// A side that loses something says so instead of waiting.
func TestNotificationsThatDoNotArrive(t *testing.T) {
	site := Site{DSN: pgtest.NewDB(t), Schema: "s"}
	for _, sc := range notifications() {
		for i, open := range [2]Opener{sc.Ours, sc.Baseline} {
			if _, err := open(t.Context(), Site{DSN: "host=/nowhere"}); err == nil {
				t.Errorf("%s, %s: opened on nothing", sc.Name, sideNames[i])
			}
			side, err := open(t.Context(), site)
			if err != nil {
				t.Fatal(err)
			}
			if err := side.Op(t.Context(), 0, 0); err != nil {
				t.Errorf("%s, %s: %v", sc.Name, sideNames[i], err)
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := side.Op(ended, 0, 0); !errors.Is(err, context.Canceled) {
				t.Errorf("%s, %s: the error is %v", sc.Name, sideNames[i], err)
			}
			if err := side.Close(ended); err != nil {
				t.Errorf("%s, %s: %v", sc.Name, sideNames[i], err)
			}
		}
	}
}
