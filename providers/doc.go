// Package providers is the contract between pgkeel's handle and what speaks to
// PostgreSQL: the ground floor that every other package stands on.
//
// It holds the interfaces that a provider implements ([Provider], [Pool],
// [Conn], [Tx] and the small capability interfaces), the configuration they
// are opened with ([Config], [PoolStrategy]), the errors they answer with
// ([PGError] and the typed errors of errors.go), the hooks they fire
// ([HookManager]) and the ids that travel in a context ([WithTenantID] and its
// siblings). The vocabulary is pgx's own: rows are [pgx.Rows], tags are
// [pgconn.CommandTag]. Nothing is wrapped that need not be.
//
// # Capabilities
//
// An interface here has no method that a provider could only answer with an
// error. What not every provider can do is a separate small interface
// ([Batcher], [Copier], [Listener], [Unwrapper]) that a caller asserts.
//
// # Concurrency
//
// A [Pool], a [HookManager] and the registry are safe for concurrent use. A
// [Conn], a [Tx] and [pgx.Rows] belong to one goroutine at a time.
package providers
