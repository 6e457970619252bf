// Package cluster makes several servers of one database look like one pool: a
// primary, whichever server that is at the moment, and its replicas.
//
// Each server is looked at once a second, and at once when somebody has trouble with
// it. So it is known which of them is the primary, and which replicas are fit to read
// from: standbys of that primary that answer, receive, and are not too far behind. A
// server is never promoted; that is for Patroni, or whatever else looks after it.
//
// # Where an operation goes
//
// What an operation may do is declared, never guessed from its text:
//
//   - to a replica go statements whose context is declared to only read
//     (providers.WithReadOnly, [PreferReplica]), and transactions that are begun
//     read-only and are not serializable;
//   - connections, batches and COPY TO go where the context says as well, but with a
//     [Session] in it to the primary;
//   - everything else goes to the primary, by a pool that follows it. LISTEN, COPY
//     FROM and the unwrapped pool do as well.
//
// [PreferPrimary], [OnPrimary] and [WithMaxLag] change that for a context,
// [Options] and providers.PoolStrategy for all.
//
// # When a server fails
//
// A read that fails for want of its replica goes to another one, then to the primary.
// Rows of which one was handed out cannot; a row of QueryRow and pgkeel's One and All hand
// out nothing before all is there. A statement for the primary that certainly was not
// sent waits for a primary, until its context ends or, if that has no deadline, for
// the acquire timeout, and is then sent. So is what only begins: a transaction, a
// connection. A statement that may have been sent fails, and its error says so.
//
// # What a read sees
//
// A replica is a little behind. Who has to see what it wrote itself carries a
// [Session] in its context: its reads wait a moment for a replica that is far enough,
// and otherwise go to the primary.
//
// A [Cluster] is safe for concurrent use. It is opened by pgkeel.WithReplicas and
// pgkeel.WithCluster.
package cluster
