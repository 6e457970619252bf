package providers

import "time"

// WaitBuckets are the upper bounds of the wait histogram. A last bucket holds
// what is longer.
var WaitBuckets = [...]time.Duration{
	time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 500 * time.Millisecond, time.Second, 5 * time.Second, 30 * time.Second,
}

// WaitOutcome is how a wait for a connection ended.
type WaitOutcome uint8

// The outcomes of a wait.
const (
	// WaitAcquired got a connection.
	WaitAcquired WaitOutcome = iota
	// WaitExhausted gave up because every connection was in use.
	WaitExhausted
	// WaitUnreachable found that no connection could be made.
	WaitUnreachable
	// WaitCanceled was called off by the caller.
	WaitCanceled

	waitOutcomes
)

// String returns the outcome as a label.
func (o WaitOutcome) String() string {
	if o >= waitOutcomes {
		return "invalid"
	}
	return [waitOutcomes]string{"acquired", "exhausted", "unreachable", "canceled"}[o]
}

// WaitHistogram counts waits by length and outcome.
type WaitHistogram struct {
	// Counts has a row per outcome and a column per bucket of WaitBuckets,
	// and one more for longer waits. Columns are not cumulative.
	Counts [waitOutcomes][len(WaitBuckets) + 1]int64
	// Total is the time waited, by outcome.
	Total [waitOutcomes]time.Duration
}

// Count returns the number of waits with that outcome.
func (h WaitHistogram) Count(o WaitOutcome) int64 {
	if o >= waitOutcomes {
		return 0
	}
	var n int64
	for _, c := range h.Counts[o] {
		n += c
	}
	return n
}

// PoolStats is a snapshot of a pool.
type PoolStats struct {
	// MaxSize is the configured size.
	MaxSize int32
	// Open is the number of connections, Idle of those that wait for work,
	// InUse of those that are held, Dialing of those being made.
	Open, Idle, InUse, Dialing int32
	// Acquires counts connections handed out.
	Acquires int64
	// Waits counts the acquires that could not be served at once: by how
	// long they took and how they ended, failures included.
	Waits WaitHistogram
	// Waiters is how many callers wait now, OldestWait for how long the
	// first of them.
	Waiters    int64
	OldestWait time.Duration
	// Connects and ConnectErrors count the attempts to connect that
	// succeeded and failed; Closed counts connections that ended.
	Connects, ConnectErrors, Closed int64
	// Resets counts the session resets, Reclaimed the connections that came
	// back because their borrower forgot them, Leaks the reports of
	// connections held longer than LeakAfter.
	Resets, Reclaimed, Leaks int64
	// HookPanics counts the panics of hooks that were recovered.
	HookPanics int64
	// Pipeline is about pipelined statements; nil when that is off.
	Pipeline *PipelineStats
}

// Add adds the statistics of another pool that shares its hooks with this one.
func (s *PoolStats) Add(other PoolStats) {
	s.MaxSize += other.MaxSize
	s.Open += other.Open
	s.Idle += other.Idle
	s.InUse += other.InUse
	s.Dialing += other.Dialing
	s.Acquires += other.Acquires
	s.Waits.add(other.Waits)
	s.Waiters += other.Waiters
	s.OldestWait = max(s.OldestWait, other.OldestWait)
	s.Connects += other.Connects
	s.ConnectErrors += other.ConnectErrors
	s.Closed += other.Closed
	s.Resets += other.Resets
	s.Reclaimed += other.Reclaimed
	s.Leaks += other.Leaks
	s.HookPanics = max(s.HookPanics, other.HookPanics)
	if other.Pipeline != nil {
		var both PipelineStats
		if s.Pipeline != nil {
			both = *s.Pipeline // which a snapshot shares with others
		}
		both.add(*other.Pipeline)
		s.Pipeline = &both
	}
}

func (h *WaitHistogram) add(other WaitHistogram) {
	for outcome := range h.Counts {
		for bucket := range h.Counts[outcome] {
			h.Counts[outcome][bucket] += other.Counts[outcome][bucket]
		}
		h.Total[outcome] += other.Total[outcome]
	}
}
