package pgkeel_test

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/pgkeel/pgkeel"
)

type leakPath func(ctx context.Context, o *leakOp) error

// paths are the ways to the server.
func (s *leakSite) paths() map[string]leakPath {
	all := map[string]leakPath{}
	for _, some := range []map[string]leakPath{singlePaths, typedPaths, transactionPaths, connPaths, batchPaths, bulkPaths, otherPaths} {
		for name, path := range some {
			all[name] = path
		}
	}
	if s.rls {
		all["bulk.CopyFrom"], all["CopyFrom"] = refusedCopy(all["bulk.CopyFrom"]), refusedCopy(all["CopyFrom"])
	}
	if s.homes != nil { // there is no one pool to unwrap
		maps.DeleteFunc(all, func(path string, _ leakPath) bool { return strings.HasPrefix(path, "Unwrap") })
	}
	return all
}

// refusedOutright reports a path on which a tenant can do nothing at all.
func (s *leakSite) refusedOutright(path string) bool {
	return s.rls && strings.HasSuffix(path, "CopyFrom") || s.schemas && path == "SendBatch with BeginTx"
}

var singlePaths = map[string]leakPath{
	"Query":    func(ctx context.Context, o *leakOp) error { return o.query(ctx, o.s.db) },
	"QueryRow": func(ctx context.Context, o *leakOp) error { return o.queryRow(ctx, o.s.db) },
	"Exec":     func(ctx context.Context, o *leakOp) error { return o.insert(ctx, o.s.db) },
	"Exec of an update": func(ctx context.Context, o *leakOp) error {
		return o.steal(ctx, o.s.db)
	},
	"Query, not pipelined": func(ctx context.Context, o *leakOp) error {
		return o.query(pgkeel.WithPipelined(ctx, false), o.s.db)
	},
	"Reader": func(ctx context.Context, o *leakOp) error { return o.query(ctx, o.s.db.Reader()) },
	"Reader that writes": func(ctx context.Context, o *leakOp) error {
		key, sql, args := o.insertion()
		_, err := o.s.db.Reader().Exec(ctx, sql, args...)
		o.wrote(err, key)
		var pg *pgkeel.PGError
		if errors.As(err, &pg) && pg.IsReadOnly() {
			return o.query(ctx, o.s.db)
		}
		return err
	},
}

var typedPaths = map[string]leakPath{
	"One": func(ctx context.Context, o *leakOp) error {
		sql, arg := o.ask()
		i, err := pgkeel.One[item](ctx, o.s.db, sql+" limit 1", arg)
		if err != nil {
			return err
		}
		return o.saw([]item{i}, nil)
	},
	"All": func(ctx context.Context, o *leakOp) error {
		sql, arg := o.ask()
		return o.saw(pgkeel.All[item](ctx, o.s.db, sql, arg))
	},
	"Each": func(ctx context.Context, o *leakOp) error {
		sql, arg := o.ask()
		var items []item
		for i, err := range pgkeel.Each[item](ctx, o.s.db, sql, arg) {
			if err == nil {
				items = append(items, i)
				err = o.callback()
			}
			if err != nil {
				return o.saw(items, err)
			}
		}
		return o.saw(items, nil)
	},
	"QueryOne": func(ctx context.Context, o *leakOp) error {
		sql, arg := o.ask()
		var i item
		if err := o.s.db.QueryOne(ctx, &i, sql+" limit 1", arg); err != nil {
			return err
		}
		return o.saw([]item{i}, nil)
	},
	"QueryAll": func(ctx context.Context, o *leakOp) error {
		sql, arg := o.ask()
		var items []item
		err := o.s.db.QueryAll(ctx, &items, sql, arg)
		return o.saw(items, err)
	},
	"QueryCount": func(ctx context.Context, o *leakOp) error {
		n, err := o.s.db.QueryCount(ctx, "select count(*) from items where owner <> $1", o.tenant)
		if n != 0 {
			o.s.ledger.leak(o.path, "counted rows of others")
		}
		return err
	},
}

