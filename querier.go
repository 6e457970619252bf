package pgkeel

import (
	"context"
	"errors"
	"reflect"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/chain"
	"github.com/pgkeel/pgkeel/providers"
)

// querier is what a DB, a Conn and a Tx have in common: single statements.
type querier struct {
	direct providers.Querier
	// run is the chain; nil without layers, when statements go straight to the
	// provider.
	run  chain.Handler
	inTx bool
}

func newQuerier(target interface {
	providers.Querier
	providers.Runner
}, layers []chain.Layer, inTx bool,
) querier {
	q := querier{direct: target, inTx: inTx}
	if len(layers) > 0 {
		q.run = chain.Build(target.Run, layers...)
	}
	return q
}

// Query runs sql and returns its rows. Close them, or read them to their end.
// The arguments are pgx's: $1 for each, and options such as pgx.NamedArgs
// first.
func (q querier) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if q.run == nil {
		return q.direct.Query(ctx, sql, args...)
	}
	call := &providers.Call{Kind: providers.CallQuery, SQL: sql, Args: args, InTx: q.inTx}
	if err := q.run(ctx, call); err != nil {
		if call.Rows == nil {
			call.Rows, _ = pgx.FailedBatchResults(&pgx.Batch{}, err).Query()
		}
		return call.Rows, err
	}
	return call.Rows, nil
}

// QueryRow runs sql and returns its first row. Errors wait for its Scan, which
// must be called.
func (q querier) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if q.run == nil {
		return q.direct.QueryRow(ctx, sql, args...)
	}
	rows, _ := q.Query(ctx, sql, args...) // its error is the rows' own
	return providers.FirstRow(rows)
}

// Exec runs sql and returns its command tag.
func (q querier) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if q.run == nil {
		return q.direct.Exec(ctx, sql, args...)
	}
	call := &providers.Call{Kind: providers.CallExec, SQL: sql, Args: args, InTx: q.inTx}
	err := q.run(ctx, call)
	return call.Tag, err
}

// QueryOne reads the one row of a query into dst, a pointer to a struct, a map
// or a scalar; see [One] for how. No row is [pgx.ErrNoRows], more than one
// [ErrTooManyRows], and dst is then left alone.
func (q querier) QueryOne(ctx context.Context, dst any, sql string, args ...any) error {
	target, err := destination(dst)
	if err != nil {
		return err
	}
	// dst only changes once it is certain that this is the one row.
	v := reflect.New(target.Type()).Elem()
	if err := queryOne(ctx, q, v, sql, args); err != nil {
		return err
	}
	target.Set(v)
	return nil
}

// QueryAll reads every row of a query into dst, a pointer to a slice, which it
// replaces; see [One] for the elements. After an error dst is left alone.
func (q querier) QueryAll(ctx context.Context, dst any, sql string, args ...any) error {
	target, err := sliceDestination(dst)
	if err != nil {
		return err
	}
	all := reflect.New(target.Type()).Elem()
	all.Set(reflect.MakeSlice(target.Type(), 0, 0))
	if err := queryAll(ctx, q, all, sql, args); err != nil {
		return err
	}
	target.Set(all)
	return nil
}

// QueryCount returns the integer that is the only column of a query's only
// row, such as count(*).
func (q querier) QueryCount(ctx context.Context, sql string, args ...any) (int64, error) {
	n, err := One[*int64](ctx, q, sql, args...)
	if err != nil {
		return 0, err
	}
	if n == nil {
		return 0, errors.New("pgkeel: QueryCount: the query returned NULL instead of a number")
	}
	return *n, nil
}
