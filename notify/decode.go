package notify

import "iter"

// Typed is an event with its payload decoded.
type Typed[T any] struct {
	Event

	// Value is what the payload of a Message holds.
	Value T
}

// JSON decodes the payloads of events, as [Subscription.All] and [Listener.All]
// yield them, from JSON into a T. A payload that does not fit comes with a
// [*DecodeError], and the loop may go on behind it; any other error is the end.
func JSON[T any](events iter.Seq2[Event, error]) iter.Seq2[Typed[T], error] {
	return func(yield func(Typed[T], error) bool) {
		for e, err := range events {
			typed := Typed[T]{Event: e}
			if err == nil && e.Kind == Message {
				typed.Value, err = Decode[T](e)
			}
			if !yield(typed, err) {
				return
			}
		}
	}
}
