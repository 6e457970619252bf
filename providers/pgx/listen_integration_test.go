package pgx

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
	"github.com/pgkeel/pgkeel/providers"
)

func openListen(t testing.TB, p *Pool) providers.ListenConn {
	t.Helper()
	l, err := p.Listen(t.Context(), providers.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

func mustListen(t testing.TB, l providers.ListenConn, channels ...string) {
	t.Helper()
	for _, c := range channels {
		if err := l.Exec(t.Context(), `listen `+c); err != nil {
			t.Fatal(err)
		}
	}
}

// The connection for LISTEN is nobody else's: neither its session state nor its
// place is the pool's.
func TestTrap43AListenConnectionIsOutsideOfThePool(t *testing.T) {
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
	conns := acquireN(t, p, 1) // the pool is exhausted
	before := p.Stats()
	l := openListen(t, p)
	mustListen(t, l, "a")
	if after := p.Stats(); after != before {
		t.Errorf("the pool's statistics changed: %+v, before %+v", after, before)
	}
	mustExec(t, conns[0], `notify a, 'x'`)
	releaseAll(conns)
	n, err := l.WaitForNotification(t.Context())
	if err != nil || n.Channel != "a" || n.Payload != "x" {
		t.Fatalf("%v %v", n, err)
	}
	pid := value[int](t, p, `select pg_backend_pid()`)
	if int(l.PID()) == pid || int(n.PID) != pid {
		t.Errorf("listener %d, pool %d, sender %d", l.PID(), pid, n.PID)
	}
	if channels := value[int](t, p, `select count(*) from pg_listening_channels()`); channels != 0 {
		t.Error("the pool's connection listens")
	}
}

// A wait that is interrupted, in the middle of a message as well, loses nothing.
func TestListenInterruptedWaitsLoseNothing(t *testing.T) {
	const messages = 2000
	p := openPool(t, providers.Config{})
	l := openListen(t, p)
	mustListen(t, l, "a")
	var sender sync.WaitGroup
	defer sender.Wait()
	sender.Go(func() {
		for i := range messages {
			if _, err := p.Exec(t.Context(), `select pg_notify('a', $1)`, strconv.Itoa(i)+strings.Repeat(" ", i%7000)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	interrupted := 0
	for next := 0; next < messages; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(next%400)*time.Microsecond)
		n, err := l.WaitForNotification(ctx)
		cancel()
		switch {
		case err == nil && strings.TrimSpace(n.Payload) == strconv.Itoa(next):
			next++
		case n == nil && errors.Is(err, context.DeadlineExceeded):
			interrupted++
		default:
			t.Fatalf("instead of %d: %+v %v", next, n, err)
		}
		if interrupted%5 == 4 {
			if err := l.Ping(t.Context()); err != nil { // what arrives meanwhile is kept
				t.Fatal(err)
			}
		}
	}
	if interrupted == 0 {
		t.Error("no wait was interrupted")
	}
	if err := l.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// A dead peer looks idle. A ping that is not answered ends the connection at
// once: there is nobody who would take a cancel request, or a good-bye.
func TestTrap43APingFindsABlackHole(t *testing.T) {
	dsn := pgtest.NewDB(t)
	for name, use := range map[string]func(context.Context, providers.ListenConn) error{
		"ping": func(ctx context.Context, l providers.ListenConn) error { return l.Ping(ctx) },
		"exec": func(ctx context.Context, l providers.ListenConn) error { return l.Exec(ctx, `listen a`) },
	} {
		t.Run(name, func(t *testing.T) {
			network := fault.New(t, dsn)
			l := openListen(t, openPool(t, providers.Config{DSN: network.DSN()}))
			mustListen(t, l, "a")
			network.BlackHole(fault.Both)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			begin := time.Now()
			err := use(ctx, l)
			var timeout *providers.TimeoutError
			if !errors.As(err, &timeout) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the error is %v", err)
			}
			if err := l.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			if n, err := l.WaitForNotification(t.Context()); err == nil || n != nil || !strings.Contains(err.Error(), "was lost") {
				t.Errorf("a closed connection returned %v, %v", n, err)
			}
		})
	}
}

func TestListenConnectionsThatEnd(t *testing.T) {
	dsn := pgtest.NewDB(t)
	admin := openPool(t, providers.Config{DSN: dsn})
	t.Run("by an administrator", func(t *testing.T) {
		l := openListen(t, admin)
		mustExec(t, admin, `select pg_terminate_backend($1)`, l.PID())
		_, err := l.WaitForNotification(t.Context())
		var pg *providers.PGError
		if !errors.As(err, &pg) || !pg.IsConnectionError() {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("by the pool", func(t *testing.T) {
		p, err := Open(t.Context(), providers.Config{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		l := openListen(t, p)
		ended := make(chan error, 1)
		go func() {
			_, err := l.WaitForNotification(t.Context())
			ended <- err
		}()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, providers.ErrPoolClosed) {
			t.Errorf("the error is %v", err)
		}
		if _, err := p.Listen(t.Context(), providers.ListenOptions{}); !errors.Is(err, providers.ErrPoolClosed) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("by their owner, twice, and with a dead context", func(t *testing.T) {
		l := openListen(t, admin)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := errors.Join(l.Close(ctx), l.Close(t.Context())); err != nil {
			t.Error(err)
		}
		eventually(t, "the server's session is gone", func() bool {
			return value[int](t, admin, `select count(*) from pg_stat_activity where pid = $1`, l.PID()) == 0
		})
	})
	t.Run("with a context that had ended", func(t *testing.T) {
		l := openListen(t, admin)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.WaitForNotification(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
		if err := l.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestListenFiresHooks(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	hooks, err := providers.NewHookManager(providers.Hook{
		Name: "test", Events: []providers.HookEvent{providers.EventConnect, providers.EventNotification},
		After: func(_ context.Context, i *providers.HookInfo) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprint(i.Event, " ", i.Name, " ", i.PID, " ", i.Err))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := openPool(t, providers.Config{Hooks: hooks})
	l := openListen(t, p)
	mustListen(t, l, "a")
	if err := l.Exec(t.Context(), `notify a`); err != nil {
		t.Fatal(err)
	}
	if _, err := l.WaitForNotification(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	want := []string{fmt.Sprintf("connect  %d <nil>", l.PID()), fmt.Sprintf("notification a %d <nil>", l.PID())}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("saw %q, want %q", seen, want)
	}
}

func TestListenUsesThePoolsConfiguration(t *testing.T) {
	tracer := &countingTracer{}
	fail := false
	p := openPool(t, providers.Config{
		Tracer: tracer, StatementTimeout: 1234 * time.Millisecond,
		AfterConnect: func(ctx context.Context, conn *pgx.Conn) error {
			if fail {
				return errors.New("not today")
			}
			_, err := conn.Exec(ctx, `set application_name = 'prepared'`)
			return err
		},
	})
	l := openListen(t, p)
	if err := l.Exec(t.Context(), `do $$ begin
		if current_setting('statement_timeout') <> '1234ms' or current_setting('application_name') <> 'prepared' then
			raise exception 'another configuration';
		end if; end $$`); err != nil {
		t.Error(err)
	}
	if tracer.connects == 0 {
		t.Error("the user's tracer saw no connect")
	}
	fail = true
	if _, err := p.Listen(t.Context(), providers.ListenOptions{}); err == nil || !strings.Contains(err.Error(), "AfterConnect: not today") {
		t.Errorf("the error is %v", err)
	}
}

type countingTracer struct{ connects int }

func (*countingTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (*countingTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (*countingTracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return ctx
}

func (c *countingTracer) TraceConnectEnd(context.Context, pgx.TraceConnectEndData) { c.connects++ }

func TestListenThatCannotConnect(t *testing.T) {
	const secret = "s3cr3t-word"
	for name, tc := range map[string]struct {
		address string
		timeout bool
	}{
		"nobody there": {closedPort(t), false},
		"refused":      {refusing(t, "28P01", "no"), false},
		"no answer":    {silent(t), true},
	} {
		t.Run(name, func(t *testing.T) {
			p := openPool(t, providers.Config{DSN: "postgres://u:" + secret + "@" + tc.address + "/db?sslmode=disable"})
			limit := patience // for an answer
			if tc.timeout {
				limit = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := p.Listen(ctx, providers.ListenOptions{})
			if !errors.Is(err, providers.ErrUnreachable) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Errorf("the error is %v", err)
			}
			if strings.Contains(err.Error(), providers.OutcomeUnknown.String()) {
				t.Errorf("nothing was sent, and the text is in doubt: %v", err)
			}
			if strings.Contains(fmt.Sprintf("%v %+v", err, err), secret) {
				t.Errorf("the password is in %v", err)
			}
			var timeout *providers.TimeoutError
			if errors.As(err, &timeout) != tc.timeout {
				t.Errorf("a timeout? %v", err)
			}
		})
	}
	t.Run("no place for another attempt", func(t *testing.T) {
		p := openPool(t, providers.Config{MaxDials: 1, DSN: "postgres://u@" + silent(t) + "/db?sslmode=disable"})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if _, err := p.Listen(ctx, providers.ListenOptions{}); !errors.Is(err, providers.ErrUnreachable) {
					t.Errorf("the error is %v", err)
				}
			})
		}
		both.Wait()
		if len(p.dials) != 0 {
			t.Error("a place was not given back")
		}
	})
	t.Run("while the pool closes", func(t *testing.T) {
		p, err := Open(t.Context(), providers.Config{DSN: "postgres://u@" + silent(t) + "/db?sslmode=disable", MaxDials: 1})
		if err != nil {
			t.Fatal(err)
		}
		p.dials <- struct{}{}
		failed := make(chan error, 1)
		go func() {
			_, err := p.Listen(t.Context(), providers.ListenOptions{})
			failed <- err
		}()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-failed; !errors.Is(err, providers.ErrPoolClosed) {
			t.Errorf("the error is %v", err)
		}
	})
}

// Through PgBouncer in transaction mode LISTEN is heard by whoever has the
// session next.
func TestTrap17ListenNeedsTheServersOwnAddress(t *testing.T) {
	dsn := pgtest.NewDB(t)
	p := openPool(t, providers.Config{DSN: dsn, Profile: providers.ProfilePgBouncer})
	_, err := p.Listen(t.Context(), providers.ListenOptions{})
	var fault *providers.ConfigError
	if !errors.As(err, &fault) || fault.Field != "ListenOptions.DSN" {
		t.Errorf("the error is %v", err)
	}
	if _, err = p.Listen(t.Context(), providers.ListenOptions{DSN: "host='"}); !errors.As(err, &fault) {
		t.Errorf("the error is %v", err)
	}
	l, err := p.Listen(t.Context(), providers.ListenOptions{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	mustListen(t, l, "a")
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestListenGoesToThePrimary(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Standbys: 1})
	standby := c.Standbys()[0].DSN("")
	both := withAddress(t, standby, fmt.Sprintf("127.0.0.1:%d,127.0.0.1:%d", c.Standbys()[0].Port(), c.Primary().Port()))
	p := openPool(t, providers.Config{DSN: both})
	if !value[bool](t, p, `select pg_is_in_recovery()`) {
		t.Fatal("the pool should have taken the first host")
	}
	l := openListen(t, p)
	mustListen(t, l, "a")

	alone := openPool(t, providers.Config{DSN: standby})
	if _, err := alone.Listen(t.Context(), providers.ListenOptions{}); !errors.Is(err, providers.ErrUnreachable) || !strings.Contains(err.Error(), "standby") {
		t.Errorf("the error is %v", err)
	}
}
