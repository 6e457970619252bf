package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel"
)

const (
	// crowd is how many callers there are for few sessions: the shared ones and
	// that of the pool, for what cannot be shared.
	crowd        = 64
	sharedSize   = 3
	besideSize   = 1
	sessionsSize = sharedSize + besideSize
	// sharingName is what the server knows these sessions by.
	sharingName = appName + "-pipelining"
)

// The operations of this scene, as the report names them.
const (
	opBare   = "One: a crowd on a bare pool"
	opShared = "One: a crowd on shared connections"
	opLoss   = "One: the same, one of them killed"
)

// sharing is a handle whose connections are shared, beside a bare pool of the
// same size.
type sharing struct {
	*environment

	db   *pgkeel.DB
	bare *pgxpool.Pool
	// killed is the session that was ended on purpose. The server may still list
	// it when its successor is there.
	killed atomic.Int32
	done   atomic.Bool
	// most sessions were seen at a time, in so many looks.
	most, looks int64
}

// pipelining has a crowd read the same places through a bare pool and through
// the reader of a handle with pipelined execution, on as many connections. It
// tries to write through the reader, and ends a connection that many share.
func pipelining(ctx context.Context, e *environment) error {
	db, err := e.open(ctx, "pipelined", e.cluster.Primary(), sharingName,
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: besideSize}),
		pgkeel.WithLogger(slog.New(slog.DiscardHandler)), // it would warn of the loss, which is meant
		pgkeel.WithPipelining(pgkeel.Pipelining{ReadConnections: sharedSize, Traffic: pgkeel.PipelineReads}))
	if err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(e.cluster.Primary().DSN(""))
	if err != nil {
		return err
	}
	config.MaxConns = sessionsSize
	bare, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer bare.Close()
	s := &sharing{environment: e, db: db, bare: bare}
	err = together(ctx, 2, func(ctx context.Context, i int) error {
		if i == 0 {
			return s.watch(ctx)
		}
		defer s.done.Store(true)
		return s.play(ctx)
	})
	if err != nil {
		return err
	}
	e.check(ctx, s.most > 0 && s.most <= sessionsSize, "the server never had more sessions of the handle than the %d it may open: at most %d in %s",
		sessionsSize, s.most, plural(s.looks, "look", "looks"))
	return nil
}

func (s *sharing) play(ctx context.Context) error {
	if err := s.connect(ctx); err != nil {
		return err
	}
	if err := s.compare(ctx); err != nil {
		return err
	}
	if err := s.write(ctx); err != nil {
		return err
	}
	return s.lose(ctx)
}

