package demo

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/pgkeel/pgkeel"
)

// tallied is one more than the last of the events that every hook can see.
const tallied = pgkeel.EventError + 1

// tally counts what a hook sees.
type tally [tallied]struct {
	n, failed, took atomic.Int64
}

// hook returns a hook that counts into the tally. It may run on many
// goroutines at once.
func (t *tally) hook() pgkeel.Hook {
	return pgkeel.Hook{Name: "tally", After: func(_ context.Context, info *pgkeel.HookInfo) {
		if info.Event >= tallied {
			return // an event that a later version brought
		}
		of := &t[info.Event]
		of.n.Add(1)
		of.took.Add(int64(info.Duration))
		if info.Err != nil {
			of.failed.Add(1)
		}
	}}
}

// count returns how often an event was seen.
func (t *tally) count(e pgkeel.HookEvent) int64 { return t[e].n.Load() }

// mean returns how long an event took on average.
func (t *tally) mean(e pgkeel.HookEvent) time.Duration {
	n := t.count(e)
	if n == 0 {
		return 0
	}
	return time.Duration(t[e].took.Load() / n)
}
