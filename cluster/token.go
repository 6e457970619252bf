package cluster

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/pgkeel/pgkeel/providers"
)

// ErrToken means that a text is not a session's token. The session is as it was.
var ErrToken = errors.New("pgkeel: cluster: this is no token of a session, or one of a newer version; the session is as it was")

// A token is the version, the timeline and the position, in hexadecimal numbers
// without zeros in front, and a mark if something is in doubt:
//
//	1.2.3000060
//	1.2.3000060.u
const (
	tokenVersion = "1"
	tokenDoubt   = "u"
	// maxToken is the length of the longest one.
	maxToken = len("1.ffffffff.ffffffffffffffff.u")
)

// Token is what the session has written and seen, as a text of at most 29 letters,
// digits and dots, for another session to [Session.Merge]. It is empty if the session
// has neither written nor read.
//
// A token is no secret, and no permission: whoever makes one up has his own reads
// wait, or go to the primary.
func (s *Session) Token() string {
	timeline, lsn, unknown := s.needs()
	if timeline == 0 && lsn == 0 && !unknown {
		return ""
	}
	token := fmt.Sprintf("%s.%x.%x", tokenVersion, timeline, uint64(lsn))
	if unknown {
		token += "." + tokenDoubt
	}
	return token
}

// Merge has the session see as well what another one had written and seen when that
// made the token. The order does not matter in which tokens are merged, nor how often
// each is. An empty token changes nothing; a text that is none is [ErrToken].
func (s *Session) Merge(token string) error {
	if token == "" {
		return nil
	}
	timeline, lsn, unknown, err := parseToken(token)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance(timeline, lsn)
	if unknown {
		s.doubts++
	}
	return nil
}

// parseToken accepts what Token makes, and nothing else.
func parseToken(token string) (timeline uint32, lsn providers.LSN, unknown bool, err error) {
	if len(token) > maxToken {
		return 0, 0, false, ErrToken
	}
	parts := strings.Split(token, ".")
	if len(parts) == 4 && parts[3] == tokenDoubt {
		unknown, parts = true, parts[:3]
	}
	if len(parts) != 3 || parts[0] != tokenVersion {
		return 0, 0, false, ErrToken
	}
	t, timelineOK := parseHex(parts[1], math.MaxUint32)
	l, lsnOK := parseHex(parts[2], math.MaxUint64)
	if !timelineOK || !lsnOK || t == 0 && l == 0 && !unknown {
		return 0, 0, false, ErrToken
	}
	return uint32(t), providers.LSN(l), unknown, nil //nolint:gosec // t is at most the limit
}

// parseHex reads a number as it is written, so that each has one form.
func parseHex(text string, limit uint64) (uint64, bool) {
	n, err := strconv.ParseUint(text, 16, 64)
	return n, err == nil && n <= limit && strconv.FormatUint(n, 16) == text
}
