package providers

import (
	"context"
	"sync/atomic"
	"time"
)

// The defaults of [Pipelining].
const (
	DefaultPipelineConnections     = 2
	DefaultPipelineReadConnections = 2
	DefaultPipelineInFlight        = 256
	DefaultPipelineGroup           = 64
	DefaultPipelineResultBytes     = 256 << 10
	DefaultPipelineSlowAfter       = 5 * time.Millisecond
)

// PipelineTraffic says which statements are pipelined.
type PipelineTraffic uint8

// The traffic that is pipelined.
const (
	// PipelineAll pipelines every statement that can be.
	PipelineAll PipelineTraffic = iota
	// PipelineReads pipelines only what is declared read-only.
	PipelineReads
	// PipelineOnRequest pipelines only calls whose context asks for it: see
	// [WithPipelined].
	PipelineOnRequest
)

// Pipelining has concurrent callers' single statements share a few connections,
// several in flight on each, instead of holding one connection each. Zero is the
// default for every field.
//
// A statement is pipelined when it is a single SELECT, INSERT, UPDATE, DELETE,
// MERGE, VALUES, TABLE or WITH outside a transaction whose text shows that it
// leaves nothing in the session. Its result is read into memory. Everything else
// takes a connection of the pool, as does what would have to wait.
type Pipelining struct {
	// Connections are those for statements that may write, each of which is
	// synced by itself. Default: 2. They come on top of the pool's.
	Connections int32
	// ReadConnections are those for statements declared read-only, which share
	// a Sync. Their sessions cannot write. Default: 2.
	ReadConnections int32
	// MaxInFlight is how many statements may be queued or unanswered on a
	// connection. Default: 256.
	MaxInFlight int32
	// MaxGroup is how many reads may share a Sync. Default: 64. 1 gives each
	// its own.
	MaxGroup int32
	// MaxResultBytes is how much of a read's result is kept in memory; one that
	// is larger is run again on a connection of the pool, and from then on at
	// once. Of a statement that may have written 64 times as much is kept.
	// Default: 256 KiB.
	MaxResultBytes int32
	// SlowAfter keeps a statement out that takes the server longer on average,
	// the round trip left out: others would wait behind it, and it has little to
	// gain. Default: 5 ms. One that usually takes half a millisecond or more, such as
	// a write whose commit waits for the disk, goes to the pool while that is sooner.
	SlowAfter time.Duration
	// Traffic says which statements are pipelined. Default: all.
	Traffic PipelineTraffic
}

