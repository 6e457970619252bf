package providertest

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

var poolTests = []test{
	{name: "Open", run: testOpen},
	{name: "Exhausted", run: testExhausted},
	{name: "Unreachable", run: testUnreachable},
	{name: "SilentServer", run: testSilentServer},
	{name: "Waiting", run: testWaiting},
	{name: "NestedAcquire", run: testNestedAcquire},
	{name: "ManyAtOnce", run: testManyAtOnce},
	{name: "Ping", run: testPing},
	{name: "Reset", run: testReset, session: true},
	{name: "Close", run: testClose},
	{name: "CloseWaits", run: testCloseWaits},
	{name: "CloseEndsHolders", run: testCloseEndsHolders},
	{name: "CloseEndsWaiters", run: testCloseEndsWaiters},
}

func testOpen(t *testing.T, s suite) {
	var bad *providers.ConfigError
	cfg := s.config(t, -1)
	if _, err := s.Provider.Open(t.Context(), cfg); !errors.As(err, &bad) || bad.Field != "Pool.MaxSize" {
		t.Errorf("%v", err)
	}
	cfg = s.config(t, 4)
	cfg.Pool.InitialSize = 3
	p := s.openWith(t, cfg)
	if st := p.Stats(); st.Open < 3 || st.Idle < 3 || st.MaxSize != 4 || st.InUse != 0 {
		t.Errorf("Open returned before InitialSize was reached: %+v", st)
	}
	cfg.DSN = withAddress(t, cfg.DSN, nobody(t))
	if _, err := s.Provider.Open(t.Context(), cfg); !errors.Is(err, providers.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

func testExhausted(t *testing.T, s suite) {
	const limit = 250 * time.Millisecond // in which a slow machine connects
	cfg := s.config(t, 1)
	cfg.AcquireTimeout = limit
	p := s.openWith(t, cfg)
	c, err := p.Acquire(providers.WithCorrelationID(t.Context(), "the holder"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	_, beginErr := p.Begin(t.Context(), providers.TxOptions{})
	_, acquireErr := p.Acquire(t.Context())
	for what, err := range map[string]error{
		"acquire": acquireErr, "begin": beginErr, "exec": execError(t, p, "select 1"), "query": queryError(t.Context(), p, "select 1"),
		"row": p.QueryRow(t.Context(), "select 1").Scan(nil), "call": runExec(t, p, "select 1"), "ping": p.Ping(t.Context()),
	} {
		wantExhausted(t, what, err, "acquire timeout")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = p.Acquire(ctx)
	wantExhausted(t, "by the context", err, "context deadline")
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err = p.Acquire(ctx)
	wantOutcome(t, "called off", err, providers.OutcomeNotSent)
	if !errors.Is(err, context.Canceled) || errors.Is(err, providers.ErrPoolExhausted) {
		t.Errorf("called off: %v", err)
	}
	h := p.Stats().Waits
	if h.Count(providers.WaitExhausted) != 8 || h.Count(providers.WaitCanceled) != 1 || h.Total[providers.WaitExhausted] < 7*limit {
		t.Errorf("%+v", h)
	}
}

func wantExhausted(t testing.TB, what string, err error, limit string) {
	t.Helper()
	var exhausted *providers.ExhaustedError
	if !errors.As(err, &exhausted) || !errors.Is(err, providers.ErrPoolExhausted) || errors.Is(err, providers.ErrUnreachable) {
		t.Errorf("%s: %v (%T)", what, err, err)
		return
	}
	wantOutcome(t, what, err, providers.OutcomeNotSent)
	if exhausted.Limit != limit || exhausted.MaxSize != 1 || exhausted.Waiters < 1 || exhausted.Waited <= 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: %+v", what, exhausted)
	}
	if len(exhausted.Holders) != 1 || exhausted.Holders[0].CorrelationID != "the holder" || exhausted.Holders[0].Operation == "" || exhausted.Holders[0].Held <= 0 {
		t.Errorf("%s: holders %+v", what, exhausted.Holders)
	}
}

func testUnreachable(t *testing.T, s suite) {
	cfg := s.config(t, 1)
	cfg.DSN = withPassword(t, withAddress(t, cfg.DSN, nobody(t)), "hunter2")
	p := s.openWith(t, cfg)
	_, err := p.Acquire(t.Context())
	wantUnreachable(t, "acquire", err)
	wantUnreachable(t, "exec", execError(t, p, "select 1"))
	wantUnreachable(t, "call", runExec(t, p, "select 1", "app.x", "1"))
	_, err = p.Begin(t.Context(), providers.TxOptions{})
	wantUnreachable(t, "begin", err)
	if st := p.Stats(); st.InUse != 0 || st.ConnectErrors == 0 {
		t.Errorf("%+v", st)
	}
}

func wantUnreachable(t testing.TB, what string, err error) {
	t.Helper()
	var unreachable *providers.UnreachableError
	if !errors.As(err, &unreachable) || !errors.Is(err, providers.ErrUnreachable) || errors.Is(err, providers.ErrPoolExhausted) {
		t.Errorf("%s: %v (%T)", what, err, err)
		return
	}
	wantOutcome(t, what, err, providers.OutcomeNotSent)
	for e := error(unreachable); e != nil; e = errors.Unwrap(e) {
		if strings.Contains(e.Error(), "hunter2") {
			t.Errorf("%s: the password is in the text: %v", what, e)
		}
	}
}

func withPassword(t testing.TB, dsn, password string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String()
}

// A server that accepts and never answers is unreachable, for each caller that
// waits for it, and not a pool that is exhausted.
func testSilentServer(t *testing.T, s suite) {
	cfg := s.config(t, 1)
	cfg.DSN = withAddress(t, cfg.DSN, silent(t))
	cfg.AcquireTimeout = 100 * time.Millisecond
	p := s.openWith(t, cfg)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			start := time.Now()
			_, err := p.Acquire(t.Context())
			if !errors.Is(err, providers.ErrUnreachable) || errors.Is(err, providers.ErrPoolExhausted) {
				t.Errorf("%v (%T)", err, err)
			}
			if took := time.Since(start); took > patience/4 {
				t.Errorf("it took %s", took)
			}
		})
	}
	all.Wait()
}

func testWaiting(t *testing.T, s suite) {
	p := s.open(t, 1)
	c := acquire(t, p)
	var waiter sync.WaitGroup
	var err error
	waiter.Go(func() { _, err = p.Exec(t.Context(), "select 1") })
	eventually(t, "somebody waits", func() bool {
		st := p.Stats()
		return st.Waiters == 1 && st.OldestWait > 0
	})
	c.Release()
	waiter.Wait()
	st := p.Stats()
	if err != nil || st.Waiters != 0 || st.OldestWait != 0 || st.Waits.Count(providers.WaitAcquired) == 0 {
		t.Errorf("%v, %+v", err, st)
	}
}

// When all that hold a connection wait for another one, nobody ever will
// release. A mere wait is not that.
func testNestedAcquire(t *testing.T, s suite) {
	p := s.open(t, 1)
	c := acquire(t, p)
	_, err := p.Acquire(providers.WithHeld(t.Context(), p))
	wantOutcome(t, "nested", err, providers.OutcomeNotSent)
	if !errors.Is(err, providers.ErrNestedAcquire) {
		t.Error(err)
	}
	c.Release()
	p = s.open(t, 2)
	c = acquire(t, p)
	defer c.Release()
	nested, err := p.Acquire(providers.WithHeld(t.Context(), p))
	if err != nil {
		t.Fatalf("one of two was free: %v", err)
	}
	nested.Release()
}

func testManyAtOnce(t *testing.T, s suite) {
	p := s.open(t, 3)
	mustExec(t, p, table)
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() {
			for i := range 20 {
				if got := value[int](t, p, "select $1::int", i); got != i {
					t.Errorf("%d instead of %d", got, i)
				}
				mustExec(t, p, "insert into t values ($1)", i)
			}
		})
	}
	all.Wait()
	if n := traces(t, p); n != 240 {
		t.Errorf("%d of 240 rows", n)
	}
	if st := p.Stats(); st.Open > 3 || st.Acquires < 480 {
		t.Errorf("%+v", st)
	}
}

