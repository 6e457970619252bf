package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	// searchPause is between two looks at a server while no primary is known, and
	// the least that is between two looks at any time.
	searchPause = 50 * time.Millisecond
	// longestSearchPause is what it grows to for a server that does not answer: each
	// attempt to connect costs a server that starts a process.
	longestSearchPause = 200 * time.Millisecond
	// freshEvery is how many looks of a search use the same connection: a name may
	// lead to another server by now.
	freshEvery = 10
	// oldestLook is how many heartbeats the newest look at a replica may be old.
	oldestLook = 3
)

// watch looks at a server until its life ends.
func (m *monitor) watch(w *peer) {
	defer func() {
		if pool := m.poolOf(w); pool != nil {
			ctx, cancel := context.WithTimeout(context.Background(), m.opts.ProbeTimeout)
			defer cancel()
			_ = pool.Close(ctx) // nobody uses it any more
		}
	}()
	for looks := 1; ; looks++ {
		began := time.Now()
		if m.searching() && looks%freshEvery == 0 {
			if pool := m.poolOf(w); pool != nil {
				pool.Reset()
			}
		}
		s, err := m.look(w)
		if w.life.Err() != nil {
			return
		}
		m.report(w, began, s, err)
		if !m.pause(w, began) {
			return
		}
	}
}

func (m *monitor) poolOf(w *peer) providers.Pool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return w.pool
}

func (m *monitor) look(w *peer) (sample, error) {
	ctx, cancel := context.WithTimeout(w.life, m.opts.ProbeTimeout)
	defer cancel()
	pool := m.poolOf(w)
	if pool == nil {
		opened, err := m.open(ctx, probeConfig(m.cfg, w.server.dsn, m.opts))
		if err != nil {
			return sample{}, err
		}
		pool = opened
		m.mu.Lock()
		w.pool = pool
		m.mu.Unlock()
	}
	s, err := look(ctx, pool)
	if err != nil && isLoss(err) {
		// The end of a connection that was idle says nothing of the server.
		return look(ctx, pool)
	}
	return s, err
}

// report takes in a look, and what follows from it.
func (m *monitor) report(w *peer, began time.Time, s sample, err error) {
	m.mu.Lock()
	defer m.unlock()
	if w.life.Err() != nil { // removed meanwhile
		return
	}
	was := w.last
	w.note(s, err)
	m.recognize(w)
	first := m.epochs == 0
	settled := m.decide(w, began)
	if first && m.epochs > 0 {
		m.assess(m.peers...) // what was found before there was something to compare with
	} else if !first {
		m.assess(w)
	}
	if was.standby && (!w.last.standby || w.last.identity != was.identity) {
		m.gone(w)
	}
	if w.lost() && w.seen && w.last.standby {
		s := w.server
		m.events = append(m.events, func() { m.onServerSilent(s) })
	}
	if w.silent == 0 && w.settles(began) {
		w.doubted = time.Time{}
	}
	m.publish(settled)
	m.tellLooked()
}

// recognize finds out whether a server belongs to the cluster.
func (m *monitor) recognize(w *peer) {
	if !w.answered() {
		return
	}
	foreign := m.system != "" && w.last.system != m.system
	if foreign && !w.foreign {
		m.say(slog.LevelError, "a server belongs to another cluster and is not used",
			"server", w.address, "system", w.last.system, "expected", m.system)
	}
	w.foreign = foreign
}

// strangers are the hosts of another cluster, as faults of the configuration.
func (m *monitor) strangers() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var faults []error
	for _, w := range m.peers {
		if w.foreign {
			faults = append(faults, &providers.ConfigError{Field: "Cluster.Discovery", Problem: fmt.Sprintf(
				"%s belongs to another cluster (system identifier %s) than the primary (%s); leave it out, or correct its address",
				w.address, w.last.system, m.system)})
		}
	}
	return errors.Join(faults...)
}

// assess decides whether servers are fit to read from after a look, and looks through
// the others for what does not depend on a look of theirs.
func (m *monitor) assess(looked ...*peer) {
	m.measure()
	for _, w := range m.peers {
		v := m.disqualified(w)
		if slices.Contains(looked, w) {
			if v.problem == "" {
				v.problem = m.unfit(w)
			}
		} else if v.problem == "" || !w.fit {
			continue
		}
		if w.judge(v) {
			m.tell(w)
		}
	}
}

// measure notes where the primary is, and how far the standbys are behind it.
func (m *monitor) measure() {
	if w := m.writer; w != nil && w.err == nil {
		m.history.add(w.last.position, w.last.began)
	}
	for _, w := range m.peers {
		if !w.seen || !w.last.standby || w.foreign {
			w.server.lag.Store(0)
			continue
		}
		if at, ok := m.history.reached(providers.LSN(w.server.position.Load())); ok {
			w.server.current.Store(&at)
		}
		w.server.lag.Store(int64(w.server.lagNow()))
	}
}

