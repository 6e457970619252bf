package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// peer is a server that is watched, and what is known of it. The monitor's mutex
// guards all of it but the channel.
type peer struct {
	address string
	server  *server
	life    context.Context //nolint:containedctx // ends when it is watched no more
	end     context.CancelFunc
	// kick has it looked at at once.
	kick chan struct{}
	// pool is what it is looked at with; nil before the first look.
	pool providers.Pool

	// looked says that it was looked at, seen that it answered once, with last, and
	// err what the newest look failed with.
	looked, seen bool
	last         sample
	err          error
	// silent is how many looks in a row had no answer.
	silent int
	// doubted is when its users had trouble with it. A look that began before proves
	// nothing.
	doubted time.Time
	// primarySince is since when it is seen to be a primary.
	primarySince time.Time

	// fit says that it is read from. good and bad are how many looks in a row found
	// it to be fit, or not; ejected that it was fit once and then was not.
	fit       bool
	good, bad int
	ejected   bool
	// problem is why it is not fit, "" if it is, or not looked at.
	problem string
	// foreign says that it belongs to another cluster.
	foreign bool
}

// looksToEject and looksToReturn are how many looks in a row it takes.
const (
	looksToEject  = 2
	looksToReturn = 2
)

// note takes in the result of a look.
func (w *peer) note(s sample, err error) {
	w.looked, w.err = true, err
	switch {
	case err == nil:
		w.noteSample(s)
	case answers(err):
		w.silent = 0
	default:
		w.silent++
	}
}

func (w *peer) noteSample(s sample) {
	if w.last.identity != s.identity {
		w.server.position.Store(0) // a server that starts can be behind where it was
		w.server.current.Store(nil)
		w.primarySince = time.Time{}
	}
	if s.standby {
		w.primarySince = time.Time{}
		if w.last.standby && w.last.identity == s.identity {
			// What a standby received is not seen any more when its primary is gone.
			s.timeline = max(s.timeline, w.last.timeline)
		}
	} else if w.primarySince.IsZero() {
		w.primarySince = time.Now()
	}
	w.silent, w.seen, w.last = 0, true, s
	raise(w.server, s.position)
}

// lost reports that the server is silent for certain: when its users had trouble with
// it one look is enough to believe them.
func (w *peer) lost() bool {
	return w.silent >= looksToEject || w.silent > 0 && !w.doubted.IsZero()
}

// settles reports whether a look that began then ends a doubt.
func (w *peer) settles(began time.Time) bool { return w.doubted.IsZero() || !began.Before(w.doubted) }

// primary reports whether it is seen as a primary, as far as is known.
func (w *peer) primary() bool { return w.seen && !w.last.standby && !w.lost() && !w.foreign }

// answered reports whether the newest look found out what it is.
func (w *peer) answered() bool { return w.looked && w.err == nil }

// verdict is what a look says of a server as a replica.
type verdict struct {
	// problem is why it is not fit, "" if it is.
	problem string
	// certain says that no second look has to confirm it.
	certain bool
	// other says that it is not ill, but something else than a replica: once it is
	// one it need not prove that it is well.
	other bool
}

// judge counts a look. It reports whether the server is fit from now on, or not any
// more.
func (w *peer) judge(v verdict) (changed bool) {
	w.problem = v.problem
	if v.problem != "" {
		w.good, w.bad = 0, w.bad+1
		if !w.fit || !v.certain && w.bad < looksToEject {
			return false
		}
		w.eject(v.problem)
		w.ejected = !v.other
		return true
	}
	w.good, w.bad = w.good+1, 0
	if w.fit || w.ejected && w.good < looksToReturn {
		return false
	}
	w.fit = true
	return true
}

// eject ends that it is read from. It reports whether it was.
func (w *peer) eject(problem string) bool {
	was := w.fit
	w.fit, w.good, w.problem = false, 0, problem
	w.ejected = w.ejected || was
	return was
}

// wake has it looked at at once.
func (w *peer) wake() {
	select {
	case w.kick <- struct{}{}:
	default: // it will be anyway
	}
}

// reason is why it could not be looked at.
func (w *peer) reason() string {
	if w.err == nil {
		return ""
	}
	if errors.Is(w.err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return providers.Redact(w.err.Error(), w.server.dsn)
}

// words describe it in an error. newest is the newest timeline that is known.
func (w *peer) words(newest uint32) string {
	switch {
	case !w.looked:
		return "not looked at yet"
	case w.err != nil:
		return w.reason()
	case w.foreign:
		return "belongs to another cluster"
	case w.last.standby && w.problem != "":
		return "standby, " + w.problem
	case w.last.standby:
		return "standby"
	case w.last.timeline < newest:
		return fmt.Sprintf("primary on timeline %d, which is not used because %d is known", w.last.timeline, newest)
	default:
		return fmt.Sprintf("primary on timeline %d", w.last.timeline)
	}
}
