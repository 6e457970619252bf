// Package pgx is the default provider: PostgreSQL through jackc/pgx v5 and its
// pool, supervised.
//
// The pool underneath is an ordinary [pgxpool.Pool], and stays reachable
// through [Pool.Unwrap]. pgkeel supervises it through pgxpool's own tracer
// interfaces, so what is taken from the unwrapped pool is bounded, counted and
// reset like everything else.
//
// # Concurrency
//
// A [Pool] is safe for concurrent use. A [Conn] and a [Tx] belong to one
// goroutine at a time; a transaction used by two at once says so with
// [providers.ErrConcurrentUse].
//
// # What comes back by itself
//
// A borrower that forgets a connection (a QueryRow without Scan, rows that are
// never closed, a transaction that is dropped) does not keep it: once the
// garbage collector finds that nobody can reach the forgotten object, its
// connection is closed and its place in the pool is free again.
//
// # Files
//
//	provider.go     the registration under the name "pgx"
//	config.go       from providers.Config to pgxpool.Config
//	dial.go         sockets: keepalive, TCP user timeout
//	route.go        where an attempt to connect goes
//	trouble.go      what puts the server in doubt
//	evict.go        the end of every connection at once
//	cancel.go       what a context that ends does to a connection
//	pool.go         the pool's operations
//	acquire.go      the wait for a connection: limits, statistics, deadlocks
//	session.go      what is known of one connection
//	reset.go        session state on its way back
//	lease.go        who holds a connection, and how it comes back
//	supervisor.go   the background: warm-up, MinSize, leaks
//	close.go        the orderly end
//	rows.go         results that give their connection back
//	statement.go    one statement: hooks, stale plans, errors
//	scope.go        settings that hold for one call
//	causal.go       what comes behind a place in the log, and tells its own
//	pipelined.go    connections that statements share, as a part of the pool
//	pipelineddial.go  how one is made
//	pipelinedrun.go   what may share them, and how it runs
//	conn.go         an acquired connection
//	use.go          one user at a time
//	transaction.go  transactions
//	start.go        transactions that begin with a statement
//	commit.go       how they end, and what became of them
//	expiry.go       the end of a transaction's time
//	savepoint.go    transactions inside of them
//	batch.go        batches as pgx has them
//	batchrun.go     batches that know of each statement: the flow
//	batchitem.go    their statements: source, rewriting, sizes, results
//	batchdescribe.go  what the server says of them, and the cache
//	batchstream.go  sending ahead, reading behind, stale plans
//	batchgroup.go   transactions, savepoints, and what a loss means
//	copy.go         COPY of rows
//	rawcopy.go      COPY of data as they are
//	feeder.go       a reader that runs ahead of it
//	listen.go       connections for LISTEN
//	tracer.go       pgx's tracers: pgkeel's and the user's
//	errors.go       errors that say what fired
package pgx
