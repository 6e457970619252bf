package pgkeel_test

import (
	"context"
	"database/sql"
	"errors"
)

// queryer is what database/sql's types have in common.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// sqlQuery asks by database/sql.
func (o *leakOp) sqlQuery(ctx context.Context, q queryer) error {
	ask, arg := o.ask()
	rows, err := q.QueryContext(ctx, ask, arg)
	if err != nil {
		return err
	}
	defer rows.Close()
	var items []item
	for rows.Next() {
		var i item
		if err := rows.Scan(&i.Owner, &i.Key); err != nil {
			return o.saw(items, err)
		}
		items = append(items, i)
	}
	return o.saw(items, rows.Err())
}

// sqlExec writes by database/sql, which may have lost the outcome.
func (o *leakOp) sqlExec(ctx context.Context, q queryer) (int64, error) {
	key, insertion, args := o.insertion()
	_, err := q.ExecContext(ctx, insertion, args...)
	return key, err
}

var otherPaths = map[string]leakPath{
	"SQL": func(ctx context.Context, o *leakOp) error {
		key, err := o.sqlExec(ctx, o.s.db.SQL())
		if err != nil {
			return err
		}
		o.wrote(nil, key)
		return o.sqlQuery(ctx, o.s.db.SQL())
	},
	"SQL in a transaction": func(ctx context.Context, o *leakOp) error {
		tx, err := o.s.db.SQL().BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		key, err := o.sqlExec(ctx, tx)
		if err = errors.Join(err, o.callback()); err != nil {
			return err
		}
		if err := o.sqlQuery(ctx, tx); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		o.wrote(nil, key)
		return nil
	},
	"SQL with a connection": func(ctx context.Context, o *leakOp) error {
		conn, err := o.s.db.SQL().Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		return o.sqlQuery(ctx, conn)
	},
	"Unwrap": func(ctx context.Context, o *leakOp) error {
		key, sql, args := o.insertion()
		if _, err := o.s.db.Unwrap().Exec(ctx, sql, args...); err != nil {
			return err
		}
		o.wrote(nil, key)
		return o.query(ctx, o.s.db.Unwrap())
	},
	"Unwrap, a transaction": func(ctx context.Context, o *leakOp) error {
		tx, err := o.s.db.Unwrap().Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		var keys []int64
		if err := o.insertIn(ctx, tx, &keys); err != nil {
			return err
		}
		if err := o.queryRow(ctx, tx); err != nil {
			return err
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		o.wrote(nil, keys...)
		return o.callback()
	},
}
