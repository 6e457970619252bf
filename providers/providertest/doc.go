// Package providertest is the conformance suite of the contract in package
// providers: what every provider must do, whatever it stands on. One test runs
// all of it:
//
//	func TestConformance(t *testing.T) {
//		providertest.Run(t, providertest.Target{
//			Provider: mine.Provider{},
//			DSN:      pgtest.NewDB,
//		})
//	}
//
// A subtest opens a pool of its own on a database of its own, and fails if a
// connection is still in use when it is over. "go test -run" takes the name of
// a single one.
//
// # What is asked of a provider
//
// Only what the contract says. Where the contract leaves room, the suite asks
// for honesty: when a connection is lost, for one, the outcome may be unknown,
// but a provider that says "not sent" or "rolled back" is taken at its word, and
// the table is looked at.
//
// A capability interface (batches, COPY, the pgx pool underneath) is asked of
// those pools, connections and transactions that have it. What a provider does
// not claim to do by its types is not run.
//
// # Files
//
//	target.go       what is tested, and how a pool is opened and watched
//	wire.go         a proxy that loses a message or the answer to one
//	query.go        statements and their results
//	values.go       arguments, values, NULL
//	errors.go       the server's errors
//	limits.go       contexts and the server's own limits
//	scope.go        calls with settings
//	confined.go     what a context is confined to, on every path
//	operations.go   the paths
//	gate.go         the gate of a scope
//	transaction.go  transactions
//	start.go        those that begin with a statement
//	savepoint.go    transactions inside of them
//	expiry.go       the end of a transaction's time
//	pool.go         waiting, exhaustion, the end
//	conn.go         acquired connections
//	hooks.go        hooks and statistics
//	loss.go         connections that are lost at a chosen moment
//	evict.go        connections that the pool ends itself
//	capability.go   what only some can do
package providertest
