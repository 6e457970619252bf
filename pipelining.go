package pgkeel

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// Pipelining and what belongs to it, under the face's name.
type (
	// Pipelining has concurrent callers share connections.
	Pipelining = providers.Pipelining
	// PipelineTraffic says which statements are pipelined.
	PipelineTraffic = providers.PipelineTraffic
	// PipelineStats are the statistics of pipelining.
	PipelineStats = providers.PipelineStats
)

// The traffic that is pipelined.
const (
	PipelineAll       = providers.PipelineAll
	PipelineReads     = providers.PipelineReads
	PipelineOnRequest = providers.PipelineOnRequest
)

// WithPipelining has concurrent callers' single statements share a few
// connections, several in flight on each. The zero [Pipelining] is the default
// for every limit. See docs/pipelining.md for when it helps, and when not.
// Default: off.
func WithPipelining(p Pipelining) Option {
	return func(s *settings) { s.config.Pipelining = &p }
}

// WithReadOnly returns a context whose statements are declared to only read, and
// held to it by the server. Inside a transaction it has no effect.
func WithReadOnly(ctx context.Context) context.Context { return providers.WithReadOnly(ctx) }

// WithPipelined returns a context whose statements are pipelined where they can
// be, or are not. It has an effect on a handle opened with [WithPipelining].
func WithPipelined(ctx context.Context, pipelined bool) context.Context {
	return providers.WithPipelined(ctx, pipelined)
}

// Reader runs statements that only read. The server holds them to it: one that
// writes fails with SQLSTATE 25006 ([PGError.IsReadOnly]) and changes nothing.
type Reader struct{ querier }

var _ Querier = (*Reader)(nil)

// Reader returns the handle's reader: every statement on it is declared
// read-only, as with [WithReadOnly]. It goes to a replica when there are some
// ([WithReplicas]), so it may not see yet what was written a moment ago: see
// [WithSession].
func (db *DB) Reader() *Reader { return &db.reader }

// readOnly declares what it passes on.
type readOnly struct{ to querier }

func (r readOnly) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return r.to.Query(WithReadOnly(ctx), sql, args...)
}

func (r readOnly) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return r.to.QueryRow(WithReadOnly(ctx), sql, args...)
}

func (r readOnly) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return r.to.Exec(WithReadOnly(ctx), sql, args...)
}
