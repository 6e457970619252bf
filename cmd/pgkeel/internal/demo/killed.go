package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel"
)

// wholeWithin is how long the pool may take to be whole again. The server takes
// its time too: it notes the end of a session when it gets round to it.
const wholeWithin = 5 * time.Second

// killed ends connections on the server, as an administrator or a crash would:
// all at once under load, an idle one, and one inside of a transaction.
func killed(ctx context.Context, e *environment) error {
	if err := killAll(ctx, e); err != nil {
		return err
	}
	if err := killIdle(ctx, e); err != nil {
		return err
	}
	return killTransaction(ctx, e)
}

// seen is what the callers saw: answers, and errors by their text.
type seen struct {
	answers atomic.Int64

	mu     sync.Mutex
	errors map[string]int
	failed int
}

// add notes the error of a caller.
func (s *seen) add(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.errors == nil {
		s.errors = map[string]int{}
	}
	s.errors[fmt.Sprintf("%v · outcome %v", err, pgkeel.OutcomeOf(err))]++
	s.failed++
}

// isLoss reports whether an error says that its connection was lost: in the
// server's words or, when these were lost as well, in those of the network.
func isLoss(err error) bool {
	var pg *pgkeel.PGError
	if errors.As(err, &pg) {
		return pg.IsConnectionError()
	}
	var network *net.OpError
	return errors.As(err, &network) || errors.Is(err, pgconn.ErrConnClosed) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// killAll ends every connection of the pool while all callers read.
func killAll(ctx context.Context, e *environment) error {
	var saw seen
	k := &known{places: e.places}
	begin := time.Now()
	var pids []int32
	var whole time.Duration
	var done atomic.Bool
	err := together(ctx, callers+1, func(ctx context.Context, i int) error {
		if i < callers {
			return readOn(ctx, e.db, k, &saw, &done)
		}
		defer done.Store(true)
		var err error
		pids, whole, err = e.killUnderLoad(ctx, &saw)
		if err != nil {
			return err
		}
		// And go on, to see that it stays quiet.
		_, err = until(ctx, e.slice+wholeWithin, func(context.Context) (bool, error) { return time.Since(begin) > e.slice, nil })
		return err
	})
	if err != nil {
		return fmt.Errorf("kill all connections: %w", err)
	}
	e.out.line("%d connections killed while %d callers read; the pool was whole again after %s", len(pids), callers, short(whole))
	e.out.line("the callers saw %s and %s:", plural(saw.answers.Load(), "answer", "answers"), plural(saw.failed, "error", "errors"))
	for _, text := range slices.Sorted(maps.Keys(saw.errors)) {
		e.out.quote("%d × %s", saw.errors[text], text)
	}
	e.check(ctx, saw.failed <= len(pids), "no more callers failed than connections were killed, and each was told: %d of %d", saw.failed, len(pids))
	e.check(ctx, whole < wholeWithin, "all %d connections were replaced", poolSize)
	return nil
}

// readOn reads until it is done. A lost connection is no reason to stop, any
// other error is.
func readOn(ctx context.Context, db *pgkeel.DB, k *known, saw *seen, done *atomic.Bool) error {
	for !done.Load() {
		err := k.readOne(ctx, db)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isLoss(err):
			saw.add(err)
		case err != nil:
			return err
		default:
			saw.answers.Add(1)
		}
	}
	return nil
}

// killUnderLoad kills all connections once the callers are busy, and waits
// until there are as many new ones.
func (e *environment) killUnderLoad(ctx context.Context, saw *seen) ([]int32, time.Duration, error) {
	busy := func(context.Context) (bool, error) { return saw.answers.Load() > callers, nil }
	if _, err := until(ctx, wholeWithin, busy); err != nil {
		return nil, 0, fmt.Errorf("wait for the callers: %w", err)
	}
	pids, err := pgkeel.All[int32](ctx, e.observer, `select pid from pg_stat_activity where application_name = $1`, appName)
	if err != nil {
		return nil, 0, err
	}
	whole, err := e.kill(ctx, pids)
	return pids, whole, err
}

// kill ends connections on the server, and waits until they were replaced.
func (e *environment) kill(ctx context.Context, pids []int32) (time.Duration, error) {
	if _, err := e.observer.Exec(ctx, `select pg_terminate_backend(pid) from unnest($1::int[]) pid`, pids); err != nil {
		return 0, err
	}
	return e.replaced(ctx, pids)
}

// replaced waits until the server has none of the connections any more, and as
// many of others as there were.
func (e *environment) replaced(ctx context.Context, pids []int32) (time.Duration, error) {
	took, err := until(ctx, wholeWithin, func(ctx context.Context) (bool, error) {
		return pgkeel.One[bool](ctx, e.observer,
			`select count(*) filter (where pid = any($2)) = 0 and count(*) >= $3::int from pg_stat_activity where application_name = $1`,
			appName, pids, poolSize)
	})
	if errors.Is(err, errNotYet) { // for the scene's checks to say
		err = nil
	}
	return took, err
}

// killIdle ends a connection that nobody uses, and lets nobody ask for one until
// it was replaced.
func killIdle(ctx context.Context, e *environment) error {
	pids, err := pgkeel.All[int32](ctx, e.observer,
		`select pid from pg_stat_activity where application_name = $1 and state = 'idle' limit 1`, appName)
	if err != nil {
		return fmt.Errorf("look for an idle connection: %w", err)
	}
	took, err := e.kill(ctx, pids)
	if err != nil {
		return fmt.Errorf("kill an idle connection: %w", err)
	}
	err = e.db.Ping(ctx)
	e.check(ctx, len(pids) == 1 && took < wholeWithin && err == nil,
		"an idle connection, killed, was replaced before anybody asked for it: after %s%s", short(took), because(err))
	return nil
}

// killTransaction ends the connection of a transaction after its first
// statement.
func killTransaction(ctx context.Context, e *environment) error {
	const id = 1
	attempts := 0
	err := e.db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
		attempts++
		pid, err := pgkeel.One[int32](ctx, tx, `update cities set name = name || ' again' where id = $1 returning pg_backend_pid()`, id)
		if err != nil {
			return err
		}
		if attempts == 1 {
			if _, err := e.observer.Exec(ctx, `select pg_terminate_backend($1, 5000)`, pid); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `update cities set name = name || '!' where id = $1`, id)
		return err
	})
	e.check(ctx, err == nil && attempts == 2,
		"a transaction whose connection was killed before its second statement was run again as a whole%s", because(err))
	got, err := pgkeel.One[string](ctx, e.db, `select name from cities where id = $1`, id)
	if err != nil {
		return fmt.Errorf("look for what it left: %w", err)
	}
	e.check(ctx, got == e.places[id-1].Name+" again!", "and what it did is there once")
	// As it was, for the scenes to come.
	_, err = e.db.Exec(ctx, `update cities set name = $1 where id = $2`, e.places[id-1].Name, id)
	return err
}
