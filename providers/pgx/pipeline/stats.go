package pipeline

import (
	"sync/atomic"
	"time"
)

// Stats is a snapshot of an engine.
type Stats struct {
	// Connections that are open, Depth the statements on them now.
	Connections, Depth int32
	// Statements sent, Segments they were sent in (one Sync each), Flushes that
	// sent those, and the most segments that were unanswered at a time.
	Statements, Segments, Flushes, MaxDepth int64
	// BytesSent is what the flushes held.
	BytesSent int64
	// Again counts statements that were sent once more, since another in their
	// group failed or their plan was stale.
	Again int64
	// Those that were left to a connection of their own: Full for want of room
	// on a connection, Slow as they take long or return much, Large because the
	// result did not fit, Moved from behind something slow or a lost connection.
	Full, Slow, Large, Moved int64
	// HeldUp counts how often a connection was found held up.
	HeldUp int64
	// Abandoned counts callers who gave up on a statement that was sent.
	Abandoned int64
	// Lost counts connections that were lost.
	Lost int64
	// RoundTrip is the shortest way there and back that a connection saw.
	RoundTrip time.Duration
}

type stats struct {
	statements, segments, flushes, maxDepth, bytesOut atomic.Int64
	again, full, slow, large, moved                   atomic.Int64
	heldUp, abandoned, lost, roundTrip                atomic.Int64
}

// composed counts a segment.
func (s *stats) composed(statements, depth int) {
	s.statements.Add(int64(statements))
	s.segments.Add(1)
	if d := int64(depth); d > s.maxDepth.Load() {
		s.maxDepth.Store(d)
	}
}

// Stats returns a snapshot.
func (e *Engine) Stats() Stats {
	s := &e.stats
	snapshot := Stats{
		Statements: s.statements.Load(), Segments: s.segments.Load(), Flushes: s.flushes.Load(),
		MaxDepth: s.maxDepth.Load(), BytesSent: s.bytesOut.Load(), Again: s.again.Load(),
		Full: s.full.Load(), Slow: s.slow.Load(), Large: s.large.Load(), Moved: s.moved.Load(),
		HeldUp: s.heldUp.Load(), Abandoned: s.abandoned.Load(), Lost: s.lost.Load(),
		RoundTrip: time.Duration(s.roundTrip.Load()),
	}
	for c := range e.conns {
		snapshot.Connections++
		snapshot.Depth += c.load.Load()
	}
	return snapshot
}
