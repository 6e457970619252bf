package pgkeel_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/batch"
	"github.com/pgkeel/pgkeel/bulk"
)

// leakFault is what goes wrong in an operation.
type leakFault int

const (
	noFault          leakFault = iota
	endsWhileWaiting           // the context, while it waits for a connection, or not
	endsWhileRunning           // the context, a moment after a statement was sent
	badArgument                // panics
	badCallback                // returns an error
	badCallbackPanic
	badStatement
	duplicate // a unique violation
	leakFaults
)

var (
	errLeakTest   = errors.New("a fault of the test")
	errOtherPanic = errors.New("a panic of the test")
)

// A leakOp is one operation of a tenant.
type leakOp struct {
	s      *leakSite
	path   string
	tenant string // in whose data it is
	count  *leakCount
	steady bool // without faults
	fault  leakFault
	cancel context.CancelFunc
}

type leakPath func(ctx context.Context, o *leakOp) error

// run runs it, with a fault or without, and counts how it ended.
func (o *leakOp) run(ctx context.Context, path leakPath) {
	if !o.steady && rand.IntN(3) == 0 {
		o.fault = leakFault(rand.IntN(int(leakFaults)))
	}
	ctx, o.cancel = context.WithCancel(ctx)
	defer o.cancel()
	if o.fault == endsWhileWaiting {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rand.N(300*time.Millisecond))
		defer cancel()
	}
	defer func() {
		switch p := recover(); {
		case p == nil:
		case p == any(errOtherPanic), o.fault == badArgument: // in a batch pgx replaces it by one of its own
			o.count.ill.Add(1)
		default:
			panic(p)
		}
	}()
	if err := path(ctx, o); err != nil {
		o.count.ill.Add(1)
		o.count.last.Store(leakError{err})
		return
	}
	o.count.well.Add(1)
}

type leakError struct{ error }

// callback is called inside of callbacks.
func (o *leakOp) callback() error {
	switch o.fault {
	case badCallback:
		return errLeakTest
	case badCallbackPanic:
		panic(errOtherPanic)
	}
	return nil
}

// An armed argument is a number in which a fault may be.
type armed struct {
	op *leakOp
	n  int64
}

// Value is the number.
func (a armed) Value() (driver.Value, error) {
	switch a.op.fault {
	case badArgument:
		// database/sql keeps a connection for ever when its driver panics.
		if !strings.HasPrefix(a.op.path, "SQL") {
			panic(errOtherPanic)
		}
	case endsWhileRunning:
		time.AfterFunc(rand.N(2*time.Millisecond), a.op.cancel)
	}
	return a.n, nil
}

// item is a row.
type item struct {
	Owner string
	Key   int64
}

// ask is a query for the tenant's first row and another, most likely not its own.
func (o *leakOp) ask() (sql string, arg any) {
	key, _ := o.s.ledger.anyKey()
	if o.fault == badStatement {
		return "select owner, key / (key - key) as key from items where key = 0 or key = $1", armed{o, key}
	}
	return "select owner, key from items where key = 0 or key = $1 order by key", armed{o, key}
}

// saw checks what an ask answered.
func (o *leakOp) saw(items []item, err error) error {
	for _, i := range items {
		o.s.ledger.check(o.path, o.tenant, i.Owner, i.Key)
	}
	if err == nil && len(items) == 0 {
		o.s.ledger.leak(o.path, o.tenant+" does not see its own row: there is no tenant")
	}
	return err
}

// query asks.
func (o *leakOp) query(ctx context.Context, q pgkeel.Querier) error {
	sql, arg := o.ask()
	rows, err := q.Query(ctx, sql, arg)
	if err != nil {
		return err
	}
	return o.saw(pgx.CollectRows(rows, pgx.RowToStructByName[item]))
}

// queryRow asks for the first row.
func (o *leakOp) queryRow(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
},
) error {
	sql, arg := o.ask()
	var i item
	err := q.QueryRow(ctx, sql, arg).Scan(&i.Owner, &i.Key)
	if errors.Is(err, pgx.ErrNoRows) {
		return o.saw(nil, nil)
	}
	if err != nil {
		return err
	}
	return o.saw([]item{i}, nil)
}

const leakInsert = "insert into items (owner, key) values ($1, $2)"

