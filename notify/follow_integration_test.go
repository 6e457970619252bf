package notify

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// following is a Follow on a goroutine of its own.
type following struct {
	records chan Record
	end     chan error
	stop    context.CancelFunc
}

func follow(t testing.TB, o Outbox, q providers.Querier, l *Listener, channel string, from Position) *following {
	if o.Logger == nil {
		o.Logger = quiet()
	}
	f := &following{records: make(chan Record, 100_000), end: make(chan error, 1)}
	var ctx context.Context
	ctx, f.stop = context.WithCancel(t.Context())
	t.Cleanup(f.stop)
	go func() {
		for r, err := range o.Follow(ctx, q, l, channel, from) {
			if err != nil {
				f.end <- err
				return
			}
			f.records <- r
		}
		f.end <- nil
	}()
	return f
}

func (f *following) next(t testing.TB) Record {
	t.Helper()
	select {
	case r := <-f.records:
		return r
	case err := <-f.end:
		t.Fatalf("it ended: %v", err)
	case <-time.After(patience):
		t.Fatal("no record came")
	}
	panic("not reached")
}

func (f *following) want(t testing.TB, payload string) Record {
	t.Helper()
	r := f.next(t)
	if r.Payload != payload {
		t.Fatalf("got %+v, want %q", r, payload)
	}
	return r
}

func TestFollowEnds(t *testing.T) {
	p := openPool(t, providers.Config{})
	o := newOutbox(t, p, Outbox{})
	t.Run("when the loop is left", func(t *testing.T) {
		l := listenOn(t, p, Options{})
		publish(t, o, p, "a", "1")
		publish(t, o, p, "a", "2")
		n := 0
		for _, err := range o.Follow(t.Context(), p, l, "a", Position{}) {
			if err != nil {
				t.Error(err)
			}
			n++
			break
		}
		if n != 1 || l.Stats().Subscribers != 0 {
			t.Errorf("%d records, %d subscribers left", n, l.Stats().Subscribers)
		}
	})
	t.Run("with its context, in the middle of a page", func(t *testing.T) {
		l := listenOn(t, p, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		var last error
		for r, err := range o.Follow(ctx, p, l, "a", Position{}) {
			if last = err; err == nil {
				n++
				cancel()
				eventually(t, "it is unsubscribed", func() bool { return l.Stats().Subscribers == 0 })
			} else if r.Position == (Position{}) {
				t.Error("the end does not say where it was")
			}
		}
		if n != 1 || !errors.Is(last, context.Canceled) {
			t.Errorf("%d records, then %v", n, last)
		}
	})
	t.Run("with the listener", func(t *testing.T) {
		l := listenOn(t, p, Options{})
		f := follow(t, o, p, l, "quiet", Position{})
		eventually(t, "it follows", func() bool { return l.Stats().Subscribers == 1 })
		closeListener(t, l)
		if err := <-f.end; !errors.Is(err, ErrClosed) {
			t.Errorf("the reason is %v", err)
		}
		for _, err := range o.Follow(t.Context(), p, l, "a", Position{}) {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("the reason is %v", err)
			}
		}
		for _, err := range o.Follow(t.Context(), p, nil, "a", Position{}) {
			if err == nil {
				t.Error("without a listener")
			}
		}
	})
	t.Run("when there is no table", func(t *testing.T) {
		l := listenOn(t, p, Options{})
		f := follow(t, Outbox{Table: pgx.Identifier{"nowhere"}}, p, l, "a", Position{})
		var pg *providers.PGError
		if err := <-f.end; !errors.As(err, &pg) || pg.Code != "42P01" {
			t.Errorf("the reason is %v", err)
		}
	})
}

// failing fails some queries as a server does that is away.
type failing struct {
	providers.Querier
	failures atomic.Int32
	err      error
}

func (f *failing) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if f.failures.Add(-1) >= 0 {
		return nil, f.err
	}
	return f.Querier.Query(ctx, sql, args...)
}

func (f *failing) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := f.Query(ctx, sql, args...)
	if err != nil {
		return failedRow{err}
	}
	return providers.FirstRow(rows)
}

type failedRow struct{ error }

func (r failedRow) Scan(...any) error { return r.error }

