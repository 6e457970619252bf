package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pgkeel/pgkeel"
)

// The operations of this scene, as the report names them.
const (
	opTransfer = "RunTx: a transfer with a savepoint"
	opConflict = "RunTx: serializable, in conflict"
)

const (
	// stockEach is what every depot begins with.
	stockEach = 100
	// takenEvery is how often a transfer's note bears a number that is taken.
	takenEvery = 4
	// minRounds is how many conflicts are forced at the least.
	minRounds = 10
)

// amounts are what a transfer moves: the largest are refused before long.
var amounts = []int32{1, 5, 10, 25, 50}

// transactions moves stock between depots, one in each country, and has
// serializable transactions conflict.
func transactions(ctx context.Context, e *environment) error {
	depots, err := makeDepots(ctx, e.db)
	if err != nil {
		return fmt.Errorf("make the depots: %w", err)
	}
	if err := transfers(ctx, e, depots); err != nil {
		return err
	}
	return conflicts(ctx, e)
}

// makeDepots makes the tables and returns the depots' ids.
func makeDepots(ctx context.Context, db *pgkeel.DB) ([]int32, error) {
	for _, sql := range []string{
		`create table depots (id integer primary key, stock integer not null check (stock >= 0))`,
		`create table notes (number bigint primary key)`,
		`insert into notes values (0)`,
		`create table watches (hour integer, side integer, present boolean not null default true, primary key (hour, side))`,
	} {
		if _, err := db.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	return pgkeel.All[int32](ctx, db,
		`insert into depots select min(id), $1 from cities group by country returning id`, stockEach)
}

const changeStock = `update depots set stock = stock + $2 where id = $1`

// moved counts what became of the transfers.
type moved struct {
	done, undone, refused atomic.Int64
	numbers               atomic.Int64
}

// transfers move stock between random depots for a while.
func transfers(ctx context.Context, e *environment, depots []int32) error {
	var m moved
	watches := make([]stopwatch, callers)
	begin := time.Now()
	err := together(ctx, callers, func(ctx context.Context, i int) error {
		watches[i] = stopwatch{}
		for n := i; time.Since(begin) < e.slice/2; n++ {
			from, to := anyOf(depots), anyOf(depots) // also to itself
			err := watches[i].time(opTransfer, func() error {
				return m.transfer(ctx, e.db, from, to, n%takenEvery == 0)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	e.timings.collect(time.Since(begin), watches, opTransfer)
	if err != nil {
		return fmt.Errorf("transfer: %w", err)
	}
	return m.verify(ctx, e, len(depots))
}

// transfer moves some stock. Its note is written in a savepoint, and fails
// there when its number is taken: the transfer holds all the same. When the
// stock would fall below 0, nothing of it holds.
func (m *moved) transfer(ctx context.Context, db *pgkeel.DB, from, to int32, taken bool) error {
	amount := anyOf(amounts)
	number := int64(0)
	if !taken {
		number = m.numbers.Add(1)
	}
	noted := false
	err := db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
		if err := move(ctx, tx, from, to, amount); err != nil {
			return err
		}
		err := tx.RunSavepoint(ctx, "note", func(ctx context.Context, tx pgkeel.Tx) error { return note(ctx, tx, to, number) })
		noted = err == nil
		var pg *pgkeel.PGError
		if errors.As(err, &pg) && pg.IsUniqueViolation() {
			return nil // only what was done since the savepoint is undone
		}
		return err
	})
	return m.count(err, noted)
}

// move changes both depots in the order of their ids, so that no two transfers
// wait for each other in a circle.
func move(ctx context.Context, tx pgkeel.Tx, from, to, amount int32) error {
	changes := []struct{ depot, by int32 }{{from, -amount}, {to, amount}}
	if from > to {
		slices.Reverse(changes)
	}
	for _, c := range changes {
		if _, err := tx.Exec(ctx, changeStock, c.depot, c.by); err != nil {
			return err
		}
	}
	return nil
}

// note writes a transfer's note between a gift to the depot and its return. A
// gift whose note cannot be written would stay, if its savepoint did.
func note(ctx context.Context, tx pgkeel.Tx, depot int32, number int64) error {
	const gift = 1000
	if _, err := tx.Exec(ctx, changeStock, depot, gift); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `insert into notes values ($1)`, number); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, changeStock, depot, -gift)
	return err
}

// count notes how a transfer ended. A refusal by the table's own rule is an
// ordinary end.
func (m *moved) count(err error, noted bool) error {
	var pg *pgkeel.PGError
	switch {
	case err == nil && noted:
		m.done.Add(1)
	case err == nil:
		m.undone.Add(1)
	case errors.As(err, &pg) && pg.IsCheckViolation() && pgkeel.OutcomeOf(err) == pgkeel.OutcomeRolledBack:
		m.refused.Add(1)
	default:
		return err
	}
	return nil
}

// verify compares the tables with what the transfers said.
func (m *moved) verify(ctx context.Context, e *environment, depots int) error {
	e.out.line("%s transfers between %d depots: %s whole, %s without the note that a savepoint undid, %s refused",
		count(m.done.Load()+m.undone.Load()+m.refused.Load()), depots,
		count(m.done.Load()), count(m.undone.Load()), count(m.refused.Load()))
	stock, err := e.db.QueryCount(ctx, `select sum(stock) from depots`)
	if err != nil {
		return err
	}
	notes, err := e.db.QueryCount(ctx, `select count(*) from notes where number > 0`)
	if err != nil {
		return err
	}
	want := int64(depots) * stockEach
	e.check(ctx, stock == want && m.done.Load() > 0, "no stock came or went: %s of %s, with %s savepoints undone",
		count(stock), count(want), count(m.undone.Load()))
	e.check(ctx, notes == m.done.Load(), "a note for each transfer that has one and for no other: %s", count(notes))
	return nil
}

// conflicts has pairs of serializable transactions come to decisions that do
// not go together: two guards who both see the other one present, and leave.
// PostgreSQL lets only one of them commit; the other is run again, sees the new
// state and stays.
func conflicts(ctx context.Context, e *environment) error {
	const guards = 2
	var attempts atomic.Int64
	rounds, watch := 0, [guards]stopwatch{{}, {}}
	begin := time.Now()
	for rounds < minRounds || time.Since(begin) < e.slice/2 {
		rounds++
		if _, err := e.db.Exec(ctx, `insert into watches select $1::int, side from generate_series(1, $2::int) side`, rounds, guards); err != nil {
			return err
		}
		both := newMeeting(guards)
		err := together(ctx, guards, func(ctx context.Context, i int) error {
			return watch[i].time(opConflict, func() error { return leaveWatch(ctx, e.db, rounds, i+1, both, &attempts) })
		})
		if err != nil {
			return fmt.Errorf("serializable: %w", err)
		}
	}
	e.timings.collect(time.Since(begin), watch[:], opConflict)
	kept, err := e.db.QueryCount(ctx, `select count(*) from (select from watches where present group by hour having count(*) = 1) h`)
	if err != nil {
		return err
	}
	retries := attempts.Load() - int64(guards*rounds)
	e.out.line("%s pairs of serializable transactions, each made to conflict: %s retries", count(rounds), count(retries))
	e.check(ctx, retries >= int64(rounds), "every conflict was retried until it committed: %s retries for %s conflicts", count(retries), count(rounds))
	e.check(ctx, kept == int64(rounds), "of two guards who would leave together, exactly one is left: %s of %s times", count(kept), count(rounds))
	return nil
}

// leaveWatch has a guard leave if the other one is there. On their first
// attempts both have looked before either leaves.
func leaveWatch(ctx context.Context, db *pgkeel.DB, hour, side int, both *meeting, attempts *atomic.Int64) error {
	first := true
	return db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
		attempts.Add(1)
		present, err := tx.QueryCount(ctx, `select count(*) from watches where hour = $1 and present`, hour)
		if err != nil {
			return err
		}
		if first {
			first = false
			if err := both.arrive(ctx); err != nil {
				return err
			}
		}
		if present < 2 {
			return nil
		}
		_, err = tx.Exec(ctx, `update watches set present = false where hour = $1 and side = $2`, hour, side)
		return err
	}, pgkeel.TxOptions{Isolation: pgkeel.Serializable, MaxAttempts: 20})
}

// meeting is where n callers wait for each other.
type meeting struct {
	missing atomic.Int64
	all     chan struct{}
}

func newMeeting(n int64) *meeting {
	m := &meeting{all: make(chan struct{})}
	m.missing.Store(n)
	return m
}

// arrive waits until all are there.
func (m *meeting) arrive(ctx context.Context) error {
	if m.missing.Add(-1) == 0 {
		close(m.all)
	}
	select {
	case <-m.all:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
