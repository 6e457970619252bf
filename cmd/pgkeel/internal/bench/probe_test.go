package bench

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// refusing is a side that cannot be opened.
func refusing(context.Context, Site) (Side, error) { return Side{}, errFull }

// paced opens sides whose operations take so long, by the size of the pool, and
// counts those that are open.
func paced(times map[int]time.Duration, open *int) Opener {
	return func(_ context.Context, site Site) (Side, error) {
		*open++
		return Side{
			Op:    func(context.Context, int, int) error { <-time.After(times[site.PoolSize]); return nil },
			Close: func(context.Context) error { *open--; return nil },
		}, nil
	}
}

func TestTheBestSizeIsThatOfTheHighestThroughput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := 0
		site := Site{Callers: 5, Duration: 10 * time.Second, PoolSize: 1}
		best, tried, err := probe(t.Context(), site, []int{2, 4, 8}, func(size int) Opener {
			return sized(size, paced(map[int]time.Duration{2: 200 * time.Millisecond, 4: 50 * time.Millisecond, 8: 100 * time.Millisecond}, &open))
		})
		if err != nil || best != 4 || open != 0 {
			t.Errorf("size %d, %d left open, %v", best, open, err)
		}
		if got := strings.Join(tried, ", "); got != "2: 25.0/s, 4: 100.0/s, 8: 50.0/s" {
			t.Error(got)
		}
	})
}

func TestAProbeThatFailsNamesTheSizeAndLeavesNothingOpen(t *testing.T) {
	open := 0
	failing := func(ctx context.Context, site Site) (Side, error) {
		side, err := paced(nil, &open)(ctx, site)
		side.Op = func(_ context.Context, _, n int) error {
			if n == 2 {
				return errFull
			}
			return nil
		}
		return side, err
	}
	for name, opener := range map[string]Opener{"cannot open": refusing, "fails later": failing} {
		_, _, err := probe(t.Context(), Site{Callers: 2, Duration: time.Hour}, []int{16}, func(int) Opener { return opener })
		if !errors.Is(err, errFull) || !strings.Contains(err.Error(), "with 16 connections") || open != 0 {
			t.Errorf("%s: %v, %d left open", name, err, open)
		}
	}
	if _, err := onBestPool(nil)(t.Context(), Site{DSN: "port=nonsense"}); err == nil {
		t.Error("no error")
	}
}
