package notify

import (
	"errors"
	"fmt"

	"github.com/pgkeel/pgkeel/providers"
)

// The states that an operation can find.
var (
	// ErrClosed means that the listener was closed, or could not go on because
	// its pool was.
	ErrClosed = errors.New("pgkeel: the listener is closed")
	// ErrStarted means that Start was called on a listener that runs.
	ErrStarted = errors.New("pgkeel: the listener was started already")
	// ErrUnsubscribed means that the subscription was closed by its owner.
	ErrUnsubscribed = errors.New("pgkeel: the subscription is closed")
	// ErrInvalidChannel means that no channel can have that name.
	ErrInvalidChannel = errors.New("pgkeel: invalid channel name")
	// ErrInvalidPayload means that a notification cannot carry that payload.
	ErrInvalidPayload = errors.New("pgkeel: invalid payload")
)

// InvalidError is [ErrInvalidChannel] or [ErrInvalidPayload] with the fault and
// its fix. Its text contains neither name nor payload.
type InvalidError struct {
	// Problem is what is wrong with it.
	Problem string

	state, cause error
}

func (e *InvalidError) Error() string { return e.state.Error() + ": it " + e.Problem }

// Unwrap returns the sentinel, and the cause if there is one.
func (e *InvalidError) Unwrap() []error {
	if e.cause == nil {
		return []error{e.state}
	}
	return []error{e.state, e.cause}
}

// Outcome is always OutcomeNotSent.
func (e *InvalidError) Outcome() providers.Outcome { return providers.OutcomeNotSent }

// DecodeError means that a payload is not what its reader expects. Its text does
// not quote the payload.
type DecodeError struct {
	// Channel is where it arrived.
	Channel string
	// Type is what it was to become.
	Type string
	// Err is why it could not. Its own text may quote parts of the payload.
	Err error
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("pgkeel: a payload on channel %q cannot be decoded into a %s", e.Channel, e.Type)
}

// Unwrap returns the cause.
func (e *DecodeError) Unwrap() error { return e.Err }

// refusal is what is wrong with a call of which nothing was sent.
type refusal string

func (r refusal) Error() string            { return "pgkeel: " + string(r) + "; nothing was sent" }
func (refusal) Outcome() providers.Outcome { return providers.OutcomeNotSent }

// errNoQuerier stands for the handle that is missing.
const errNoQuerier = refusal("notify: the handle is nil")

func configError(field, format string, args ...any) error {
	return &providers.ConfigError{Field: field, Problem: fmt.Sprintf(format, args...)}
}