func TestFollowGetsOverFailuresThatPass(t *testing.T) {
	p := openPool(t, providers.Config{})
	o := newOutbox(t, p, Outbox{})
	l := listenOn(t, p, Options{})
	publish(t, o, p, "a", "1")
	for name, tc := range map[string]struct {
		err    error
		passes bool
	}{
		"unreachable":  {&providers.UnreachableError{Err: errBroken}, true},
		"network":      {errBroken, true},
		"no memory":    {&pgconn.PgError{Code: "53200"}, true},
		"cancelled":    {&pgconn.PgError{Code: "57014"}, true},
		"no table":     {&pgconn.PgError{Code: "42P01"}, false},
		"pool closed":  {providers.ErrPoolClosed, false},
		"config error": {configError("a", "b"), false},
	} {
		t.Run(name, func(t *testing.T) {
			q := &failing{Querier: p, err: tc.err}
			q.failures.Store(3)
			var log logBuffer
			o := o
			o.Logger = log.logger()
			f := follow(t, o, q, l, "a", Position{})
			if tc.passes {
				f.want(t, "1")
				if strings.Count(log.String(), "tried again") != 3 {
					t.Error(log.String())
				}
			} else if err := <-f.end; !errors.Is(err, tc.err) {
				t.Errorf("the reason is %v", err)
			}
		})
	}
	q := &failing{Querier: p, err: errBroken}
	q.failures.Store(1)
	if _, err := o.End(t.Context(), q); !errors.Is(err, errBroken) {
		t.Errorf("the error is %v", err)
	}
	if (Outbox{}).logger() == nil {
		t.Error("no logger")
	}
}

// The followers' own connections are killed, too.
func TestFollowSurvivesItsOwnConnections(t *testing.T) {
	p := openPool(t, providers.Config{})
	admin := openPool(t, providers.Config{DSN: p.Unwrap().Config().ConnString()})
	o := newOutbox(t, p, Outbox{})
	l := listenOn(t, p, Options{RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond})
	f := follow(t, o, p, l, "a", Position{})
	for i := range 20 {
		mustExec(t, admin, `select pg_terminate_backend(pid) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`)
		if _, err := o.Publish(t.Context(), admin, "a", strconv.Itoa(i)); err != nil {
			// It may have killed a connection of its own pool.
			t.Fatal(err)
		}
		f.want(t, strconv.Itoa(i))
	}
}

// A standby takes over that lacks the last records, which were delivered
// already. Their transaction ids are given out once more, so that what comes next
// stands before them.
func TestFollowAfterAFailoverThatLostTransactions(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Standbys: 1})
	standby := c.Standbys()[0]
	p := openPool(t, providers.Config{DSN: twoHosts(t, c.Primary(), standby)})
	o := newOutbox(t, p, Outbox{})
	l := listenOn(t, p, Options{RetryMin: time.Millisecond, RetryMax: 50 * time.Millisecond})
	f := follow(t, o, p, l, "a", Position{})
	for i := range 10 {
		publish(t, o, p, "a", fmt.Sprint("kept ", i))
		f.want(t, fmt.Sprint("kept ", i))
	}
	if err := c.WaitCaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := standby.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	var last Record
	for i := range 20 {
		publish(t, o, p, "a", fmt.Sprint("lost ", i))
		last = f.want(t, fmt.Sprint("lost ", i))
	}
	if err := c.Primary().Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the listener tries to connect", func() bool { return l.Stats().ConnectErrors > 0 })
	if err := errors.Join(standby.Start(t.Context()), standby.Promote(t.Context())); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		publish(t, o, p, "a", fmt.Sprint("new ", i))
		if r := f.want(t, fmt.Sprint("new ", i)); i == 0 && r.XID > last.XID {
			t.Error("the transaction's id was not given out again, so this shows nothing")
		}
	}
}

// Where histories part, by hand: nothing twice, nothing left out.
func TestFollowGoesBackToWhereHistoriesPart(t *testing.T) {
	p := openPool(t, providers.Config{})
	o := newOutbox(t, p, Outbox{})
	l := listenOn(t, p, Options{RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond})
	f := follow(t, o, p, l, "a", Position{})
	var all []Record
	for i := range 5 {
		publish(t, o, p, "a", strconv.Itoa(i))
		all = append(all, f.want(t, strconv.Itoa(i)))
	}
	// One is gone, one is another one in the same place, and 4 is still there.
	mustExec(t, p, `delete from pgkeel_outbox where payload in ('2', '3')`)
	mustExec(t, p, `insert into pgkeel_outbox (id, xid, channel, payload) overriding system value values ($1, $2::text::xid8, 'a', 'another')`,
		all[3].ID, strconv.FormatUint(all[3].XID, 10))
	kill(t, p, l)
	if r := f.want(t, "another"); r.Position != all[3].Position {
		t.Errorf("got %+v", r)
	}
	publish(t, o, p, "a", "next")
	f.want(t, "next")
	// All that was delivered is gone, as after a purge.
	mustExec(t, p, `delete from pgkeel_outbox`)
	kill(t, p, l)
	publish(t, o, p, "a", "last")
	f.want(t, "last")
}