// Resolved returns the options with their defaults filled in.
func (p Pipelining) Resolved() Pipelining {
	for _, d := range []struct {
		field *int32
		value int32
	}{
		{&p.Connections, DefaultPipelineConnections},
		{&p.ReadConnections, DefaultPipelineReadConnections},
		{&p.MaxInFlight, DefaultPipelineInFlight},
		{&p.MaxGroup, DefaultPipelineGroup},
		{&p.MaxResultBytes, DefaultPipelineResultBytes},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if p.SlowAfter == 0 {
		p.SlowAfter = DefaultPipelineSlowAfter
	}
	if p.Traffic == PipelineReads {
		p.Connections = 0
	}
	return p
}

func (f *faults) pipelining(c Config) {
	if c.Pipelining == nil {
		return
	}
	p := *c.Pipelining
	for _, d := range []struct {
		field string
		value int32
		most  int32
	}{
		{"Connections", p.Connections, 1024},
		{"ReadConnections", p.ReadConnections, 1024},
		{"MaxInFlight", p.MaxInFlight, 1 << 16},
		{"MaxGroup", p.MaxGroup, 1 << 16},
		{"MaxResultBytes", p.MaxResultBytes, 16 << 20},
	} {
		f.addf(d.value < 0, "Pipelining."+d.field, "%d is negative; leave it 0 for the default", d.value)
		f.addf(d.value > d.most, "Pipelining."+d.field, "%d is more than the %d that make sense", d.value, d.most)
	}
	f.addf(p.SlowAfter < 0, "Pipelining.SlowAfter", "%s is negative; leave it 0 for %s", p.SlowAfter, DefaultPipelineSlowAfter)
	f.addf(p.Traffic > PipelineOnRequest, "Pipelining.Traffic", "%d is none of PipelineAll, PipelineReads, PipelineOnRequest", p.Traffic)
	f.addf(p.Traffic == PipelineReads && p.Connections > 0, "Pipelining.Connections", "has no effect with PipelineReads; leave it out")
	f.addf(c.Profile == ProfilePgBouncer, "Pipelining",
		"needs sessions of its own, which PgBouncer in transaction mode does not give; leave it out, or connect to PostgreSQL directly")
}

// PipelineStats are the statistics of pipelining since the pool was opened.
type PipelineStats struct {
	// Connections are those open now, Depth the statements queued or unanswered
	// on them.
	Connections, Depth int32
	// Statements were sent in Segments, one Sync each, by Flushes, one write to
	// a socket each. MaxDepth is the most segments that were unanswered at once
	// on a connection.
	Statements, Segments, Flushes, MaxDepth int64
	// BytesSent is what the flushes held.
	BytesSent int64
	// Repeated counts statements sent again, because another in their group
	// failed or their plan was stale.
	Repeated int64
	// These took a connection of the pool instead: Full as there was no room,
	// Slow as they are known to take long, or longer behind others than there, or
	// to return much, Large as their result turned out too large, Moved from
	// behind something slow or off a connection that was lost.
	Full, Slow, Large, Moved int64
	// HeldUp counts how often a connection was found held up at the head of its
	// line.
	HeldUp int64
	// Abandoned counts callers whose context ended while their statement ran.
	Abandoned int64
	// Lost counts connections that were lost.
	Lost int64
	// RoundTrip is the shortest way there and back that a connection saw.
	RoundTrip time.Duration
}

// add adds the statistics of another pool.
func (s *PipelineStats) add(other PipelineStats) {
	s.Connections += other.Connections
	s.Depth += other.Depth
	s.Statements += other.Statements
	s.Segments += other.Segments
	s.Flushes += other.Flushes
	s.MaxDepth = max(s.MaxDepth, other.MaxDepth)
	s.BytesSent += other.BytesSent
	s.Repeated += other.Repeated
	s.Full += other.Full
	s.Slow += other.Slow
	s.Large += other.Large
	s.Moved += other.Moved
	s.HeldUp += other.HeldUp
	s.Abandoned += other.Abandoned
	s.Lost += other.Lost
	s.RoundTrip = max(s.RoundTrip, other.RoundTrip)
}

type intentKey string

const (
	readOnlyKey   intentKey = "read only"
	pipeliningKey intentKey = "pipelining"
)

// WithReadOnly returns a context whose statements are declared to only read.
// The server holds them to it: one that writes fails with SQLSTATE 25006.
// Inside a transaction it has no effect; the transaction's own access mode
// counts.
func WithReadOnly(ctx context.Context) context.Context {
	if !anyReadOnly.Load() { // a store each time would be felt on all processors
		anyReadOnly.Store(true)
	}
	return readOnlyContext{ctx}
}

// readOnlyContext declares it. One is made for each statement of a reader, so it is
// smaller than a context with any value would be.
type readOnlyContext struct{ context.Context } //nolint:containedctx // it is a context

func (c readOnlyContext) Value(key any) any {
	if key == readOnlyKey {
		return true
	}
	return c.Context.Value(key)
}

// anyReadOnly says that some context declares it, so that nobody searches one
// for it before.
var anyReadOnly atomic.Bool

// IsReadOnly reports whether the context's statements are declared to only read.
func IsReadOnly(ctx context.Context) bool {
	if !anyReadOnly.Load() {
		return false
	}
	declared, _ := ctx.Value(readOnlyKey).(bool)
	return declared
}

// WithPipelined returns a context whose statements are pipelined where they can
// be, or are not. Without pipelining configured it has no effect.
func WithPipelined(ctx context.Context, pipelined bool) context.Context {
	return context.WithValue(ctx, pipeliningKey, pipelined)
}

// WantsPipelined returns what the context says about pipelining, and whether it
// says anything.
func WantsPipelined(ctx context.Context) (pipelined, said bool) {
	pipelined, said = ctx.Value(pipeliningKey).(bool)
	return pipelined, said
}
