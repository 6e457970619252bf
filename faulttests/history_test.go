package faulttests

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/pgkeel/pgkeel"
)

// TestHistories records what clients did to counters on the primary, faults and
// promotions included, and has a checker look for an order in which one counter
// alone would have answered so. Beside that each client reads from the standbys in
// its session, which must never go back.
func TestHistories(t *testing.T) {
	// The checker has to try each set of the operations on a counter that nobody
	// knows the outcome of, so these are to be few on each.
	const clients, keys = 6, 9
	s := newStage(t, 1, true)
	s.sql(s.servers.Primary(),
		`create table counters (id int primary key, value bigint not null default 0)`,
		fmt.Sprintf(`insert into counters select i from generate_series(1, %d) i`, keys))
	s.must(s.servers.WaitCaughtUp(t.Context()))

	h := history{begin: time.Now()}
	var stop atomic.Bool
	var work sync.WaitGroup
	for client := range clients {
		work.Go(func() {
			ctx := pgkeel.WithSession(t.Context(), pgkeel.NewSession())
			seen := make([]int64, keys+1)
			for i := 0; !stop.Load(); i++ {
				key := (client/2+i)%keys + 1 // two work on each
				h.increment(ctx, s.db, client, key, seen, i%2 == 0)
				h.read(ctx, s.db, client, key, seen)
				h.readInSession(ctx, t, s.db, key, seen)
			}
		})
	}
	kinds := faults()
	s.random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	for i := range runs(t, 4) {
		before := h.acknowledged.Load()
		f := kinds[i%len(kinds)]
		f.make(s)
		s.waitFor("writes go on after: "+f.name, func() bool { return h.acknowledged.Load() > before+clients })
	}
	stop.Store(true)
	work.Wait()
	result := porcupine.CheckOperationsTimeout(counter, h.operations, time.Minute)
	t.Logf("%d operations, of which %d have an outcome that nobody knows; %d reads in sessions; the checker says %v",
		len(h.operations), h.unknown.Load(), h.sessionReads.Load(), result)
	switch result {
	case porcupine.Illegal:
		t.Error("no order of the operations explains what was seen")
	case porcupine.Unknown:
		t.Error("the checker has not come to an end")
	}
}

// The operations on a counter. A value of -1 was never heard.
type (
	input struct {
		key       int
		increment bool
	}
	output int64
)

// counter is one that answers an increment with its new value.
var counter = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[int][]porcupine.Operation{}
		for _, op := range all {
			key := op.Input.(input).key
			byKey[key] = append(byKey[key], op)
		}
		parts := make([][]porcupine.Operation, 0, len(byKey))
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return int64(0) },
	Step: func(state, in, out any) (bool, any) {
		value := state.(int64)
		if in.(input).increment {
			value++
		}
		return out.(output) < 0 || int64(out.(output)) == value, value
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v: %d", in, out) },
}

type history struct {
	begin                               time.Time
	acknowledged, unknown, sessionReads atomic.Int64

	mu         sync.Mutex
	operations []porcupine.Operation
}

func (h *history) now() int64 { return int64(time.Since(h.begin)) }

func (h *history) add(op porcupine.Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations = append(h.operations, op)
}

// increment adds one to the counter: exactly once, in a transaction, or by a
// statement of which nobody knows what became if its connection is lost.
func (h *history) increment(ctx context.Context, db *pgkeel.DB, client, key int, seen []int64, exactlyOnce bool) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	op := porcupine.Operation{ClientId: client, Input: input{key: key, increment: true}, Call: h.now()}
	value, err := add(ctx, db, key, exactlyOnce)
	op.Return, op.Output = h.now(), output(value)
	switch {
	case err == nil:
		h.acknowledged.Add(1)
		seen[key] = max(seen[key], value)
	case pgkeel.OutcomeOf(err) != pgkeel.OutcomeUnknown:
		return // it never happened
	default:
		// It may happen at any time from now on, or never: both are covered by an
		// end that never comes and an answer that nobody heard.
		h.unknown.Add(1)
		op.Return, op.Output = math.MaxInt64, output(-1)
		// A client's operations must not overlap.
		op.ClientId = int(h.unknown.Load()) + 1000
	}
	h.add(op)
}

func add(ctx context.Context, db *pgkeel.DB, key int, exactlyOnce bool) (value int64, err error) {
	const sql = `update counters set value = value + 1 where id = $1 returning value`
	if !exactlyOnce {
		return pgkeel.One[int64](ctx, db, sql, key)
	}
	err = db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) (err error) {
		value, err = pgkeel.One[int64](ctx, tx, sql, key)
		return err
	}, pgkeel.TxOptions{ExactlyOnce: true, MaxAttempts: 100, RetryBudget: 15 * time.Second})
	return value, err
}

// read reads from the primary.
func (h *history) read(ctx context.Context, db *pgkeel.DB, client, key int, seen []int64) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	op := porcupine.Operation{ClientId: client, Input: input{key: key}, Call: h.now()}
	value, err := pgkeel.One[int64](ctx, db, `select value from counters where id = $1`, key)
	if err != nil {
		return
	}
	op.Return, op.Output = h.now(), output(value)
	seen[key] = max(seen[key], value)
	h.add(op)
}

func (h *history) readInSession(ctx context.Context, t *testing.T, db *pgkeel.DB, key int, seen []int64) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	value, err := pgkeel.One[int64](ctx, db.Reader(), `select value from counters where id = $1`, key)
	if err != nil {
		t.Errorf("a read in a session: %v", err)
		return
	}
	h.sessionReads.Add(1)
	if value < seen[key] {
		t.Errorf("a session saw %d after %d", value, seen[key])
	}
	seen[key] = value
}
