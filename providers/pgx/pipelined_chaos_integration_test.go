package pgx

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// chaos holds a pipelined pool, whose callers give up and whose backends are killed,
// against bare pgx on a database where all goes well.
type chaos struct {
	ours    *Pool
	theirs  *pgxpool.Pool
	watcher *Pool // of the database of ours; its only connection is never killed
	// running is held by each statement, and by nobody while a table is looked at.
	running sync.RWMutex

	agreed, faults, unknown, applied atomic.Int64
}

// ask runs a statement on both sides.
func (c *chaos) ask(ctx context.Context, t *testing.T, m mixed, worker int) {
	c.running.RLock()
	if m.read {
		ctx = providers.WithReadOnly(ctx)
	}
	got, err := asked(ctx, c.ours, m)
	c.running.RUnlock()
	if !isFault(err) {
		c.agreed.Add(1)
		if want := ask(t.Context(), c.theirs, m); !reflect.DeepEqual(got, want) {
			t.Errorf("worker %d: %s %.80v\n got %.300v\nwant %.300v", worker, m.sql, m.args, got, want)
		}
		return
	}
	c.faults.Add(1)
	if !isTyped(err) {
		t.Errorf("worker %d: %s ended with %v", worker, m.sql, err)
	}
	c.settle(t, m, worker, providers.OutcomeOf(err))
}

// settle finds out what became of a statement that ended with a fault, holds that
// against what the caller was told, and does the same on the other side.
func (c *chaos) settle(t *testing.T, m mixed, worker int, told providers.Outcome) {
	c.running.Lock()
	defer c.running.Unlock()
	eventually(t, "the server is done with what callers gave up", func() bool {
		return c.ours.Stats().Pipeline.Depth == 0 && value[int](t, c.watcher, `select count(*)::int from pg_stat_activity
			where datname = current_database() and state = 'active' and pid <> pg_backend_pid()`) == 0
	})
	state := mixed{sql: `select * from items where owner = $1 order by id`, args: []any{worker}}
	is, before := ask(t.Context(), c.watcher, state), ask(t.Context(), c.theirs, state)
	if told == providers.OutcomeUnknown {
		c.unknown.Add(1)
	}
	if reflect.DeepEqual(is, before) && told != providers.OutcomeCommitted {
		return
	}
	c.applied.Add(1)
	ask(t.Context(), c.theirs, m)
	if after := ask(t.Context(), c.theirs, state); !reflect.DeepEqual(is, after) {
		t.Errorf("worker %d: %s %.80v was not done once or not at all", worker, m.sql, m.args)
	}
	if told != providers.OutcomeUnknown && told != providers.OutcomeCommitted {
		t.Errorf("worker %d: %s was done, and told to be %v", worker, m.sql, told)
	}
}

// isFault reports an error that is due to what was done to the caller or the
// connection, and not to the statement.
func isFault(err error) bool {
	var told interface{ Outcome() providers.Outcome }
	var argument *argumentError
	pg := providers.NewPGError(err)
	switch {
	case err == nil:
		return false
	case pg != nil:
		return strings.HasPrefix(pg.Code, "57") || strings.HasPrefix(pg.Code, "08")
	case errors.As(err, &argument):
		return false
	default:
		return errors.As(err, &told) && !wrongCount.MatchString(strings.TrimSuffix(err.Error(), "; nothing was sent")) || errors.Is(err, context.Canceled)
	}
}

// TestPipelinedAgreesWithPgxUnderFaults has callers give up at random moments and
// kills backends while they work.
func TestPipelinedAgreesWithPgxUnderFaults(t *testing.T) {
	dsn := pgtest.NewDB(t)
	c := &chaos{
		ours: openPool(t, providers.Config{
			DSN: dsn, Pool: providers.PoolStrategy{MaxSize: 3}, Logger: slog.New(slog.DiscardHandler),
			Pipelining: &providers.Pipelining{Connections: 2, ReadConnections: 2, MaxResultBytes: 64 << 10, SlowAfter: time.Minute},
		}),
		watcher: openPool(t, providers.Config{DSN: dsn, Pool: providers.PoolStrategy{MaxSize: 1}}),
	}
	var err error
	if c.theirs, err = pgxpool.New(t.Context(), pgtest.NewDB(t)); err != nil {
		t.Fatal(err)
	}
	defer c.theirs.Close()
	mustExec(t, c.watcher, mixedSchema)
	mustExec(t, c.theirs, mixedSchema)
	const workers, statements = 16, 250
	var all, kills sync.WaitGroup
	done := make(chan struct{})
	kills.Go(func() {
		for next := int64(1); ; next++ {
			eventually(t, "statements go on", func() bool {
				select {
				case <-done:
					return true
				default:
					return c.agreed.Load() > 50*next
				}
			})
			select {
			case <-done:
				return
			default:
			}
			_, _ = c.watcher.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid() order by random() limit 2`)
		}
	})
	for w := range workers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 43))
			for range statements {
				ctx, cancel := context.WithCancel(t.Context())
				switch r.IntN(12) {
				case 0:
					ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(4000))*time.Microsecond)
				case 1:
					time.AfterFunc(time.Duration(r.IntN(4000))*time.Microsecond, cancel)
				case 2: // in time
					ctx, cancel = context.WithTimeout(ctx, patience)
				}
				c.ask(ctx, t, draw(r, w), w)
				cancel()
			}
		})
	}
	all.Wait()
	close(done)
	kills.Wait()
	whole := mixed{sql: `select * from items order by id`}
	if is, want := ask(t.Context(), c.watcher, whole), ask(t.Context(), c.theirs, whole); !reflect.DeepEqual(is, want) {
		t.Error("the tables differ afterwards")
	}
	s := *c.ours.Stats().Pipeline
	t.Logf("%d agreed, %d faults, %d with an unknown outcome, %d of all applied; %+v", c.agreed.Load(), c.faults.Load(), c.unknown.Load(), c.applied.Load(), s)
	if s.Lost == 0 || s.Abandoned == 0 || c.faults.Load() < 50 {
		t.Error("it proved little")
	}
}
