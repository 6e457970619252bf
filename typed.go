package pgkeel

import (
	"context"
	"iter"
	"reflect"

	"github.com/jackc/pgx/v5"
)

// One reads the one row of a query into a T. No row is [pgx.ErrNoRows], more
// than one is [ErrTooManyRows].
//
// T is one of:
//
//   - a struct, or a pointer to one: each column goes to the field with that
//     name in its db tag, or else to the field whose name is the column's
//     without regard to case and underscores. Embedded structs count as part of
//     the struct. A column "address.city" goes to the field City of the struct
//     in the field Address; where that is a pointer it stays nil as long as all
//     its columns are NULL. A column without a field is an error, as are two
//     columns for one field; a field without a column keeps its zero value, and
//     the tag "-" hides a field;
//   - a map[string]any: every column under its name;
//   - anything else that pgx can scan one column into: numbers, strings, time,
//     sql.Null, slices for arrays, types of pgtype, a sql.Scanner.
//
// NULL fits a pointer, a slice, a sql.Null, a type of pgtype and a map; anywhere
// else it is an error.
func One[T any](ctx context.Context, q Querier, sql string, args ...any) (T, error) {
	var v T
	if err := queryOne(ctx, q, reflect.ValueOf(&v).Elem(), sql, args); err != nil {
		var zero T
		return zero, err
	}
	return v, nil
}

// All reads every row of a query into a slice, which is empty but not nil when
// there are none. See [One] for T.
func All[T any](ctx context.Context, q Querier, sql string, args ...any) ([]T, error) {
	all := []T{}
	if err := queryAll(ctx, q, reflect.ValueOf(&all).Elem(), sql, args); err != nil {
		return nil, err
	}
	return all, nil
}

// Each streams the rows of a query: the whole result is never in memory. See
// [One] for T. An error ends the loop, as its last pair. Leaving the loop early
// stops the server's work instead of reading the rest.
//
// The connection is held until the loop ends.
func Each[T any](ctx context.Context, q Querier, sql string, args ...any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		rows, err := q.Query(WithPipelined(ctx, false), sql, args...) // whose results are held in memory
		if err != nil {
			yield(zero, err)
			return
		}
		done := false
		defer func() {
			if !done { // the loop was left early, perhaps by a panic
				abandon(rows)
			}
		}()
		scan := rowScanner{t: reflect.TypeFor[T]()}
		for rows.Next() {
			var v T
			if err := scan.scan(rows, reflect.ValueOf(&v).Elem()); err != nil {
				done = true
				abandon(rows)
				yield(zero, err)
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		done = true
		if err := rows.Err(); err != nil {
			yield(zero, err)
		}
	}
}

// abandon closes rows that may have many more to come. Closing reads them all,
// so where the provider can stop the server instead, it does.
func abandon(rows pgx.Rows) {
	if a, ok := rows.(interface{ Abandon() }); ok {
		a.Abandon()
		return
	}
	rows.Close()
}
