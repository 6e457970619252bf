package pgx

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// notes are what operations told of where their server was.
type notes struct {
	mu  sync.Mutex
	all []note
}

type note struct {
	providers.Position
	ok bool
}

func (n *notes) note(p providers.Position, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, note{p, ok})
}

// take returns what was noted, and forgets it.
func (n *notes) take() []note {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer func() { n.all = nil }()
	return n.all
}

// after returns a context whose operations come behind a position, and note theirs.
func (n *notes) after(ctx context.Context, lsn providers.LSN) context.Context {
	return providers.WithCausality(ctx, &providers.Causality{After: lsn, Note: n.note})
}

// one takes the only note, which must tell the position.
func (n *notes) one(t testing.TB) providers.Position {
	t.Helper()
	all := n.take()
	if len(all) != 1 || !all[0].ok {
		t.Fatalf("%d notes, and one was to tell the position: %+v", len(all), all)
	}
	return all[0].Position
}

// pair is a primary and a standby.
type pair struct {
	cluster          *pgtest.Cluster
	primary, standby *Pool
}

func newPair(t *testing.T) *pair {
	t.Helper()
	c := pgtest.New(t, pgtest.Options{Standbys: 1})
	open := func(n *pgtest.Node) *Pool {
		return openPool(t, providers.Config{DSN: n.DSN("postgres"), Pool: providers.PoolStrategy{MaxSize: 4}})
	}
	p := &pair{cluster: c, primary: open(c.Primary()), standby: open(c.Standbys()[0])}
	mustExec(t, p.primary, "create table t (n int primary key)")
	p.catchUp(t)
	return p
}

func (p *pair) catchUp(t testing.TB) {
	t.Helper()
	if err := p.cluster.WaitCaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (p *pair) hold(t testing.TB)   { mustExec(t, p.standby, "select pg_wal_replay_pause()") }
func (p *pair) resume(t testing.TB) { mustExec(t, p.standby, "select pg_wal_replay_resume()") }

// reads are the ways to ask for something on a pool.
var reads = map[string]func(ctx context.Context, p *Pool, sql string, args ...any) error{
	"query": func(ctx context.Context, p *Pool, sql string, args ...any) error {
		rows, err := p.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		for rows.Next() {
		}
		return rows.Err()
	},
	"row": func(ctx context.Context, p *Pool, sql string, args ...any) error {
		return p.QueryRow(ctx, sql, args...).Scan(nil)
	},
	"exec": func(ctx context.Context, p *Pool, sql string, args ...any) error {
		_, err := p.Exec(ctx, sql, args...)
		return err
	},
	"call": func(ctx context.Context, p *Pool, sql string, args ...any) error {
		call := scoped(providers.CallQuery, sql, args, "app.x", "1")
		if err := p.Run(ctx, call); err != nil {
			return err
		}
		return providers.FirstRow(call.Rows).Scan(nil)
	},
	"exec call": func(ctx context.Context, p *Pool, sql string, args ...any) error {
		return p.Run(ctx, scoped(providers.CallExec, sql, args, "app.x", "1"))
	},
	"declared": func(ctx context.Context, p *Pool, sql string, args ...any) error {
		return p.QueryRow(providers.WithReadOnly(ctx), sql, args...).Scan(nil)
	},
	"connection": func(ctx context.Context, p *Pool, sql string, args ...any) error {
		c, err := p.Acquire(ctx)
		if err != nil {
			return err
		}
		defer c.Release()
		return c.QueryRow(ctx, sql, args...).Scan(nil)
	},
	"unprepared": func(ctx context.Context, p *Pool, sql string, args ...any) error {
		return p.QueryRow(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...).Scan(nil)
	},
	"transaction": func(ctx context.Context, p *Pool, sql string, args ...any) error {
		return inTx(ctx, p, providers.TxOptions{}, sql, args...)
	},
	"snapshot": func(ctx context.Context, p *Pool, sql string, args ...any) error {
		return inTx(ctx, p, providers.TxOptions{Isolation: providers.RepeatableRead, Access: providers.ReadOnly}, sql, args...)
	},
	"batch": func(ctx context.Context, p *Pool, sql string, args ...any) error {
		b := &pgx.Batch{}
		b.Queue(sql, args...)
		r := p.SendBatch(ctx, b)
		err := r.QueryRow().Scan(nil)
		return errors.Join(err, r.Close())
	},
}

func inTx(ctx context.Context, p *Pool, opts providers.TxOptions, sql string, args ...any) error {
	tx, err := p.Begin(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err := tx.QueryRow(ctx, sql, args...).Scan(nil); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func TestCausalReads(t *testing.T) {
	p := newPair(t)
	var n notes
	row := 0
	write := func(t *testing.T) providers.LSN {
		row++
		if _, err := p.primary.Exec(n.after(t.Context(), 0), "insert into t values ($1)", row); err != nil {
			t.Fatal(err)
		}
		position := n.one(t)
		if position.Standby || position.Timeline != 1 || position.LSN == 0 {
			t.Fatalf("%+v", position)
		}
		return position.LSN
	}
	const sql = "select 1 / count(*) from t where n = $1" // fails without the row
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			p.hold(t)
			after := write(t)
			err := read(n.after(t.Context(), after), p.standby, sql, row)
			if !errors.Is(err, providers.ErrBehind) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Errorf("the standby is behind: %v", err)
			}
			if all := n.take(); len(all) > 0 {
				t.Errorf("nothing was run, and noted: %+v", all)
			}
			p.resume(t)
			p.catchUp(t)
			for range 3 { // from the second on, all is prepared
				if err := read(n.after(t.Context(), after), p.standby, sql, row); err != nil {
					t.Fatal(err)
				}
				got := n.one(t)
				if !got.Standby || got.Replayed < after || got.LSN < got.Replayed || got.Timeline != 0 {
					t.Errorf("the standby was at %+v, and had to be behind %v", got, after)
				}
			}
			// A primary always meets it.
			if err := read(n.after(t.Context(), after+1<<40), p.primary, sql, row); err != nil {
				t.Fatal(err)
			}
			if got := n.one(t); got.Standby || got.LSN < after {
				t.Errorf("%+v", got)
			}
		})
	}
}