var transactionPaths = map[string]leakPath{
	"RunTx": func(ctx context.Context, o *leakOp) error {
		var keys []int64
		err := o.s.db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			o.never(keys...) // of the attempt before
			keys = nil
			if err := o.all(ctx, tx, &keys); err != nil {
				return err
			}
			return o.callback()
		}, pgkeel.TxOptions{Isolation: pgkeel.RepeatableRead, MaxAttempts: 3})
		o.wrote(err, keys...)
		return err
	},
	"RunTx with savepoints": func(ctx context.Context, o *leakOp) error {
		var kept, undone []int64
		err := o.s.db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			o.never(kept...)
			kept = nil
			err := tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
				return errors.Join(o.all(ctx, tx, &undone), errLeakTest)
			})
			if err != nil && !errors.Is(err, errLeakTest) {
				return err
			}
			if err := tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error { return o.all(ctx, tx, &kept) }); err != nil {
				return err
			}
			return o.query(ctx, tx)
		})
		o.never(undone...)
		o.wrote(err, kept...)
		return err
	},
	"Begin and Commit": func(ctx context.Context, o *leakOp) error {
		tx, err := o.s.db.Begin(ctx)
		if err != nil {
			return err
		}
		return o.commit(ctx, tx)
	},
	"Begin and Rollback": func(ctx context.Context, o *leakOp) error {
		tx, err := o.s.db.Begin(ctx, pgkeel.TxOptions{Isolation: pgkeel.Serializable})
		if err != nil {
			return err
		}
		var keys []int64
		defer func() { o.never(keys...) }()
		defer func() { _ = tx.Rollback(ctx) }()
		if err := o.all(ctx, tx, &keys); err != nil {
			return err
		}
		sql, arg := o.ask()
		rows, err := tx.Query(ctx, sql, arg) // open over the end
		if err == nil && rows.Next() {
			return o.callback()
		}
		return err
	},
	"Tx.Unwrap": func(ctx context.Context, o *leakOp) error {
		tx, err := o.s.db.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		return o.queryRow(ctx, tx.Unwrap())
	},
}

// commit does a bit of everything and commits.
func (o *leakOp) commit(ctx context.Context, tx pgkeel.Tx) error {
	defer func() { _ = tx.Rollback(ctx) }()
	var keys []int64
	if err := o.all(ctx, tx, &keys); err != nil {
		o.never(keys...)
		return err
	}
	err := tx.Commit(ctx)
	o.wrote(err, keys...)
	return err
}

var connPaths = map[string]leakPath{
	"Acquire": func(ctx context.Context, o *leakOp) error {
		conn, err := o.s.db.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		if err := o.insert(ctx, conn); err != nil {
			return err
		}
		return errors.Join(o.query(ctx, conn), o.callback())
	},
	"Acquire, with rows left open": func(ctx context.Context, o *leakOp) error {
		conn, err := o.s.db.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		sql, arg := o.ask()
		rows, err := conn.Query(ctx, sql, arg)
		var i item
		if err == nil && rows.Next() {
			if err = rows.Scan(&i.Owner, &i.Key); err == nil {
				err = o.saw([]item{i}, nil)
			}
		}
		return err
	},
	"Conn.Unwrap": func(ctx context.Context, o *leakOp) error {
		conn, err := o.s.db.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		raw := conn.Unwrap()
		if raw == nil {
			return errLeakTest
		}
		return o.queryRow(ctx, raw)
	},
	"Conn.Begin": func(ctx context.Context, o *leakOp) error {
		conn, err := o.s.db.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		return o.commit(ctx, tx)
	},
	"Conn.SendBatch": func(ctx context.Context, o *leakOp) error {
		conn, err := o.s.db.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		return o.sendBatch(ctx, conn)
	},
}