// tell notes in the log that a server is fit or not.
func (m *monitor) tell(w *peer) {
	if w.fit {
		m.say(slog.LevelInfo, "replica is read from", "server", w.address)
		return
	}
	m.say(slog.LevelWarn, "replica is not read from", "server", w.address, "reason", w.problem)
}

// gone tells that connections for reading from a server are of no use any more.
func (m *monitor) gone(w *peer) {
	s := w.server
	m.events = append(m.events, func() { m.onServerGone(s) })
}

// disqualified is why a server is certainly not fit to read from.
func (m *monitor) disqualified(w *peer) verdict {
	other := func(problem string) verdict { return verdict{problem, true, true} }
	age := time.Since(w.last.began)
	switch {
	case !w.seen:
		return verdict{}
	case w.foreign:
		return other("belongs to another cluster")
	case !w.last.standby:
		return other("is no standby")
	case w.server.Host().PrimaryOnly:
		return other("is not to be read from")
	case w.last.timeline != m.newest:
		// Positions of different timelines cannot be compared.
		return other(fmt.Sprintf("follows timeline %d, as far as can be seen, and the primary's is %d", w.last.timeline, m.newest))
	case age > oldestLook*m.opts.Heartbeat+m.opts.Heartbeat/2:
		return verdict{problem: "did not answer for " + age.Round(time.Millisecond).String(), certain: true}
	}
	for _, earlier := range m.peers {
		if earlier == w {
			break
		}
		if earlier.answered() && earlier.last.identity == w.last.identity {
			return other("is the same server as " + earlier.address)
		}
	}
	return verdict{}
}

// unfit is why a server that was looked at is not fit to read from, which a second
// look has to confirm.
func (m *monitor) unfit(w *peer) string {
	if w.err != nil {
		return w.reason()
	}
	// Without a primary nobody receives anything. A former one, though, may have what
	// nobody else has, and will lose it.
	if !w.last.receiving && (!w.fit || m.writer != nil && m.writer.silent == 0) {
		return "receives nothing from the primary"
	}
	if lag := w.server.lagNow(); m.opts.MaxLag > 0 && lag > m.opts.MaxLag {
		if lag == UnknownLag {
			return "is behind the primary since before it was looked at"
		}
		return "is behind the primary by " + lag.Round(time.Millisecond).String()
	}
	return ""
}

// trouble puts a server in doubt, because of an error that its user had. It is
// looked at at once; a standby is out until it has answered well twice. A nil
// server is a primary that nobody knows. It is quick, and may be called from
// everywhere.
func (m *monitor) trouble(s *server, err error) {
	if s == nil || errors.Is(err, context.Canceled) { // a search is on; nobody's fault
		return
	}
	m.mu.Lock()
	defer m.unlock()
	for _, w := range m.peers {
		if w.server != s {
			continue
		}
		w.doubted = time.Now()
		if w == m.writer {
			m.doubt()
			return
		}
		if w.eject("its users had trouble: " + providers.Redact(err.Error(), s.dsn)) {
			m.tell(w)
			m.publish(false)
			w.wake()
		}
		return
	}
}

// searching reports whether a primary is looked for.
func (m *monitor) searching() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writer == nil || m.doubted
}

// pause waits until it is time to look again. It reports false when there is nothing
// to look at any more.
func (m *monitor) pause(w *peer, began time.Time) bool {
	timer := time.NewTimer(time.Until(m.next(w, began)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.life.Done():
		return false
	case <-w.kick:
	}
	// Whoever has trouble may have it often.
	timer.Reset(time.Until(began.Add(searchPause / 2)))
	select {
	case <-timer.C:
		return true
	case <-w.life.Done():
		return false
	}
}

// next is when to look again.
func (m *monitor) next(w *peer, began time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	beat := m.opts.Heartbeat
	switch {
	case m.writer == nil || m.doubted:
		return began.Add(jittered(min(min(searchPause, beat)<<min(w.silent, 8), longestSearchPause)))
	case w.silent == 1:
		return began.Add(jittered(min(searchPause, beat))) // to be certain
	case w == m.writer || !w.seen || !w.last.standby:
		return began.Add(jittered(beat))
	}
	// A standby is looked at a little after the primary, so that its lag is measured
	// against a position that was just taken.
	at := m.writer.last.began.Add(beat + beat/10)
	if at.Sub(began) < beat/2 {
		at = at.Add(beat)
	}
	if earliest := began.Add(beat / 2); at.Before(earliest) {
		return earliest
	}
	return at
}

// jittered is up to a tenth shorter, so that many processes do not look at the same
// moment.
func jittered(d time.Duration) time.Duration {
	return d - rand.N(d/10+1) //nolint:gosec // jitter needs no secrecy
}
