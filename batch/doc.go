// Package batch runs many statements, sent ahead of their results, and lets the
// caller choose what an error means.
//
//	report, err := batch.Run(ctx, db, b, batch.Options{Mode: batch.Isolated})
//
// [Run] takes a [pgx.Batch], [Stream] an iterator, for as many statements as
// there are. Both take a handle, a connection or a transaction of pgkeel's.
//
// # Modes
//
//   - [Atomic]: all or nothing. The error of a statement, of a callback, of the
//     source or of the commit undoes everything.
//   - [Isolated]: each statement by itself, in a transaction of its own. One
//     that fails changes nothing for the others. What a callback returns comes
//     too late to undo its statement.
//   - [Grouped]: a transaction for every so many statements. What fails undoes
//     its group.
//
// Inside a transaction of the caller's, a group, or a statement by itself, is a
// savepoint: what fails is undone, and the transaction goes on. Nothing is
// durable until it is committed.
//
// # What became of each
//
// The [Report] has a [State] for every statement: OK, Failed, NotAttempted,
// RolledBack, and Unknown where the connection was lost at a moment when nobody
// can tell. The error is a [*Error] with an [*ItemError] for each thing that went
// wrong, which names the statement by its index and its SQL, never its arguments,
// and unwraps to the *pgkeel.PGError.
//
// # Flow
//
// One goroutine sends statements as long as MaxBytes and MaxStatements allow,
// then reads results, and so on: neither side ever waits for the other to read,
// and a million statements need no more memory than a window of them, plus a
// byte for the state of each. Statements that the connection does not know yet
// are described together, in one round trip for a window.
//
// Callbacks set on a queued query run in the order of the statements, on the
// caller's goroutine. They must not use the connection or transaction that the
// batch runs on: it is in use. A panic of theirs goes through and gives the
// connection back.
//
// # Limits
//
// A statement is SQL, not the name of a prepared one, and does not begin or end a
// transaction. As in pgx, the only option among its arguments is a
// [pgx.QueryRewriter], such as pgx.NamedArgs. Connections that are set to the
// simple protocol cannot send ahead, and are refused.
//
// # Concurrency
//
// The functions may be called from any number of goroutines. A Report belongs to
// the one that called.
package batch
