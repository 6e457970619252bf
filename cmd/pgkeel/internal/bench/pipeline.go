package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel"
)

const (
	// oneWay makes a round trip of a bit over 2 milliseconds.
	oneWay = time.Millisecond
	// crowdSlice is for many callers nearby: within the usual slice each would
	// work but once. longSlice is for those whose operations take milliseconds.
	crowdSlice = 20 * time.Millisecond
	longSlice  = 100 * time.Millisecond
	// farConnections is what both sides have in all where these are rationed.
	farConnections = 4
	// reserve is the size of the pool beside the shared connections.
	reserve = 4
)

// pipelines are scenarios of pipelined execution, one for each of its promises.
func pipelines() []Scenario {
	// One of the connections is the pool's, for what cannot be shared.
	few := sized(1, onPipeline(readerOf, pgkeel.Pipelining{ReadConnections: farConnections - 1, Traffic: pgkeel.PipelineReads}))
	reads := atBest("pgkeel at its best number of shared connections", shareds, func(n int) Opener {
		return sized(reserve, onPipeline(readerOf, pgkeel.Pipelining{ReadConnections: int32(n)})) //nolint:gosec // of shareds
	})
	writes := sized(reserve, onPipeline(handleOf, pgkeel.Pipelining{}))
	return []Scenario{
		shared(Scenario{
			Name: "pipeline.rtt2ms", About: "reads by 128 callers, 2 ms from the server, 4 connections a side",
			Callers: 128, Slice: longSlice, Bar: Bar{Throughput: 20},
			Ours: faraway(few), Baseline: faraway(sized(farConnections, onPool(readOnPool))),
		}),
		shared(Scenario{
			Name: "pipeline.rtt2ms.64", About: "the same, 64 connections for pgxpool",
			Callers: 128, Slice: longSlice, Bar: Bar{Throughput: 4},
			Ours: faraway(few), Baseline: faraway(sized(64, onPool(readOnPool))),
		}),
		shared(Scenario{
			Name: "pipeline.read128", About: "reads by 128 callers, each side with its best number of connections",
			Callers: 128, Slice: crowdSlice, Bar: Bar{Throughput: 4, CPU: 1.0 / 3}, Ours: reads, Baseline: onBestPool(readOnPool),
		}),
		shared(Scenario{
			Name: "pipeline.read32", About: "the same by 32 callers",
			Callers: 32, Slice: crowdSlice, Bar: Bar{Throughput: 2}, Ours: reads, Baseline: onBestPool(readOnPool),
		}),
		shared(Scenario{
			Name: "pipeline.sync128", About: "the same by 128 callers, a Sync for each statement",
			Callers: 128, Slice: crowdSlice, Bar: Bar{Throughput: 1.5}, Ours: writes, Baseline: onBestPool(readOnPool),
		}),
		shared(Scenario{
			Name: "pipeline.one", About: "the same by a single caller",
			Callers: 1, Bar: Bar{Throughput: 0.95}, Ours: writes, Baseline: sized(reserve, onPool(readOnPool)),
		}),
		slowOnes(),
		waitingOnes(),
	}
}

// shared fills in what these scenarios have in common.
func shared(sc Scenario) Scenario {
	sc.Setup = setupItems
	return sc
}

// onPipeline opens pgkeel's side with pipelining.
func onPipeline(op func(db *pgkeel.DB, site Site) Op, p pgkeel.Pipelining, options ...pgkeel.Option) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		var db *pgkeel.DB
		opened := func(handle *pgkeel.DB, site Site) Op { db = handle; return op(handle, site) }
		side, err := onHandle(opened, append(options, pgkeel.WithPipelining(p))...)(ctx, site)
		side.Note = func() string { return noteOf(db.Stats()) }
		return side, err
	}
}

// noteOf tells how the statements went.
func noteOf(s pgkeel.PoolStats) string {
	p := s.Pipeline
	return fmt.Sprintf("pgkeel on %d shared connections: %d statements, %.1f to a Sync, %.1f to a flush; %d on its pool of %d (%d full, %d slow, %d moved)",
		p.Connections, p.Statements, float64(p.Statements)/max(1, float64(p.Segments)), float64(p.Statements)/max(1, float64(p.Flushes)),
		s.Acquires, s.MaxSize, p.Full, p.Slow, p.Moved)
}

func readerOf(db *pgkeel.DB, site Site) Op { return checkedRead(db.Reader(), site) }

func handleOf(db *pgkeel.DB, site Site) Op { return checkedRead(db, site) }