func testPing(t *testing.T, s suite) {
	p := s.open(t, 1)
	c := acquire(t, p)
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	wantOutcome(t, "dead", c.Ping(ended()), providers.OutcomeNotSent)
	c.Release()
	if err := p.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

const pid = "select pg_backend_pid()"

func testReset(t *testing.T, s suite) {
	p := s.open(t, 2)
	busy := acquire(t, p)
	old := map[int]bool{value[int](t, busy, pid): true, value[int](t, p, pid): true}
	p.Reset()
	if !old[value[int](t, busy, pid)] {
		t.Error("the reset took a connection from its borrower")
	}
	busy.Release()
	a, b := acquire(t, p), acquire(t, p)
	for _, c := range []providers.Conn{a, b} {
		if old[value[int](t, c, pid)] {
			t.Error("a connection survived the reset")
		}
		c.Release()
	}
}

// everyPoolUse uses a pool in each way there is.
func everyPoolUse(ctx context.Context, p providers.Pool) map[string]error {
	used := map[string]error{"ping": p.Ping(ctx)}
	for name, call := range everyCall {
		used[name] = call(ctx, p, "select 'x'")
	}
	_, used["acquire"] = p.Acquire(ctx)
	_, used["begin"] = p.Begin(ctx, providers.TxOptions{})
	return used
}

func testClose(t *testing.T, s suite) {
	p := s.open(t, 2)
	mustExec(t, p, "select 1")
	for range 2 {
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for what, err := range everyPoolUse(t.Context(), p) {
		wantOutcome(t, what, err, providers.OutcomeNotSent)
		if !errors.Is(err, providers.ErrPoolClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if st := p.Stats(); st.InUse != 0 || st.Waiters != 0 {
		t.Errorf("%+v", st)
	}
	p.Reset() // does nothing, and harms nothing
}

func testCloseWaits(t *testing.T, s suite) {
	p := s.open(t, 1)
	mustExec(t, p, table)
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	closed := make(chan error, 1)
	go func() { closed <- p.Close(context.WithoutCancel(t.Context())) }()
	eventually(t, "the intake stopped", func() bool { return errors.Is(p.Ping(t.Context()), providers.ErrPoolClosed) })
	mustExec(t, tx, "insert into t values (2)") // who holds one may finish
	select {
	case err := <-closed:
		t.Errorf("Close did not wait: %v", err)
	default:
	}
	commit(t, tx)
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func testCloseEndsHolders(t *testing.T, s suite) {
	p := s.open(t, 3)
	mustExec(t, p, table)
	c, err := p.Acquire(providers.WithCorrelationID(t.Context(), "c"))
	if err != nil {
		t.Fatal(err)
	}
	tx := begin(t, p, providers.TxOptions{})
	mustExec(t, tx, "insert into t values (1)")
	rows, err := p.Query(t.Context(), "select generate_series(1, 10000000)")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = p.Close(ctx)
	var forced *providers.CloseError
	if !errors.As(err, &forced) || len(forced.Holders) != 3 || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	names := ""
	for _, h := range forced.Holders {
		names += h.CorrelationID
	}
	if names != "c" {
		t.Errorf("%+v", forced.Holders)
	}
	if again := p.Close(t.Context()); !errors.Is(again, err) {
		t.Errorf("the second Close: %v", again)
	}
	for rows.Next() {
		continue
	}
	if rows.Err() == nil {
		t.Error("the rows went on to their end")
	}
	if err := tx.Commit(t.Context()); err == nil {
		t.Error("committed")
	}
	if err := c.Ping(t.Context()); err == nil {
		t.Error("the connection works")
	}
	c.Release()
	rows.Close()
}

func testCloseEndsWaiters(t *testing.T, s suite) {
	p := s.open(t, 1)
	c := acquire(t, p)
	waited := make(chan error, 1)
	go func() { waited <- p.Ping(t.Context()) }()
	eventually(t, "somebody waits", func() bool { return p.Stats().Waiters == 1 })
	closed := make(chan error, 1)
	go func() { closed <- p.Close(context.WithoutCancel(t.Context())) }()
	if err := <-waited; !errors.Is(err, providers.ErrPoolClosed) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("%v", err)
	}
	c.Release()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}
