package fault

import "time"

// handle has the rules that fire at a message act, then passes it on. It reports
// false if the connection is at its end.
func (s *session) handle(m Message, pass func() error) bool {
	var after, lose *Rule
	dropped := false
	for _, r := range s.p.judge(m) {
		switch r.action.kind {
		case drop:
			dropped = true
			r.acted()
		case cutAfter:
			after = r
		case swallowReply, cutReply:
			lose = r
		default:
			if !s.act(r) {
				return false
			}
		}
	}
	if !s.open(m.Direction) {
		return false
	}
	if after != nil && m.Direction == ToServer {
		s.swallow(ToClient) // or the answer to the message may be faster than the end
	}
	if !dropped && !s.pass(m, lose, pass) {
		return false
	}
	if after != nil {
		s.close(false)
		after.acted()
	}
	return after == nil
}

// act does what comes before a message. It reports false if that was its end.
func (s *session) act(r *Rule) bool {
	switch r.action.kind {
	case cut, reset:
		s.close(r.action.kind == reset)
		r.acted()
		return false
	case blackHole:
		s.swallow(Both)
		r.acted()
	case delay:
		r.acted()
		return s.wait(r.action.delay)
	}
	return true
}

// swallow has nothing arrive in a direction any more.
func (s *session) swallow(d Direction) {
	s.p.mu.Lock()
	s.hole |= d
	s.p.mu.Unlock()
}

func (s *session) pass(m Message, lose *Rule, pass func() error) bool {
	if m.Direction == ToServer {
		s.replies.sent(m.Type, lose)
	}
	return pass() == nil
}

// loses reports whether a message of the server's is part of a reply that shall
// not arrive, and whether the connection goes on.
func (s *session) loses(kind byte) (lost, alive bool) {
	lost, done := s.replies.received(kind)
	if done == nil {
		return lost, true
	}
	alive = done.rule.action.kind != cutReply
	if !alive {
		s.close(false)
	}
	done.rule.acted()
	return true, alive
}

func (s *session) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.over:
		return false
	}
}