func readOnPool(pool *pgxpool.Pool, site Site) Op { return checkedRead(pool, site) }

// checkedRead reads a row by its key and looks at every value: where many share
// a connection, a row must not be somebody else's.
func checkedRead(q pgkeel.Querier, site Site) Op {
	sql := `select id, name, price from ` + site.Table("items") + ` where id = $1`
	return func(ctx context.Context, caller, n int) error {
		var it item
		key := keyOf(caller, n)
		if err := q.QueryRow(ctx, sql, key).Scan(&it.ID, &it.Name, &it.Price); err != nil {
			return err
		}
		return it.mustBe(key)
	}
}

// mustBe fails if an item is not the one that setupItems made. It allocates
// nothing, to weigh little beside what is measured.
func (it *item) mustBe(key int64) error {
	number, ok := strings.CutPrefix(it.Name, "item ")
	named, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || named != key || it.ID != key || it.Price != float64(key)/100 {
		return fmt.Errorf("the row of %d came as %d, %q, %v", key, it.ID, it.Name, it.Price)
	}
	return nil
}

const (
	// slowEvery and slowFor say how many statements are slow, and how slow.
	slowEvery = 20
	slowFor   = 50 * time.Millisecond
	// slowCallers are few enough that the pools never let one wait: what is
	// compared is what the slow ones do to the others.
	slowCallers = 8
)

// isSlow says whether the n-th operation of a caller is a slow one. They do not
// all begin at once.
func isSlow(caller, n int) bool { return (n+3*caller)%slowEvery == 0 }

// slowOnes has callers wait for a slow statement now and then. Half of them
// read through the reader, half on the handle itself, as both must get past what
// is slow. The latency is that of the others.
func slowOnes() Scenario {
	return shared(Scenario{
		Name: "pipeline.slow", About: "8 callers, every 20th statement takes 50 ms; the latency is that of the others",
		Callers: slowCallers, Slice: longSlice, Bar: Bar{P99: 1.5},
		Timed: func(caller, n int) bool { return !isSlow(caller, n) },
		Ours: sized(slowCallers, onPipeline(func(db *pgkeel.DB, site Site) Op {
			return nowAndThenSlow(site, db.Reader(), db)
		}, pgkeel.Pipelining{})),
		Baseline: sized(slowCallers, onPool(func(pool *pgxpool.Pool, site Site) Op {
			return nowAndThenSlow(site, pool, pool)
		})),
	})
}

const (
	// waitFor is how long the server waits for the disk, or the standby, in a commit.
	waitFor = time.Millisecond
	// waitingCallers are as many as wait at a time on the pools.
	waitingCallers = 16
)

// waitingOnes has callers write what the server waits for, without work meanwhile: one
// behind the other they would take as many times longer.
func waitingOnes() Scenario {
	return shared(Scenario{
		Name: "pipeline.waiting", About: "16 callers whose updates wait 1 ms at the server, as for a disk, pools of 16",
		Callers: waitingCallers, Slice: longSlice, Bar: Bar{Throughput: 0.95},
		Ours: sized(waitingCallers, onPipeline(func(db *pgkeel.DB, site Site) Op {
			return updateAndWait(db, site)
		}, pgkeel.Pipelining{})),
		Baseline: sized(waitingCallers, onPool(func(pool *pgxpool.Pool, site Site) Op { return updateAndWait(pool, site) })),
	})
}

func updateAndWait(q pgkeel.Querier, site Site) Op {
	sql := updateSQL(site) + ` and pg_sleep($2) is not null`
	return func(ctx context.Context, caller, n int) error {
		tag, err := q.Exec(ctx, sql, keyOf(caller, n), waitFor.Seconds())
		if err != nil {
			return err
		}
		return expect(1, tag.RowsAffected())
	}
}

// nowAndThenSlow takes the queriers in turns, by the caller.
func nowAndThenSlow(site Site, queriers ...pgkeel.Querier) Op {
	fast := make([]Op, len(queriers))
	for i, q := range queriers {
		fast[i] = checkedRead(q, site)
	}
	return func(ctx context.Context, caller, n int) error {
		i := caller % len(queriers)
		if !isSlow(caller, n) {
			return fast[i](ctx, caller, n)
		}
		tag, err := queriers[i].Exec(ctx, `select pg_sleep($1)`, slowFor.Seconds())
		if err != nil {
			return err
		}
		return expect(1, tag.RowsAffected())
	}
}
