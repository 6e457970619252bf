package cluster

import (
	"sync/atomic"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// UnknownLag is the lag of a server of which it is not known. It is longer than any
// limit.
const UnknownLag time.Duration = 1<<63 - 1

// server is one server of the cluster, whatever its role is at the moment.
type server struct {
	*Replica

	dsn string
	// position is what it had replayed, or written, at the last look. It only grows
	// while the server runs.
	position atomic.Uint64
	// current is a time at which the primary was certainly not ahead of this server;
	// nil while none is known.
	current atomic.Pointer[time.Time]
	// pool is for reads while it is a standby; nil before the first one.
	pool atomic.Pointer[readPool]
}

// readPool is a pool of sessions that only read.
type readPool struct{ providers.Pool }

// view is what is known of the cluster at a moment. It is never changed: a newer
// one takes its place.
type view struct {
	// system is the identifier of the cluster, 0 while it is not known.
	system uint64
	// writer is the primary, nil while none is known.
	writer *server
	// doubted says that somebody had trouble with the writer, which is being looked
	// at.
	doubted bool
	// timeline is the primary's, and start the first position seen on it: all that
	// survived of earlier timelines lies before. Without a primary they are those of
	// the last one.
	timeline uint32
	start    providers.LSN
	// replicas are the standbys that are fit to read from, in the order of discovery.
	replicas []*server
	// newer is closed when there is a newer view, told when the events that belong to
	// this one, and those of all before, are over.
	newer, told chan struct{}
}

// lagNow is the longest that the server can be behind the primary.
func (s *server) lagNow() time.Duration {
	if at := s.current.Load(); at != nil {
		return time.Since(*at)
	}
	return UnknownLag
}