// watch looks at the sessions of the handle until the scene is over.
func (s *sharing) watch(ctx context.Context) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for !s.done.Load() {
		killed := s.killed.Load()
		n, err := s.observer.QueryCount(ctx, `select count(*) from pg_stat_activity where application_name = $1 and pid <> $2`, sharingName, killed)
		if err != nil {
			return fmt.Errorf("look at the sessions: %w", err)
		}
		if killed == s.killed.Load() { // else the killed one may have counted
			s.most = max(s.most, n)
			s.looks++
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// connect has the crowd read on both until their connections are there, which
// are made while everybody gets on.
func (s *sharing) connect(ctx context.Context) error {
	begin := time.Now()
	late := func() bool { return time.Since(begin) > wholeWithin }
	_, err := s.read(ctx, s.bare, opBare, func() bool {
		pool := s.bare.Stat()
		return late() || pool.AcquiredConns()+pool.IdleConns() == sessionsSize
	})
	if err != nil {
		return err
	}
	_, err = s.read(ctx, s.db.Reader(), opShared, func() bool {
		return late() || s.db.Stats().Pipeline.Connections == sharedSize
	})
	return err
}

// compare asks both the same questions.
func (s *sharing) compare(ctx context.Context) error {
	var rates [2]float64
	for i, of := range []struct {
		name string
		q    pgkeel.Querier
	}{{opBare, s.bare}, {opShared, s.db.Reader()}} {
		begin := time.Now()
		n, err := s.timed(ctx, of.q, of.name, func() bool { return time.Since(begin) >= s.slice/3 })
		if err != nil {
			return err
		}
		rates[i] = float64(n) / time.Since(begin).Seconds()
	}
	p := s.db.Stats().Pipeline
	s.out.line("%d callers on %d connections: %s reads a second from a bare pool, %s on shared ones, %.1f times as many",
		crowd, sessionsSize, count(int(rates[0])), count(int(rates[1])), rates[1]/rates[0])
	s.out.line("%s statements left in %s to the server, %.1f to a flush", count(p.Statements),
		plural(p.Flushes, "flush", "flushes"), float64(p.Statements)/max(1, float64(p.Flushes)))
	s.check(ctx, p.Statements > p.Flushes, "every answer is what the source says, on both, and several statements left at a time")
	return nil
}

// timed is read with the times in the table. It returns how many were read.
func (s *sharing) timed(ctx context.Context, q pgkeel.Querier, name string, over func() bool) (n int, err error) {
	begin := time.Now()
	watches, err := s.read(ctx, q, name, over)
	s.timings.collect(time.Since(begin), watches, name)
	for _, w := range watches {
		n += len(w[name])
	}
	return n, err
}

// read has the crowd read places until it is over, and compares each with the
// source.
func (s *sharing) read(ctx context.Context, q pgkeel.Querier, name string, over func() bool) ([]stopwatch, error) {
	watches := make([]stopwatch, crowd)
	err := together(ctx, crowd, func(ctx context.Context, i int) error {
		watches[i] = stopwatch{}
		for n := i; !over(); n += crowd {
			want := s.places[n%len(s.places)]
			if err := watches[i].time(name, func() error { return readSame(ctx, q, want) }); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	return watches, err
}

func readSame(ctx context.Context, q pgkeel.Querier, want place) error {
	got, err := pgkeel.One[place](ctx, q, `select * from cities where id = $1`, want.ID)
	if err == nil && got != want {
		err = fmt.Errorf("%w: %v instead of %v", errDifferent, got, want)
	}
	return err
}

// write tries to change a place through the reader.
func (s *sharing) write(ctx context.Context) error {
	want := s.places[0]
	_, err := s.db.Reader().Exec(ctx, `update cities set name = 'written' where id = $1`, want.ID)
	s.out.line("a write through the reader:")
	s.out.quote("%v", err)
	var pg *pgkeel.PGError
	s.check(ctx, errors.As(err, &pg) && pg.IsReadOnly() && pgkeel.OutcomeOf(err) == pgkeel.OutcomeRolledBack,
		"it is refused, and the error says why (IsReadOnly)")
	got, err := pgkeel.One[place](ctx, s.observer, `select * from cities where id = $1`, want.ID)
	if err != nil {
		return fmt.Errorf("look for what it left: %w", err)
	}
	s.check(ctx, got == want, "and changed nothing")
	return nil
}

// lose ends a session that many share, while they read.
func (s *sharing) lose(ctx context.Context) error {
	begin := time.Now()
	var replaced atomic.Bool
	var took time.Duration
	var n int
	err := together(ctx, 2, func(ctx context.Context, i int) (err error) {
		if i == 0 {
			n, err = s.timed(ctx, s.db.Reader(), opLoss, func() bool { return replaced.Load() && time.Since(begin) >= s.slice/3 })
			return err
		}
		defer replaced.Store(true)
		took, err = s.killShared(ctx)
		return err
	})
	if err != nil {
		return err
	}
	p := s.db.Stats().Pipeline
	s.check(ctx, p.Lost == 1 && took < wholeWithin, "a shared connection, killed under %d callers, was replaced after %s", crowd, short(took))
	s.check(ctx, n > 0, "and none of them noticed: %s, no error", plural(n, "right answer", "right answers"))
	return nil
}

// session is what a session says of itself.
type session struct {
	PID      int32
	ReadOnly bool
}

// killShared ends a session that is shared, and waits until there is another.
func (s *sharing) killShared(ctx context.Context) (time.Duration, error) {
	_, err := until(ctx, wholeWithin, func(ctx context.Context) (bool, error) {
		// Only sessions that are shared are read-only by themselves.
		of, err := pgkeel.One[session](ctx, s.db.Reader(),
			`select pg_backend_pid() as pid, current_setting('default_transaction_read_only')::bool as read_only`)
		if of.ReadOnly {
			s.killed.Store(of.PID)
		}
		return of.ReadOnly, err
	})
	if err != nil {
		return 0, fmt.Errorf("look for a shared session: %w", err)
	}
	if _, err := s.observer.Exec(ctx, `select pg_terminate_backend($1)`, s.killed.Load()); err != nil {
		return 0, fmt.Errorf("kill a shared session: %w", err)
	}
	took, err := until(ctx, wholeWithin, func(context.Context) (bool, error) {
		p := s.db.Stats().Pipeline
		return p.Lost > 0 && p.Connections == sharedSize, nil
	})
	if errors.Is(err, errNotYet) { // for the scene's checks to say
		err = nil
	}
	return took, err
}
