package pgx

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// scopedRewriter is a rewriter of the caller's own: what it makes of a statement
// is what has to keep to the scope.
type scopedRewriter struct {
	pgx.QueryRewriter

	pool *Pool
	inTx bool
}

// RewriteQuery rewrites, and then looks at the text.
func (r scopedRewriter) RewriteQuery(ctx context.Context, conn *pgx.Conn, sql string, args []any) (string, []any, error) {
	sql, args, err := r.QueryRewriter.RewriteQuery(ctx, conn, sql, args)
	if err == nil && r.pool.escapes(sql, r.inTx) {
		err = providers.ErrEndsScope
	}
	return sql, args, err
}

// rewriterAt is where among the arguments a rewriter of the caller's own is, or
// -1.
func rewriterAt(args []any) int {
	for i, arg := range args {
		switch arg.(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			continue // a rewriter can follow
		case pgx.NamedArgs, pgx.StrictNamedArgs: // which change names only
		case pgx.QueryRewriter:
			return i
		}
		break
	}
	return -1
}

// guarded are the arguments of a statement in a scope, whose text was looked at
// before a rewriter among them had its say.
func (p *Pool) guarded(args []any, scope []providers.Setting, inTx bool) []any {
	if p.cfg.Scope == nil || len(scope) == 0 {
		return args
	}
	if i := rewriterAt(args); i >= 0 {
		args = slices.Clone(args)
		args[i] = scopedRewriter{args[i].(pgx.QueryRewriter), p, inTx}
	}
	return args
}

// guardedQueries are the statements of a batch, with their arguments guarded.
func (p *Pool) guardedQueries(queued []*pgx.QueuedQuery, scope []providers.Setting, inTx bool) []*pgx.QueuedQuery {
	all := slices.Clone(queued)
	for i, q := range all {
		if rewriterAt(q.Arguments) >= 0 {
			guarded := *q
			guarded.Arguments = p.guarded(q.Arguments, scope, inTx)
			all[i] = &guarded
		}
	}
	return all
}
