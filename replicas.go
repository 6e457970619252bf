package pgkeel

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/cluster"
)

// What belongs to several servers of one database, under the face's name. Its
// documentation is in package cluster.
type (
	// Session makes the reads of one user see what his writes wrote.
	Session = cluster.Session
	// NoPrimaryError says what is known while there is no primary.
	NoPrimaryError = cluster.NoPrimaryError
	// NoReplicaError says why no replica was fit.
	NoReplicaError = cluster.NoReplicaError
)

// The states that an operation on several servers can find.
var (
	ErrNoPrimary = cluster.ErrNoPrimary
	ErrNoReplica = cluster.ErrNoReplica
)

// WithReplicas names servers of the database besides that of the handle's DSN, each
// by a DSN of its own. Which of all of them is the primary is found out, and followed
// when it changes. [DB.Reader], read-only transactions and contexts with
// [PreferReplica] go to those that are replicas; everything else goes to the primary.
// Open connects to all of them, and fails if none is the primary. See package cluster.
// Default: one server.
func WithReplicas(dsns ...string) Option {
	return func(s *settings) {
		s.several = true
		if len(dsns) == 0 {
			s.fault("Replicas", "WithReplicas got no DSN; leave it out")
		}
		for _, dsn := range dsns {
			if dsn == "" {
				s.fault(fmt.Sprintf("Replicas[%d]", len(s.replicas)), "is empty; leave it out")
			}
			s.replicas = append(s.replicas, dsn)
		}
	}
}

// WithCluster says how several servers of the database are watched and used: those
// that the handle's DSN lists, those of [WithReplicas], and those that its Discovery
// finds. The zero options are valid. Default: one server.
func WithCluster(options cluster.Options) Option {
	return func(s *settings) { s.several, s.cluster = true, options }
}

// clusterOptions are those of the cluster, its replicas among them.
func (s *settings) clusterOptions() cluster.Options {
	options := s.cluster
	switch named := cluster.Static(s.replicas...); {
	case len(s.replicas) == 0:
	case options.Discovery == nil:
		options.Discovery = named
	default:
		options.Discovery = cluster.Combine(named, options.Discovery)
	}
	return options
}

// NewSession returns a session that has neither written nor read.
func NewSession() *Session { return cluster.NewSession() }

// WithSession returns a context whose operations belong to the session: its reads see
// what its writes wrote, and at least what its earlier reads saw, whichever servers
// they run on.
func WithSession(ctx context.Context, s *Session) context.Context { return cluster.WithSession(ctx, s) }

// PreferReplica returns a context whose statements and transactions only read, and go
// to a replica when one is fit for it.
func PreferReplica(ctx context.Context) context.Context { return cluster.PreferReplica(ctx) }

// PreferPrimary returns a context whose reads go to the primary while one is known,
// and to a replica otherwise.
func PreferPrimary(ctx context.Context) context.Context { return cluster.PreferPrimary(ctx) }

// WithMaxLag returns a context whose reads only go to replicas that are at most so far
// behind the primary.
func WithMaxLag(ctx context.Context, d time.Duration) context.Context {
	return cluster.WithMaxLag(ctx, d)
}

// Cluster returns what is known of the servers of a handle that has several, or nil.
func (db *DB) Cluster() *cluster.Cluster {
	c, _ := db.pool.(*cluster.Cluster)
	return c
}

// Writer runs statements on the primary and nowhere else.
type Writer struct{ querier }

var _ Querier = (*Writer)(nil)

// Writer returns the handle's writer: every statement on it goes to the primary,
// whatever its context says about replicas. Without replicas it is as the handle.
func (db *DB) Writer() *Writer { return &db.writer }

// onPrimary sends what it passes on to the primary.
type onPrimary struct{ to querier }

func (p onPrimary) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return p.to.Query(cluster.OnPrimary(ctx), sql, args...)
}

func (p onPrimary) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return p.to.QueryRow(cluster.OnPrimary(ctx), sql, args...)
}

func (p onPrimary) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return p.to.Exec(cluster.OnPrimary(ctx), sql, args...)
}
