// Package pipeline runs the single statements of many callers over few
// connections, several in flight on each.
//
// An [Engine] has connections for statements that may write, each of which ends
// with a Sync of its own, and connections whose sessions are read-only, on which
// statements that were waiting together share one Sync. [Engine.Do] runs a
// statement, or says by [ErrElsewhere] that it should run on a connection of its
// own: the engine never queues what would have to wait.
//
// # How a statement travels
//
// The caller encodes it, queues it on a connection and, if nobody is writing,
// becomes the writer: it sends what is queued, its own and what others add
// meanwhile. Whoever is alone on a connection also reads its own answer;
// otherwise the connection's goroutine does, and wakes the callers. No lock is
// held during a system call, and no timer delays anything.
//
// # What keeps it right
//
//   - What is on its way to the server always fits into the socket's buffer, so
//     writing never blocks, and results are always taken in, kept up to a limit.
//     Neither side can wait for the other.
//   - A request belongs to its caller, or to the connection while it is under
//     way. A caller who gives up leaves it there.
//   - Only the reader ends what is under way, also when the connection fails.
//   - What has settings is alone in its segment, and so are its settings.
//   - Nobody cancels on a connection that somebody else's statement is on.
//
// # Files
//
//	engine.go     what a caller asks for
//	describe.go   statements described once for all
//	open.go       connections made, replaced and closed
//	pick.go       which connection; those held up
//	conn.go       one connection: its queue, those who wait, its failure
//	write.go      its writer: what leaves together, and when
//	read.go       its reader: answers
//	settle.go     what becomes of each statement
//	segment.go    what stands between two Syncs
//	request.go    one statement under way
//	statement.go  what is known of prepared statements
//	rows.go       results as pgx.Rows
//	wire.go       messages
//	stats.go      counters
package pipeline