// insertion is the statement that writes a new row.
func (o *leakOp) insertion() (key int64, sql string, args []any) {
	key = o.s.ledger.intend(o.tenant, o.path)
	switch o.fault {
	case badStatement:
		return key, "insert into items (owner, key, n) values ($1, $2, 1 / (length($1) - length($1)))", []any{o.tenant, armed{o, key}}
	case duplicate:
		return key, leakInsert, []any{o.tenant, armed{o, 0}}
	}
	return key, leakInsert, []any{o.tenant, armed{o, key}}
}

// insert writes a row outside of transactions.
func (o *leakOp) insert(ctx context.Context, q interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
},
) error {
	key, sql, args := o.insertion()
	_, err := q.Exec(ctx, sql, args...)
	o.wrote(err, key)
	return err
}

// insertIn writes one in a transaction, and the keys are for who ends it.
func (o *leakOp) insertIn(ctx context.Context, tx interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, keys *[]int64,
) error {
	key, sql, args := o.insertion()
	*keys = append(*keys, key)
	_, err := tx.Exec(ctx, sql, args...)
	return err
}

// wrote tells the ledger what became of rows.
func (o *leakOp) wrote(err error, keys ...int64) {
	for _, key := range keys {
		o.s.ledger.settle(key, pgkeel.OutcomeOf(err))
	}
}

// never tells the ledger that rows cannot be there.
func (o *leakOp) never(keys ...int64) {
	for _, key := range keys {
		o.s.ledger.settle(key, pgkeel.OutcomeRolledBack)
	}
}

// steal updates a row that may be another tenant's.
func (o *leakOp) steal(ctx context.Context, q pgkeel.Querier) error {
	key, tenant := o.s.ledger.anyKey()
	tag, err := q.Exec(ctx, "update items set touched = $1, n = n + 1 where key = $2 or key = 0", o.tenant, armed{o, key})
	if err == nil && (tag.RowsAffected() == 0 || tag.RowsAffected() > 1 && tenant != o.tenant) {
		o.s.ledger.leak(o.path, o.tenant+" updates "+strconv.FormatInt(tag.RowsAffected(), 10)+" rows, one of "+tenant)
	}
	return err
}

// all does a bit of everything in a transaction.
func (o *leakOp) all(ctx context.Context, tx pgkeel.Tx, keys *[]int64) error {
	if err := o.insertIn(ctx, tx, keys); err != nil {
		return err
	}
	if err := o.query(ctx, tx); err != nil {
		return err
	}
	return o.steal(ctx, tx)
}

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

// refusedCopy is a COPY into a table that the server refuses to copy into.
func refusedCopy(copyFrom leakPath) leakPath {
	return func(ctx context.Context, o *leakOp) error {
		err := copyFrom(ctx, o)
		var pg *pgkeel.PGError
		if errors.As(err, &pg) && pg.Code == "0A000" {
			return nil
		}
		if err == nil {
			o.s.ledger.leak(o.path, "COPY FROM went around the policies")
		}
		return err
	}
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

// sendBatch writes and asks in one batch.
func (o *leakOp) sendBatch(ctx context.Context, on interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
},
) error {
	b := &pgx.Batch{}
	key := o.queue(b)
	err := on.SendBatch(ctx, b).Close()
	if err == nil {
		o.wrote(nil, key)
	}
	return err // which may be a callback's, so it says nothing of the row
}

// queue puts an insertion and a question into a batch.
func (o *leakOp) queue(b *pgx.Batch) (key int64) {
	key, sql, args := o.insertion()
	b.Queue(sql, args...)
	sql, arg := o.ask()
	b.Queue(sql, arg).Query(func(rows pgx.Rows) error {
		err := o.saw(pgx.CollectRows(rows, pgx.RowToStructByName[item]))
		return errors.Join(err, o.callback())
	})
	return key
}

// runBatch runs a batch in a mode.
func runBatch(options batch.Options, on func(o *leakOp) batch.Runner) leakPath {
	return func(ctx context.Context, o *leakOp) error {
		b := &pgx.Batch{}
		keys := map[int]int64{}
		for range 3 {
			keys[b.Len()] = o.queue(b)
		}
		report, err := batch.Run(ctx, on(o), b, options)
		for i, key := range keys {
			switch {
			case i >= len(report.States):
			case report.States[i] == batch.OK:
				o.wrote(nil, key)
			case report.States[i] != batch.Unknown:
				o.never(key)
			}
		}
		return err
	}
}

func onDB(o *leakOp) batch.Runner { return o.s.db }

