package notify

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

const (
	// MaxChannelBytes is how long a channel's name may be. PostgreSQL cuts a
	// longer one in LISTEN, silently, and refuses it in NOTIFY: the two would
	// never meet.
	MaxChannelBytes = 63
	// MaxPayloadBytes is how long a payload may be.
	MaxPayloadBytes = 7999
)

// Quote returns a channel's name as an identifier, as it stands in LISTEN. What
// cannot be a channel's name is [ErrInvalidChannel].
//
// Names are quoted always, so they are case-sensitive, as they are in pg_notify:
// who writes "notify Orders" by hand sends to the channel "orders".
func Quote(channel string) (string, error) {
	if err := checkChannel(channel); err != nil {
		return "", err
	}
	return quote(channel), nil
}

// quote is Quote for a name that was checked.
func quote(channel string) string { return pgx.Identifier{channel}.Sanitize() }

func checkChannel(channel string) error {
	switch {
	case channel == "":
		return &InvalidError{state: ErrInvalidChannel, Problem: "is empty"}
	case len(channel) > MaxChannelBytes:
		return &InvalidError{state: ErrInvalidChannel, Problem: fmt.Sprintf(
			"has %d bytes, but PostgreSQL's names end at %d; use a shorter one, or a hash of it", len(channel), MaxChannelBytes)}
	case strings.ContainsRune(channel, 0):
		return &InvalidError{state: ErrInvalidChannel, Problem: "contains a NUL byte"}
	case !utf8.ValidString(channel):
		return &InvalidError{state: ErrInvalidChannel, Problem: "is not UTF-8"}
	}
	return nil
}

func checkPayload(payload string) error {
	switch {
	case len(payload) > MaxPayloadBytes:
		return &InvalidError{state: ErrInvalidPayload, Problem: fmt.Sprintf(
			"has %d bytes, but PostgreSQL takes %d at most; write it to a table and send its key, which is what Outbox.Publish does",
			len(payload), MaxPayloadBytes)}
	default:
		return checkText(payload)
	}
}

// checkText refuses what PostgreSQL's text cannot hold.
func checkText(payload string) error {
	switch {
	case strings.ContainsRune(payload, 0):
		return &InvalidError{state: ErrInvalidPayload, Problem: "contains a NUL byte; encode it, for example in base64"}
	case !utf8.ValidString(payload):
		return &InvalidError{state: ErrInvalidPayload, Problem: "is not UTF-8; encode it, for example in base64"}
	}
	return nil
}
