package outcome

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestHowLongItIsTried(t *testing.T) {
	for name, tc := range map[string]struct {
		until, ended, want time.Duration
	}{
		"until the moment":                 {time.Minute, 0, time.Minute},
		"at least the grace":               {0, 0, Grace},
		"for the grace behind the context": {time.Minute, 10 * time.Second, 10*time.Second + Grace},
		"no longer than the moment":        {time.Minute, 59 * time.Second, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				caller, end := context.WithCancel(context.WithValue(t.Context(), t, name))
				defer end()
				if tc.ended > 0 {
					time.AfterFunc(tc.ended, end)
				}
				ctx, cancel := outlast(caller, began.Add(tc.until))
				defer cancel()
				if ctx.Value(t) != name {
					t.Error("its values are lost")
				}
				<-ctx.Done()
				if got := time.Since(began); got != tc.want {
					t.Errorf("%s", got)
				}
			})
		})
	}
}

func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for range 200 {
			began := time.Now()
			if !wait(ctx, time.Second) {
				t.Fatal("it gave up")
			}
			if took := time.Since(began); took < time.Second/2 || took > time.Second {
				t.Fatalf("%s", took)
			}
		}
		cancel()
		if wait(ctx, time.Second) {
			t.Error("it outlived the context")
		}
	})
}
