package notify

import (
	"sync/atomic"
	"time"
)

// Stats is a snapshot of a listener's statistics.
type Stats struct {
	// Connected says that there is a connection that listens.
	Connected bool
	// PID is the server's process of the connection, or 0.
	PID uint32
	// LastHeard is when the server last gave a sign of life.
	LastHeard time.Time
	// Channels and Subscribers are how many there are.
	Channels, Subscribers int

	// Connects counts the connections made, ConnectErrors the attempts that
	// failed. Gaps counts the connections lost and replaced.
	Connects, ConnectErrors, Gaps int64
	// Heartbeats counts the round trips made to see whether the peer lives.
	Heartbeats int64

	// Received counts the notifications that arrived, Queued those put into
	// the queues of subscribers (one with three subscribers counts three),
	// Dropped those that found no room there.
	Received, Queued, Dropped int64
	// HandlerPanics counts the panics of handlers.
	HandlerPanics int64
}

// SubscriptionStats is a snapshot of a subscription's statistics.
type SubscriptionStats struct {
	// Waiting is how many messages are in the queue.
	Waiting int
	// Queued counts those that were put into it, Taken those that the
	// subscriber took out, Dropped those that were dropped.
	Queued, Taken, Dropped uint64
}

// counters are what Stats counts.
type counters struct {
	connects, connectErrors, gaps, heartbeats atomic.Int64
	received, queued, dropped, panics         atomic.Int64
}
