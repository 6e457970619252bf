package cluster

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// A write is tried again only if certainly nothing of it was done.
func TestWritesThatWait(t *testing.T) {
	for name, tc := range map[string]struct {
		replies []reply
		tries   int
		err     error
	}{
		"unreachable":         {[]reply{{err: errUnreachable}}, 2, nil},
		"starting":            {[]reply{{err: pgError("57P03")}}, 2, nil},
		"a standby":           {[]reply{{err: errReadOnly}}, 2, nil},
		"a primary for reads": {[]reply{{err: errReadOnly}, {err: errReadOnly}}, 2, errReadOnly},
		"lost":                {[]reply{{err: errLost}}, 1, errLost},
		"shut down":           {[]reply{{err: pgError("57P01")}}, 1, pgError("57P01")},
		"a conflict":          {[]reply{{err: errConflict}}, 1, errConflict},
		"no password":         {[]reply{{err: &providers.UnreachableError{Err: pgError("28P01")}}}, 1, providers.ErrUnreachable},
		"exhausted":           {[]reply{{err: providers.ErrPoolExhausted}}, 1, providers.ErrPoolExhausted},
		"closed":              {[]reply{{err: providers.ErrPoolClosed}}, 1, providers.ErrPoolClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, Options{}, "a")
				go func() {
					for range tc.tries - 1 {
						<-time.After(longestPause / 2)
						s.replace(func(*view) {}) // the doubt ended well
					}
				}()
				s.pools[primaryName].say(tc.replies...)
				_, err := s.Exec(t.Context(), "insert")
				synctest.Wait()
				if (tc.err == nil) != (err == nil) || tc.err != nil && !errors.Is(err, tc.err) && err.Error() != tc.err.Error() {
					t.Error(err)
				}
				s.expect(slices.Repeat([]string{primaryName}, tc.tries)...)
			})
		})
	}
}

// What only begins can begin again, whatever became of the connection.
func TestBeginningsThatWait(t *testing.T) {
	for name, do := range map[string]func(context.Context, *Cluster) error{
		"acquire": acquire, "batch": batch, "stream": stream, "load": load, "data": loadData, "ping": ping, "with": beginWith,
		"begin": func(ctx context.Context, c *Cluster) error {
			_, err := c.Begin(ctx, providers.TxOptions{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, Options{}, "a")
				s.pools[primaryName].say(reply{err: errLost}, reply{err: pgError("57P01")}, reply{err: errUnreachable})
				go func() {
					for range 3 {
						<-time.After(longestPause / 2)
						s.replace(func(v *view) { v.writer = fakeServer("another") })
					}
				}()
				if err := do(t.Context(), s.Cluster); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				s.expect(slices.Repeat([]string{primaryName}, 4)...)
			})
		})
	}
}

// Not every loss is followed by news.
func TestNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, Options{})
		s.pools[primaryName].say(reply{err: pgError("57P05")})
		begun := time.Now()
		if _, err := s.Begin(t.Context(), providers.TxOptions{}); err != nil || time.Since(begun) > 2*longestPause {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		s.pools[primaryName].say(reply{err: pgError("57P05")})
		s.replace(func(v *view) { v.doubted = true })
		go func() {
			<-time.After(2 * time.Second)
			s.replace(func(v *view) { v.doubted = false })
		}()
		begun = time.Now()
		if _, err := s.Begin(t.Context(), providers.TxOptions{}); err != nil || time.Since(begun) < 2*time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
	})
}

// A primary that is as it was is not stormed.
func TestPausesBetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, Options{})
		s.pools[primaryName].always = &reply{err: errUnreachable}
		done := make(chan struct{})
		go func() { // each doubt ends well, at once
			for {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
					s.replace(func(*view) {})
				}
			}
		}()
		begun := time.Now()
		_, err := s.Exec(t.Context(), "insert")
		close(done)
		if !errors.Is(err, providers.ErrUnreachable) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Error(err)
		}
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("it took %s, not the acquire timeout", took)
		}
		if n := len(s.went()); n < 10 || n > 40 {
			t.Errorf("%d attempts", n)
		}
	})
}

// The wait ends with the context, or with the acquire timeout if that has no
// deadline, and says so.
func TestWaitsThatEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, Options{})
		s.pools[primaryName].always = &reply{err: errUnreachable}
		s.replace(func(v *view) { v.writer = nil })

		_, err := s.Exec(t.Context(), "insert")
		var none *NoPrimaryError
		if !errors.As(err, &none) || none.Waited != 5*time.Second || len(none.Servers) == 0 || !errors.Is(err, providers.ErrUnreachable) {
			t.Errorf("%v", err)
		}
		if !errors.Is(err, ErrNoPrimary) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Error(err)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		_, err = s.Exec(ctx, "insert")
		var timeout *providers.TimeoutError
		if !errors.As(err, &timeout) || !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Minute {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		if providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Error(err)
		}

		ctx, cancel = context.WithCancel(t.Context())
		go func() {
			<-time.After(time.Second)
			cancel()
		}()
		if _, err = s.Exec(ctx, "insert"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
