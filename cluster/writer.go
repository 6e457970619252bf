package cluster

import (
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// writing is what is known of the primary.
type writing struct {
	// system is the identifier of the cluster, that of the first primary, and systemID
	// the same as a number. impatient says that not all hosts have to be looked at to
	// tell.
	system    string
	systemID  uint64
	impatient bool
	// sought is when somebody asked last for a newer primary.
	sought time.Time
	// writer is the primary, nil while none is known.
	writer *peer
	// doubted says that it is being looked at because of trouble.
	doubted bool
	// newest is the highest timeline seen on a primary, or followed by a standby, and
	// newestSince when it was first seen.
	newest      uint32
	newestSince time.Time
	// timeline is that of the last writer, and beginning the first position seen on
	// it.
	timeline  uint32
	beginning providers.LSN
	// session is the identity of the server that the writer pool's connections are
	// to, "" if they are to none, and sessions that server.
	session  string
	sessions *server
	// rivals are the primaries of the alarm that is on.
	rivals []string
	// epochs is how often another server became the writer, alarms how often there
	// were two primaries.
	epochs, alarms int64
}

// decide finds out who the primary is after a look. It reports whether a doubt ended.
func (m *monitor) decide(looked *peer, began time.Time) (settled bool) {
	if m.system == "" && !m.nameSystem() {
		return false
	}
	m.learnTimeline()
	was := m.writer
	if looked == m.writer {
		settled = m.check(began)
	}
	m.elect()
	m.epoch()
	if m.writer == nil && was != nil {
		if was.primary() {
			m.endSessions() // it is on an old timeline
		}
		m.say(slog.LevelWarn, "the primary is lost", "server", was.address, "reason", m.why(was))
		m.search()
	}
	if m.writer != nil && m.writer != was {
		m.say(slog.LevelInfo, "primary found", "server", m.writer.address, "timeline", m.timeline, "epoch", m.epochs)
		m.askForHosts()
	}
	m.alarm()
	return settled && m.writer == was
}

// nameSystem takes the first primary's cluster for the one that is meant, once every
// host was looked at: that of the first host in the order of the configuration.
func (m *monitor) nameSystem() bool {
	if !m.impatient && slices.ContainsFunc(m.peers, func(w *peer) bool { return !w.looked }) {
		return false
	}
	for _, w := range m.peers {
		if w.primary() && w.err == nil {
			m.system = w.last.system
			m.systemID, _ = strconv.ParseUint(m.system, 10, 64)
			for _, other := range m.peers {
				m.recognize(other)
			}
			return true
		}
	}
	return false
}

func (m *monitor) learnTimeline() {
	for _, w := range m.peers {
		if w.answered() && !w.foreign && w.last.timeline > m.newest {
			m.newest, m.newestSince = w.last.timeline, time.Now()
		}
	}
}

// check is what a look at the writer says of it. It reports whether a doubt ended
// well.
func (m *monitor) check(began time.Time) (settled bool) {
	w := m.writer
	switch {
	case !w.primary():
		m.drop()
	case w.silent > 0:
		m.doubt()
	case m.doubted && w.settles(began):
		m.doubted = false
		return true
	}
	return false
}

// drop takes the writer for none any more.
func (m *monitor) drop() {
	w := m.writer
	m.writer, m.doubted = nil, false
	if w.seen && w.last.standby && w.err == nil {
		m.endSessions()
		return
	}
	old := w.server
	m.events = append(m.events, func() { m.onWriterSilent(old) })
}

// elect takes the primary of the newest timeline. A writer stays beside another one
// of its own timeline; between two others none is chosen. One of an older timeline is
// none: what it is told to write is lost with the log that it forked.
func (m *monitor) elect() {
	if m.writer != nil && m.writer.last.timeline >= m.newest {
		return
	}
	best, several := m.candidate()
	if m.writer != nil && best == nil && !several && m.writer.last.began.Before(m.newestSince) {
		m.doubt() // it may be on the newest one as well by now
		return
	}
	if best != nil || m.writer != nil {
		m.writer, m.doubted = best, false
	}
}

// candidate is the one primary of the newest timeline, nil if there is none, or if
// there are several.
func (m *monitor) candidate() (best *peer, several bool) {
	for _, w := range m.peers {
		switch {
		case !w.primary() || !w.answered() || w.last.timeline < m.newest:
		case best == nil:
			best = w
		case best.last.identity != w.last.identity:
			return nil, true
		}
	}
	return best, false
}

// epoch ends the sessions on a server that is the writer no more, once another one
// is, or the same one started anew.
func (m *monitor) epoch() {
	w := m.writer
	if w == nil {
		return
	}
	if w.last.timeline != m.timeline {
		m.timeline, m.beginning = w.last.timeline, w.last.position
	}
	if w.last.identity == m.session {
		return
	}
	m.endSessions()
	m.session, m.sessions = w.last.identity, w.server
	m.epochs++
}

func (m *monitor) endSessions() {
	if m.session == "" {
		return
	}
	old := m.sessions
	m.session, m.sessions = "", nil
	m.events = append(m.events, func() { m.onWriterLost(old) })
}

// doubt has all servers looked at, because the writer may not be the primary any
// more.
func (m *monitor) doubt() {
	if !m.doubted {
		m.doubted = true
		m.publish(false)
	}
	m.search()
}

// seek has all servers looked at, because somebody knows of a newer primary than the
// one that is known here. That may be made up, so it puts nobody in doubt, and it is
// not done more often than a search does it.
func (m *monitor) seek() {
	m.mu.Lock()
	defer m.unlock()
	if time.Since(m.sought) < longestSearchPause {
		return
	}
	m.sought = time.Now()
	m.search()
}

// search has all servers looked at at once, and the hosts asked for.
func (m *monitor) search() {
	for _, w := range m.peers {
		w.wake()
	}
	m.askForHosts()
}

// why is why the writer is none any more.
func (m *monitor) why(w *peer) string {
	switch {
	case w.err != nil:
		return w.reason()
	case w.last.standby:
		return "it is a standby now"
	default:
		return "there is a newer timeline, or another primary on the same one"
	}
}

// alarm tells of two primaries, once each of them was seen to be one after the other
// was, and again when there is one more.
func (m *monitor) alarm() {
	rivals := m.primaries()
	if len(rivals) < 2 {
		m.rivals = nil
		return
	}
	since := slices.MaxFunc(rivals, func(a, b *peer) int { return a.primarySince.Compare(b.primarySince) }).primarySince
	var names []string
	certain := true
	for _, w := range rivals {
		names = append(names, w.address)
		if w.last.began.Before(since) {
			certain = false
			w.wake()
		}
	}
	if !certain {
		return
	}
	news := slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(m.rivals, name) })
	if m.rivals = names; !news {
		return
	}
	m.alarms++
	used := "none"
	if m.writer != nil {
		used = m.writer.address
	}
	m.say(slog.LevelError, "more than one server takes writes; stop all but the one on the newest timeline",
		"servers", strings.Join(names, ", "), "used", used)
}

// primaries are the servers that are seen as primaries, each once.
func (m *monitor) primaries() (all []*peer) {
	for _, w := range m.peers {
		same := func(other *peer) bool { return other.last.identity == w.last.identity }
		if w.primary() && !slices.ContainsFunc(all, same) {
			all = append(all, w)
		}
	}
	return all
}
