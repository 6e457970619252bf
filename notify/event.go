package notify

import (
	"encoding/json"
	"reflect"
	"time"
)

// Kind is what an [Event] tells.
type Kind uint8

// The kinds of events.
const (
	// Message is a notification.
	Message Kind = iota
	// Gap means that the connection was lost and is back, listening again: what
	// was sent in between is lost, nobody knows how much. Read what the
	// notifications are about anew.
	Gap
	// Dropped means that this subscriber was too slow, and that Lost messages
	// were dropped here.
	Dropped
)

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case Message:
		return "message"
	case Gap:
		return "gap"
	case Dropped:
		return "dropped"
	default:
		return "invalid"
	}
}

// Event is what a subscriber receives, in the order in which it happened.
type Event struct {
	// Kind says what it tells.
	Kind Kind
	// Channel is the subscription's.
	Channel string

	// Payload is what was sent with a Message.
	Payload string
	// PID is the server's process that sent a Message.
	PID uint32
	// Received is when a Message came off the connection.
	Received time.Time

	// Lost is how many messages were Dropped.
	Lost uint64

	// Since is when the connection was last known to be well before a Gap.
	Since time.Time
	// Err is how it was lost before a Gap.
	Err error
}

// Decode reads the JSON of a message's payload into a T. A payload that does not
// fit, the empty one included, is a [*DecodeError].
func Decode[T any](e Event) (T, error) {
	v, err := decode[T](e.Channel, e.Payload)
	return v, err
}

func decode[T any](channel, payload string) (T, error) {
	var v T
	if err := json.Unmarshal([]byte(payload), &v); err != nil {
		var zero T
		return zero, &DecodeError{Channel: channel, Type: reflect.TypeFor[T]().String(), Err: err}
	}
	return v, nil
}

// message is a notification, shared by all its subscribers.
type message struct {
	payload  string
	pid      uint32
	received time.Time
}

// marks are what comes before a message in a queue, without a place of its own:
// whatever is dropped, they are not.
type marks struct {
	lost uint64
	gap  *gap
}

// gap is an interruption of the connection.
type gap struct {
	since time.Time
	err   error
}

// then puts what came later behind what came before. Of two gaps without a
// message between them one remains, as long as both.
func (m marks) then(later marks) marks {
	m.lost += later.lost
	switch {
	case m.gap == nil:
		m.gap = later.gap
	case later.gap != nil:
		m.gap = &gap{since: m.gap.since, err: later.gap.err}
	}
	return m
}
