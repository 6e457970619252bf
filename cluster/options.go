package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// The defaults of [Options], in the one place where they stand.
const (
	// DefaultHeartbeat is how often each server is looked at.
	DefaultHeartbeat = time.Second
	// DefaultProbeTimeout bounds one look at a server, the time to connect included.
	DefaultProbeTimeout = time.Second
	// DefaultCausalWait bounds the wait for a replica to replay what a read is to see.
	DefaultCausalWait = 100 * time.Millisecond
	// DefaultDiscoverEvery is how often the hosts are asked for.
	DefaultDiscoverEvery = 5 * time.Second
)

// minHeartbeat keeps the looks from being a load of their own.
const minHeartbeat = 10 * time.Millisecond

// Fallback says where a read goes when no replica is fit for it.
type Fallback uint8

// The fallbacks.
const (
	// FallbackPrimary reads from the primary.
	FallbackPrimary Fallback = iota
	// FallbackError fails with [ErrNoReplica].
	FallbackError
)

// String returns the fallback's name.
func (f Fallback) String() string {
	switch f {
	case FallbackPrimary:
		return "primary"
	case FallbackError:
		return "error"
	default:
		return "invalid"
	}
}

// Opener opens a pool for a configuration.
type Opener func(ctx context.Context, cfg providers.Config) (providers.Pool, error)

// Options say how several servers of one database are watched and used. The zero
// Options are valid: the servers are then the hosts of the DSN.
//
// The role that connects needs no privilege. Without pg_read_all_stats (or
// pg_monitor), though, it does not see the timeline that a standby receives, but only
// the one in the standby's control file: after a failover the standby is read from
// when its next restart point is complete, which takes up to checkpoint_timeout.
// A standby that is fed by an archive alone is not read from: it receives nothing.
type Options struct {
	// Heartbeat is how often each server is looked at, or up to a tenth sooner. While
	// no primary is known the looks follow each other every 50 ms, and those at a
	// server that does not answer every 200 ms. Default: 1 s. At least 10 ms.
	Heartbeat time.Duration
	// ProbeTimeout bounds one look, the time to connect included. Default: 1 s.
	ProbeTimeout time.Duration
	// MaxLag is how far behind the primary a replica may be and still be read from.
	// Lag is known to within a heartbeat, and counts as the longest that it can be:
	// MaxLag is at least twice Heartbeat. While the primary cannot be seen the lag
	// of every replica grows. Default: no limit.
	MaxLag time.Duration
	// Fallback says where a read goes when no replica is fit. Default:
	// [FallbackPrimary].
	Fallback Fallback
	// CausalWait bounds the wait for a replica to replay what a session is to see,
	// before the read goes to the primary. Default: 100 ms. Off: no wait.
	CausalWait time.Duration
	// Strategy chooses among the replicas that are fit. Default: [RoundRobin].
	Strategy Strategy
	// Discovery finds hosts besides those of the DSN, while the handle is open.
	// Default: none.
	Discovery Discovery
	// DiscoverEvery is how often Discovery is asked, and at most how long it may
	// take. It is asked as well when the primary is lost. Default: 5 s.
	DiscoverEvery time.Duration
}

// Validate reports every fault of the options at once, each as a
// [*providers.ConfigError].
func (o Options) Validate() error {
	var faults []error
	fault := func(bad bool, field, format string, args ...any) {
		if bad {
			faults = append(faults, &providers.ConfigError{Field: "Cluster." + field, Problem: fmt.Sprintf(format, args...)})
		}
	}
	heartbeat := cmp.Or(o.Heartbeat, DefaultHeartbeat)
	fault(o.Heartbeat != 0 && o.Heartbeat < minHeartbeat, "Heartbeat",
		"%s is under %s, which would be a load of its own; leave it 0 for %s", o.Heartbeat, minHeartbeat, DefaultHeartbeat)
	fault(o.ProbeTimeout < 0, "ProbeTimeout", "%s is negative; leave it 0 for %s", o.ProbeTimeout, DefaultProbeTimeout)
	fault(o.MaxLag < 0, "MaxLag", "%s is negative; leave it 0 for no limit", o.MaxLag)
	fault(o.MaxLag > 0 && o.MaxLag < 2*heartbeat, "MaxLag",
		"%s is under twice the heartbeat of %s, within which lag is known; raise it, or lower Heartbeat", o.MaxLag, heartbeat)
	fault(o.Fallback > FallbackError, "Fallback", "%d is neither FallbackPrimary nor FallbackError", o.Fallback)
	fault(o.CausalWait < 0 && o.CausalWait != providers.Off, "CausalWait",
		"%s is negative; leave it 0 for %s, or use Off for no wait", o.CausalWait, DefaultCausalWait)
	fault(o.DiscoverEvery < 0, "DiscoverEvery", "%s is negative; leave it 0 for %s", o.DiscoverEvery, DefaultDiscoverEvery)
	fault(o.DiscoverEvery > 0 && o.Discovery == nil, "DiscoverEvery", "has no effect without Discovery; leave it out")
	faults = append(faults, checkPart("Strategy", o.Strategy), checkPart("Discovery", o.Discovery))
	return errors.Join(faults...)
}

// withDefaults fills in what was left out.
func (o Options) withDefaults() Options {
	o.Heartbeat = cmp.Or(o.Heartbeat, DefaultHeartbeat)
	o.ProbeTimeout = cmp.Or(o.ProbeTimeout, DefaultProbeTimeout)
	o.CausalWait = cmp.Or(o.CausalWait, DefaultCausalWait)
	o.DiscoverEvery = cmp.Or(o.DiscoverEvery, DefaultDiscoverEvery)
	if o.Strategy == nil {
		o.Strategy = RoundRobin()
	}
	return o
}
