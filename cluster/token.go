package cluster

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/pgkeel/pgkeel/providers"
)

// ErrToken means that a text is not a session's token. The session is as it was.
var ErrToken = errors.New("pgkeel: cluster: this is no token of a session, or one of a newer version; the session is as it was")

// A token is the version, and for each cluster its system identifier, the timeline and
// the position, in hexadecimal numbers without zeros in front, in the order of the
// identifiers. A mark follows if something is in doubt:
//
//	1.68c1b3a29f5e0d17.2.3000060
//	1.68c1b3a29f5e0d17.2.3000060.u
const (
	tokenVersion = "1"
	tokenDoubt   = "u"
	// maxToken is the length of the longest one.
	maxToken = len(tokenVersion) + maxPlaces*len(".ffffffffffffffff.ffffffff.ffffffffffffffff") + len("."+tokenDoubt)
	// placeParts is of how many parts a place is.
	placeParts = 3
)

// Token is what the session has written and seen, as a text of letters, digits and
// dots for another session to [Session.Merge]: at most 46 for one cluster, and 43 for
// each of up to 7 others. It is empty if the session has neither written nor read.
//
// A token is no secret, and no permission: whoever makes one up has his own reads
// wait, or go to the primary.
func (s *Session) Token() string {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	doubt := s.doubts != 0 && len(s.places) == 0
	token := []byte(tokenVersion)
	for _, p := range s.places {
		for _, n := range [placeParts]uint64{p.system, uint64(p.timeline), uint64(p.lsn)} {
			token = strconv.AppendUint(append(token, '.'), n, 16)
		}
		doubt = doubt || p.settled != s.doubts
	}
	if len(s.places) == 0 && !doubt {
		return ""
	}
	if doubt {
		token = append(token, "."+tokenDoubt...)
	}
	return string(token)
}

// Merge has the session see as well what another one had written and seen when that
// made the token. The order does not matter in which tokens are merged, nor how often
// each is. An empty token changes nothing; a text that is none is [ErrToken].
func (s *Session) Merge(token string) error {
	if token == "" {
		return nil
	}
	places, doubt, err := parseToken(token)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range places {
		s.advance(p.system, p.timeline, p.lsn)
	}
	if doubt {
		s.doubts++
	}
	return nil
}

// parseToken accepts what Token makes, and nothing else.
func parseToken(token string) (places []reached, doubt bool, err error) {
	if len(token) > maxToken {
		return nil, false, ErrToken
	}
	parts := strings.Split(token, ".")
	version, parts := parts[0], parts[1:]
	if n := len(parts); n > 0 && parts[n-1] == tokenDoubt {
		doubt, parts = true, parts[:n-1]
	}
	if version != tokenVersion || len(parts)%placeParts != 0 || len(parts) > maxPlaces*placeParts || len(parts) == 0 && !doubt {
		return nil, false, ErrToken
	}
	for last := uint64(0); len(parts) > 0; parts = parts[placeParts:] {
		p, ok := parsePlace(parts)
		if !ok || p.system <= last {
			return nil, false, ErrToken
		}
		last = p.system
		places = append(places, p)
	}
	return places, doubt, nil
}

// parsePlace reads a place from the first parts.
func parsePlace(parts []string) (reached, bool) {
	system, systemOK := parseHex(parts[0], math.MaxUint64)
	timeline, timelineOK := parseHex(parts[1], math.MaxUint32)
	lsn, lsnOK := parseHex(parts[2], math.MaxUint64)
	return reached{system: system, timeline: uint32(timeline), lsn: providers.LSN(lsn)}, //nolint:gosec // at most the limit
		systemOK && timelineOK && lsnOK && (timeline != 0 || lsn != 0)
}

// parseHex reads a number as it is written, so that each has one form.
func parseHex(text string, limit uint64) (uint64, bool) {
	n, err := strconv.ParseUint(text, 16, 64)
	return n, err == nil && n <= limit && strconv.FormatUint(n, 16) == text
}
