// Package outcome finds out what became of a transaction whose COMMIT was sent
// and not answered, so that it can be run again exactly when it has no effect.
// The option ExactlyOnce of a handle's RunTx is the way to use it:
//
//	err = db.RunTx(ctx, transfer, pgkeel.TxOptions{ExactlyOnce: true})
//
// # How
//
// The transaction begins with a row in the table pgkeel_markers, under a key that
// nobody had before: its [Marker]. The row is there if and only if the transaction
// was committed. When the answer to COMMIT is lost, [Marker.Settle] inserts the
// same key, fenced, in a transaction of its own, on whichever server takes writes
// now. If the row is there the transaction was committed. If it is not, there is
// a fence in its place: the original, should it still be on its way, fails on the
// primary key and can never commit. While the original is in progress, the server
// has the insert wait for its end; an original that stays, since its server does
// not know yet that nobody talks to it any more, is terminated.
//
// The resolver always writes, also where it only finds a row: with a synchronous
// standby its own commit is acknowledged once it is replicated, and with it
// everything before it. A verdict read from a primary that is lost in the next
// moment would be a lie.
//
// # What it needs
//
// The table is made on first use (see [DDL]), in the schema public, whatever the
// search path: the resolver has to look where the transaction wrote, and a search
// path is not the same for every tenant, role and session. A role that may not
// make tables there needs it made by an administrator, and the privileges SELECT,
// INSERT, UPDATE and DELETE.
//
// # Concurrency
//
// A [Markers] is safe for concurrent use, a [Marker] belongs to one transaction.
package outcome
