// Package stdsql is a provider over database/sql: for a *sql.DB that a program
// has already, and for any driver of PostgreSQL that database/sql knows. It is
// tested with pgx's own (github.com/jackc/pgx/v5/stdlib) and with lib/pq.
//
// It means the same as the pgx provider, and passes the same conformance suite:
// placeholders are $1, rows are [pgx.Rows] and scan as in pgx, the server's
// errors are a [*providers.PGError]. What database/sql cannot do, the types do
// not claim: no batch, no COPY, no pgx pool underneath. What it cannot do in one
// flush is paid for in round trips: a call with settings is BEGIN, the settings,
// the statement and COMMIT.
//
// An existing *sql.DB:
//
//	db, err := pgkeel.Open(ctx, "", pgkeel.WithOpener(stdsql.Provider{DB: sqlDB}))
//
// A driver by its name:
//
//	db, err := pgkeel.Open(ctx, dsn, pgkeel.WithOpener(stdsql.Provider{Driver: "postgres"}))
//
// # What is different
//
//   - A session that a statement left dirty (SET, LISTEN, temporary tables, an
//     advisory lock) is closed rather than reset, so that whatever made it can
//     make it anew.
//   - A connection that was idle for a second is pinged before its use, since
//     drivers report a dead one only at the first statement, when nobody knows
//     any more whether that was sent.
//   - A borrower that forgets its rows or transaction keeps the connection.
//   - The command tag has the statement's first word and the number of rows.
//     That of a query counts the rows that were read.
//   - What a *sql.DB of yours does by itself is not seen: hooks, statistics and
//     Close are about what goes through the provider. Close leaves it open.
//   - What runs in a scope of [providers.Config] is one statement at a time. A
//     *sql.DB of yours is confined where it is used through the provider only.
//   - An option of the configuration that would have no effect is an error.
//
// # Concurrency
//
// A [Pool] is safe for concurrent use. A [Conn] and a [Tx] belong to one
// goroutine at a time.
//
// # Files
//
//	provider.go     how a pool is opened
//	config.go       what of the configuration has an effect
//	connector.go    connections that the provider makes itself
//	pool.go         the pool's operations
//	acquire.go      the wait for a connection
//	lease.go        one borrowing of a connection
//	close.go        the orderly end
//	statement.go    one statement
//	args.go         arguments that every driver takes
//	rows.go         results
//	text.go         a driver's values in PostgreSQL's text form
//	scope.go        settings that hold for one call
//	confine.go      the scope that a context is confined to
//	causal.go       what comes behind a place in the log
//	control.go      statements that begin and end transactions
//	dirt.go         what a statement leaves in its session
//	conn.go         an acquired connection
//	transaction.go  transactions
//	start.go        those that begin with a statement
//	savepoint.go    transactions inside of them
//	expiry.go       the end of a transaction's time
//	errors.go       errors that say what happened
//	foreign.go      the errors of other drivers
package stdsql
