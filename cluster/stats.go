package cluster

import (
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// Role is what a server is.
type Role string

// The roles.
const (
	// RolePrimary takes writes.
	RolePrimary Role = "primary"
	// RoleStandby replays what the primary wrote.
	RoleStandby Role = "standby"
	// RoleUnknown was never seen, or belongs to another cluster.
	RoleUnknown Role = "unknown"
)

// Stats is what is known of the servers at a moment.
type Stats struct {
	// Writer is the address of the primary, "" while none is known.
	Writer string
	// Timeline is that of the primary, or of the last one.
	Timeline uint32
	// Epochs is how often another server became the primary, the first included. One
	// that was started anew counts as another one.
	Epochs int64
	// Alarms is how often more than one server took writes.
	Alarms int64
	// Servers are those that are watched, in the order of the DSN and of discovery.
	Servers []ServerStats
}

// ServerStats is what is known of one server. What is said of its state is from the
// last look that it answered.
type ServerStats struct {
	// Address is host:port.
	Address string
	// Zone and Weight are as discovered.
	Zone   string
	Weight int
	// Role is what it is.
	Role Role
	// Timeline is that of a primary, and of a standby the newest that it is seen to
	// follow. Without pg_read_all_stats that is seen late.
	Timeline uint32
	// Position is what a primary has written, and what a standby has replayed.
	Position providers.LSN
	// Lag is the longest that a standby can be behind the primary; [UnknownLag] where
	// that is not known.
	Lag time.Duration
	// LagBytes is how much of the primary's log a standby has not replayed yet.
	LagBytes int64
	// Fit says that it is read from as a replica.
	Fit bool
	// Problem is why it is not, or what its last look found. Empty if there is none.
	Problem string
	// LastSeen is when it last answered; zero if it never did.
	LastSeen time.Time
	// InUse is how many reads run on it.
	InUse int64
	// Latency is the average time to a read's first answer.
	Latency time.Duration
}

// ClusterStats returns what is known of the servers.
func (c *Cluster) ClusterStats() Stats { return c.monitor.stats() }

// stats are what is known.
func (m *monitor) stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := Stats{Timeline: m.timeline, Epochs: m.epochs, Alarms: m.alarms}
	var end providers.LSN
	if m.writer != nil {
		all.Writer, end = m.writer.address, m.writer.last.position
	}
	for _, w := range m.peers {
		all.Servers = append(all.Servers, w.stats(end))
	}
	return all
}

func (w *peer) stats(end providers.LSN) ServerStats {
	host := w.server.Host()
	s := ServerStats{
		Address: w.address, Zone: host.Zone, Weight: host.Weight, Role: RoleUnknown,
		Timeline: w.last.timeline, Position: providers.LSN(w.server.position.Load()),
		Fit: w.fit, Problem: w.problem, LastSeen: w.last.began,
		InUse: w.server.InUse(), Latency: w.server.Latency(),
	}
	switch {
	case !w.seen || w.foreign:
	case w.last.standby:
		s.Role, s.Lag = RoleStandby, w.server.lagNow()
		if end > s.Position {
			s.LagBytes = int64(end - s.Position) //nolint:gosec // a log has less than 8 EB
		}
	default:
		s.Role, s.Problem = RolePrimary, w.reason()
	}
	return s
}

// known is what is known of each server, in words.
func (m *monitor) known() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	words := make([]string, len(m.peers))
	for i, w := range m.peers {
		words[i] = w.address + ": " + w.words(m.newest)
	}
	return words
}