var batchPaths = map[string]leakPath{
	"SendBatch": func(ctx context.Context, o *leakOp) error { return o.sendBatch(ctx, o.s.db) },
	"SendBatch with BeginTx": func(ctx context.Context, o *leakOp) error {
		b := &pgx.Batch{}
		b.BeginTx(pgx.TxOptions{})
		key := o.queue(b)
		results := o.s.db.SendBatch(ctx, b)
		tx := results.Tx()
		defer func() { _ = tx.Rollback(ctx) }()
		if err := results.Close(); err != nil {
			return err
		}
		if err := o.queryRow(ctx, tx); err != nil {
			return err
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		o.wrote(nil, key)
		return nil
	},
	"Tx.SendBatch": func(ctx context.Context, o *leakOp) error {
		var key int64
		err := o.s.db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			b := &pgx.Batch{}
			key = o.queue(b)
			return tx.SendBatch(ctx, b).Close()
		}, pgkeel.TxOptions{MaxAttempts: 1})
		if key != 0 {
			o.wrote(err, key)
		}
		return err
	},
	"batch.Run, atomic":   runBatch(batch.Options{}, onDB),
	"batch.Run, isolated": runBatch(batch.Options{Mode: batch.Isolated}, onDB),
	"batch.Run, grouped":  runBatch(batch.Options{Mode: batch.Grouped, GroupSize: 2}, onDB),
	"batch.Stream": func(ctx context.Context, o *leakOp) error {
		_, err := batch.Stream(ctx, o.s.db, func(yield func(*pgx.QueuedQuery, error) bool) {
			for range 3 {
				_, sql, args := o.insertion()
				if !yield(batch.Queue(sql, args...), o.callback()) {
					return
				}
			}
		}, batch.Options{Mode: batch.Grouped, GroupSize: 2})
		return err
	},
}

var leakTable = pgx.Identifier{"items"}

var bulkPaths = map[string]leakPath{
	"bulk.CopyUpsert": func(ctx context.Context, o *leakOp) error {
		key := o.s.ledger.intend(o.tenant, o.path)
		u := bulk.Upsert{
			Into: bulk.Into{Table: leakTable, Columns: []string{"owner", "key", "touched"}}, Conflict: []string{"owner", "key"},
		}
		_, err := bulk.CopyUpsert(ctx, o.s.db, u, bulk.FromSeq2(func(yield func([]any, error) bool) {
			_ = yield([]any{o.tenant, key, o.tenant}, nil) && yield([]any{o.tenant, int64(0), o.tenant}, o.callback())
		}))
		if err == nil {
			o.wrote(nil, key)
		}
		return err
	},
	"bulk.CopyTo": func(ctx context.Context, o *leakOp) error {
		return o.copyTo(ctx, bulk.From{Table: leakTable, Columns: []string{"owner", "key"}})
	},
	"bulk.CopyTo of a query": func(ctx context.Context, o *leakOp) error {
		return o.copyTo(ctx, bulk.From{Query: "select owner, key from items limit 50"})
	},
	"bulk.CopyFrom": func(ctx context.Context, o *leakOp) error {
		key := o.s.ledger.intend(o.tenant, o.path)
		_, err := bulk.CopyFrom(ctx, o.s.db, bulk.Into{Table: leakTable, Columns: []string{"owner", "key"}},
			bulk.FromReader(strings.NewReader(o.tenant+"\t"+strconv.FormatInt(key, 10)+"\n"), bulk.Text{}))
		o.wrote(err, key)
		return err
	},
	"CopyFrom": func(ctx context.Context, o *leakOp) error {
		key := o.s.ledger.intend(o.tenant, o.path)
		_, err := o.s.db.CopyFrom(ctx, leakTable, []string{"owner", "key"}, pgx.CopyFromRows([][]any{{o.tenant, armed{o, key}}}))
		o.wrote(err, key)
		return err
	},
}

// copyTo copies rows out.
func (o *leakOp) copyTo(ctx context.Context, from bulk.From) error {
	var out strings.Builder
	var w io.Writer = &out
	if o.fault == badCallback || o.fault == badCallbackPanic {
		w = failingWriter{o}
	}
	from.Format = bulk.Text{}
	_, err := bulk.CopyTo(ctx, o.s.db, from, w)
	var items []item
	for line := range strings.Lines(out.String()) {
		owner, number, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		key, numberErr := strconv.ParseInt(number, 10, 64)
		if ok && numberErr == nil {
			items = append(items, item{owner, key})
		}
	}
	return o.saw(items, err)
}

type failingWriter struct{ op *leakOp }

// Write fails.
func (w failingWriter) Write(p []byte) (int, error) { return len(p), w.op.callback() }

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
