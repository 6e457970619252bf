package faulttests

import (
	"time"

	"github.com/pgkeel/pgkeel/pgtest/fault"
)

// aFault is something that happens to the servers or the network, until all is well
// again.
type aFault struct {
	name string
	make func(s *stage)
}

// faults are those that a primary with a synchronous standby has to live through.
func faults() []aFault {
	all := []aFault{
		{"sessions ended", (*stage).endSessions},
		{"primary killed and started again", (*stage).crash},
		{"primary restarted", (*stage).restart},
		{"primary paused", (*stage).pause},
		{"standby paused", (*stage).pauseStandby},
		{"standby killed and started again", (*stage).crashStandby},
		{"network partitioned", (*stage).partition},
		{"connections cut", func(s *stage) { s.proxy(s.servers.Primary()).Cut() }},
		{"connections reset", func(s *stage) { s.proxy(s.servers.Primary()).Reset() }},
		{"primary killed, standby promoted", func(s *stage) { s.promote(false) }},
		{"primary cut off, standby promoted", func(s *stage) { s.promote(true) }},
	}
	for name, rule := range map[string]func() *fault.Rule{
		"cut before COMMIT":               func() *fault.Rule { return fault.On(fault.Commit(), fault.Cut) },
		"reset before COMMIT":             func() *fault.Rule { return fault.On(fault.Commit(), fault.Reset) },
		"cut after COMMIT":                func() *fault.Rule { return fault.On(fault.Commit(), fault.CutAfter) },
		"COMMIT's answer cut":             func() *fault.Rule { return fault.On(fault.Commit(), fault.CutReply) },
		"COMMIT late":                     func() *fault.Rule { return fault.On(fault.Commit(), fault.Delay(100*time.Millisecond)) },
		"marker's answer cut":             func() *fault.Rule { return fault.On(fault.SQL("pgkeel_markers"), fault.CutReply) },
		"cut at the next CommandComplete": func() *fault.Rule { return fault.On(fault.Backend('C').Nth(3), fault.Cut) },
		"cut after a ReadyForQuery":       func() *fault.Rule { return fault.On(fault.Backend('Z').Nth(3), fault.CutAfter) },
	} {
		all = append(all, aFault{name, func(s *stage) { s.rule(rule()) }})
	}
	return all
}

// rule waits until the rule has fired.
func (s *stage) rule(r *fault.Rule) {
	s.must(s.proxy(s.servers.Primary()).Add(r))
	select {
	case <-r.Fired():
	case <-time.After(60 * time.Second):
		s.t.Errorf("%v did not fire: nobody works", r)
	}
}

func (s *stage) endSessions() {
	s.sql(s.servers.Primary(), `select pg_terminate_backend(pid) from pg_stat_activity
		where backend_type = 'client backend' and pid <> pg_backend_pid() and random() < 0.5`)
}

func (s *stage) crash() {
	n := s.servers.Primary()
	s.must(n.Kill())
	s.must(n.Start(s.t.Context()))
}

func (s *stage) restart() { s.must(s.servers.Primary().Restart(s.t.Context())) }

func (s *stage) pause() {
	n := s.servers.Primary()
	s.must(n.Pause())
	s.last(500 * time.Millisecond)
	s.must(n.Resume())
}

func (s *stage) pauseStandby() {
	n := s.servers.Standbys()[0]
	s.must(n.Pause())
	s.last(300 * time.Millisecond)
	s.must(n.Resume())
}

func (s *stage) crashStandby() {
	n := s.servers.Standbys()[0]
	s.must(n.Kill())
	s.must(n.Start(s.t.Context()))
}

func (s *stage) partition() {
	p := s.proxy(s.servers.Primary())
	p.BlackHole(fault.ToServer | fault.ToClient)
	s.last(700 * time.Millisecond)
	p.Heal()
}

// promote does what Patroni would: the primary is gone, or unreachable, and a
// standby, which had to confirm each commit, takes its place. Then there is a new
// standby.
func (s *stage) promote(cutOff bool) {
	ctx := s.t.Context()
	old, next := s.servers.Primary(), s.servers.Standbys()[0]
	if cutOff {
		s.proxy(old).BlackHole(fault.ToServer | fault.ToClient)
	} else {
		s.must(old.Kill())
	}
	s.must(next.Promote(ctx))
	if cutOff {
		// It cannot commit any more: its standby is gone. Patroni would have ended
		// it by now.
		s.must(old.Kill())
	}
	s.leave(old)
	added, err := s.servers.AddStandby(ctx)
	s.must(err)
	s.sql(next, `alter system set synchronous_standby_names = 'ANY 1 (*)'`, `select pg_reload_conf()`)
	s.must(s.servers.WaitCaughtUp(ctx))
	s.join(added)
	s.proxy(old).Cut()
}
