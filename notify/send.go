package notify

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/pgkeel/pgkeel/providers"
)

// Notify sends a payload to whoever listens to the channel. In a transaction it
// is delivered when that commits, and never if it does not; of several equal
// ones PostgreSQL then delivers one.
//
// A payload of 8,000 bytes or more is refused with [ErrInvalidPayload] before
// anything is sent, and a name that no channel can have with
// [ErrInvalidChannel]. The empty payload is allowed.
func Notify(ctx context.Context, q providers.Querier, channel, payload string) error {
	if q == nil {
		return errNoQuerier
	}
	if err := checkChannel(channel); err != nil {
		return err
	}
	if err := checkPayload(payload); err != nil {
		return err
	}
	_, err := q.Exec(ctx, `select pg_notify($1, $2)`, channel, payload)
	return err
}

// NotifyJSON is [Notify] with the JSON of a value. See [Decode] for the other
// side.
func NotifyJSON(ctx context.Context, q providers.Querier, channel string, value any) error {
	payload, err := encode(value)
	if err != nil {
		return err
	}
	return Notify(ctx, q, channel, payload)
}

func encode(value any) (string, error) {
	payload, err := json.Marshal(value)
	if err != nil {
		// The text of the cause may quote the value.
		return "", &InvalidError{state: ErrInvalidPayload, cause: err, Problem: fmt.Sprintf("cannot be made of a %T, which has no JSON", value)}
	}
	return string(payload), nil
}
