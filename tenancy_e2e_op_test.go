package pgkeel_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel"
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
