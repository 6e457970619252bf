package notify

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

func TestThePauseBetweenAttemptsGrowsToItsCapAndIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &fakePool{}
		var log logBuffer
		l := startListener(t, p, Options{
			RetryMin: 100 * time.Millisecond, RetryMax: time.Second, HeartbeatInterval: providers.Off,
			Logger: log.logger(),
		})
		defer closeListener(t, l)
		p.refusing(func(attempt int) error {
			if attempt < 21 {
				return errBroken
			}
			return nil
		})
		failed := time.Now()
		p.last().fail(errBroken)
		subscribe(t, l, "a") // until it is back
		dials := append([]time.Time{failed}, p.dialed()[1:]...)
		longest := 100 * time.Millisecond
		different := map[time.Duration]bool{}
		for i := 1; i < len(dials); i++ {
			pause := dials[i].Sub(dials[i-1])
			if pause < longest/2-time.Millisecond || pause > longest {
				t.Errorf("pause %d is %s, of at most %s", i, pause, longest)
			}
			if longest = min(2*longest, time.Second); i > 5 {
				different[pause] = true
			}
		}
		if len(dials) != 21 || len(different) < 5 {
			t.Errorf("%d attempts, with %d different pauses", len(dials), len(different))
		}
		if n := strings.Count(log.String(), "goes on trying"); n != 5 { // 1, 2, 4, 8, 16
			t.Errorf("%d lines in the log", n)
		}
		// One that is lost at once does not start over, one that lived does.
		for _, lives := range []struct{ d, most time.Duration }{{0, time.Second}, {2 * time.Second, 100 * time.Millisecond}} {
			<-time.After(lives.d)
			c := p.last()
			failed = time.Now()
			c.fail(errBroken)
			subscribe(t, l, fmt.Sprint("b", lives.d))
			dials := p.dialed()
			if pause := dials[len(dials)-1].Sub(failed); pause > lives.most || pause < lives.most/2-time.Millisecond {
				t.Errorf("after %s the pause is %s", lives.d, pause)
			}
		}
	})
}

func TestBackoffDoesNotOverflow(t *testing.T) {
	b := newBackoff(math.MaxInt64/3, math.MaxInt64)
	for range 5 {
		if d := b.pause(); d <= 0 {
			t.Errorf("a pause of %s", d)
		}
	}
}

func TestAConnectionThatLivedStartsOver(t *testing.T) {
	b := newBackoff(100, 1000)
	b.pause()
	last := b.pause()
	if b.lived(last - 1); b.next != 400 {
		t.Errorf("one that lived less than its pause: the next is %d", b.next)
	}
	if b.lived(last); b.next != 100 {
		t.Errorf("one that lived as long as its pause: the next is %d", b.next)
	}
}
