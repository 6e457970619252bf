package cluster

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/pgkeel/pgkeel/providers"
)

// Session is what one user does, in one request or in several: its reads see what
// its writes wrote, and at least what its earlier reads saw, whichever servers they
// run on. It is safe for concurrent use.
//
// A session is of one database, since the positions in the logs of two have nothing to
// do with each other. What is done with another handle to another database needs a
// context with a session of its own, or without one.
type Session struct {
	mu sync.Mutex
	// All that the session wrote and saw lies before lsn of the timeline, but for
	// what is in doubt.
	timeline uint32
	lsn      providers.LSN
	// doubts counts what was written at a place that is not known. Those up to
	// settled are behind us: a later operation on the primary told its position.
	doubts, settled uint64
}

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

// needs is what a server must have for the session's next read: all up to lsn of
// the timeline (0 if it was not known). If unknown, only the primary has it for
// certain; the read there runs under resolving, which ends the doubt.
func (s *Session) needs() (timeline uint32, lsn providers.LSN, unknown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.timeline, s.lsn, s.doubts != s.settled
}

// wrote notes the position of an operation on the writer's pool. It ends no doubt:
// the operation may have begun before the one that is in doubt had ended.
func (s *Session) wrote(p providers.Position, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok || p.Standby || p.Timeline == 0 {
		// A standby in the writer's place does not say whose log it follows.
		s.doubts++
		return
	}
	s.advance(p.Timeline, p.LSN)
}

// resolving is for an operation on the primary that begins now. When it tells its
// position, the doubts that there are have ended.
func (s *Session) resolving() *providers.Causality {
	s.mu.Lock()
	defer s.mu.Unlock()
	doubts := s.doubts
	return &providers.Causality{Note: func(p providers.Position, ok bool) {
		s.wrote(p, ok)
		if ok && !p.Standby {
			s.settle(p.Timeline, doubts)
		}
	}}
}

// settle ends the doubts up to that one, if the primary that was asked is not older
// than what the session knows.
func (s *Session) settle(timeline uint32, doubts uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if timeline >= s.timeline {
		s.settled = max(s.settled, doubts)
	}
}

// saw notes the position of a read on a replica of that timeline.
func (s *Session) saw(timeline uint32, p providers.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance(max(timeline, p.Timeline), p.LSN)
}

// advance moves the session forward: to a higher timeline, or further on the same.
func (s *Session) advance(timeline uint32, lsn providers.LSN) {
	switch {
	case timeline > s.timeline:
		s.timeline, s.lsn = timeline, lsn
	case timeline == s.timeline:
		s.lsn = max(s.lsn, lsn)
	}
}
