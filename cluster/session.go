package cluster

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pgkeel/pgkeel/providers"
)

// Session is what one user does, in one request or in several: its reads see what
// its writes wrote, and at least what its earlier reads saw, whichever servers they
// run on. It is safe for concurrent use.
//
// A session may be used with handles on several database clusters, and with the tokens
// of others: each has a place of its own in it. The first read from a cluster that a
// session does not know, while it knows others, goes to the primary.
type Session struct {
	mu sync.Mutex
	// places are where the session is in the log of each cluster, in the order of
	// their identifiers.
	places []reached
	// doubts counts what was written at a place that is not known, on any cluster.
	doubts uint64
}

// reached is a place in the log of a cluster. All that the session wrote and saw there
// lies before lsn of the timeline, but for what is in doubt.
type reached struct {
	system   uint64
	timeline uint32
	lsn      providers.LSN
	// Doubts up to settled are behind us: a later operation on the cluster's primary
	// told its position.
	settled uint64
}

// maxPlaces is how many clusters a session knows at the same time. A stranger's tokens
// must not make it grow.
const maxPlaces = 8

// NewSession returns a session that has neither written nor read.
func NewSession() *Session { return &Session{} }

type sessionKey struct{}

// anySession says that some context has one, so that nobody searches one for it
// before.
var anySession atomic.Bool

// WithSession returns a context whose operations belong to the session, or to none if s
// is nil.
func WithSession(ctx context.Context, s *Session) context.Context {
	anySession.Store(true)
	var note *providers.Causality
	if s != nil {
		note = &providers.Causality{Note: s.wrote}
	}
	return context.WithValue(providers.WithCausality(ctx, note), sessionKey{}, s)
}

// SessionOf returns the context's session, or nil.
func SessionOf(ctx context.Context) *Session {
	if !anySession.Load() {
		return nil
	}
	s, _ := ctx.Value(sessionKey{}).(*Session)
	return s
}

// Doubt says that something was written that the session is to see and that did not
// tell where: its next read goes to the primary. It is for what is written past the
// handle; what the handle loses the position of, it notes itself.
func (s *Session) Doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubts++
}

// needs is what a server of that cluster must have for the session's next read: all up
// to lsn of the timeline (0 if it was not known). If unknown, only the primary has it
// for certain; the read there runs under resolving, which ends the doubt.
func (s *Session) needs(system uint64) (timeline uint32, lsn providers.LSN, unknown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, known := s.find(system); known {
		p := s.places[i]
		return p.timeline, p.lsn, p.settled != s.doubts
	}
	return 0, 0, s.doubts != 0 || len(s.places) > 0
}

// wrote notes the position of an operation on the writer's pool. It ends no doubt:
// the operation may have begun before the one that is in doubt had ended.
func (s *Session) wrote(p providers.Position, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok || p.Standby || p.Timeline == 0 || p.System == 0 {
		// A standby in the writer's place does not say whose log it follows.
		s.doubts++
		return
	}
	s.advance(p.System, p.Timeline, p.LSN)
}

// resolving is for an operation on the primary that begins now. When it tells its
// position, the doubts that there are have ended for its cluster.
func (s *Session) resolving() *providers.Causality {
	s.mu.Lock()
	defer s.mu.Unlock()
	doubts := s.doubts
	return &providers.Causality{Note: func(p providers.Position, ok bool) {
		s.wrote(p, ok)
		if ok && !p.Standby {
			s.settle(p.System, p.Timeline, doubts)
		}
	}}
}

// settle ends the doubts up to that one, if the primary that was asked is not older
// than what the session knows.
func (s *Session) settle(system uint64, timeline uint32, doubts uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, known := s.find(system); known && timeline >= s.places[i].timeline {
		s.places[i].settled = max(s.places[i].settled, doubts)
	}
}

// saw notes the position of a read on a replica of that cluster and timeline.
func (s *Session) saw(system uint64, timeline uint32, p providers.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if system == 0 {
		s.doubts++
		return
	}
	s.advance(system, max(timeline, p.Timeline), p.LSN)
}

// find is where the cluster's place is, or would be.
func (s *Session) find(system uint64) (int, bool) {
	return slices.BinarySearchFunc(s.places, system, func(p reached, system uint64) int {
		switch {
		case p.system < system:
			return -1
		case p.system > system:
			return 1
		default:
			return 0
		}
	})
}

// advance moves the session forward: to a higher timeline, or further on the same.
func (s *Session) advance(system uint64, timeline uint32, lsn providers.LSN) {
	if timeline == 0 && lsn == 0 {
		return
	}
	i, known := s.find(system)
	if !known {
		if len(s.places) == maxPlaces {
			i = s.forget(i)
		}
		s.places = slices.Insert(s.places, i, reached{system: system})
	}
	switch p := &s.places[i]; {
	case timeline > p.timeline:
		p.timeline, p.lsn = timeline, lsn
	case timeline == p.timeline:
		p.lsn = max(p.lsn, lsn)
	}
}

// forget makes room for a place at i, and returns where that is now. What is forgotten
// is in doubt: it is read from the primary, as is the rest, once.
func (s *Session) forget(i int) int {
	s.doubts++
	if i == 0 {
		s.places = s.places[:len(s.places)-1]
		return 0
	}
	s.places = slices.Delete(s.places, 0, 1)
	return i - 1
}
