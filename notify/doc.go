// Package notify is LISTEN and NOTIFY: one connection that listens for many
// subscribers, finds out when it is dead, connects again by itself, and says
// what that cost.
//
//	l, err := db.Listen(ctx, notify.Options{})
//	…
//	defer l.Close(ctx)
//
//	for e, err := range l.All(ctx, "orders") {
//		if err != nil {
//			return err
//		}
//		switch e.Kind {
//		case notify.Message:
//			fmt.Println(e.Payload)
//		case notify.Gap, notify.Dropped:
//			// something is missing here: read the table anew
//		}
//	}
//
// # What is promised
//
// Once [Listener.Subscribe] has returned, every message that is sent to the
// channel arrives once and in order, or an event stands in its place: [Gap]
// where the connection was lost, [Dropped] where the subscriber was too slow.
// After a loss the new connection listens to every channel first, and then the
// gap is told. Notifications are not stored by PostgreSQL: what must not be
// missed goes through an [Outbox], a table that followers read from where they
// were.
//
// A subscriber has a bounded [Queue] of its own and never holds up the
// connection or another subscriber, whatever it does.
//
// # Concurrency
//
// A [Listener] and a [Subscription] are safe for concurrent use, an [Outbox] is
// a value. Everything that was started ends with [Listener.Close], or with the
// handle.
//
// # Defaults
//
// A heartbeat after 10 s of silence, 5 s for its answer, 50 ms to 2 s between
// attempts to connect, 256 messages a queue, and the oldest goes first.
//
// # Files
//
//	send.go          Notify
//	channel.go       names and payloads that PostgreSQL takes
//	listener.go      the listener's life
//	connection.go    the connection: LISTEN, reading, heartbeat, reconnecting
//	backoff.go       the pause between attempts
//	subscription.go  subscribing, and reading by Next, All and Chan
//	handler.go       reading by a function
//	queue.go         the bounded queue and what happens when it is full
//	event.go         what a subscriber receives
//	decode.go        payloads as types
//	outbox.go        messages that are delivered for certain: the table
//	follow.go        their readers
//	history.go       what they delivered last, compared after an interruption
//	position.go      where a reader stands
//	options.go       options and their defaults
//	stats.go         statistics
//	errors.go        errors
package notify
