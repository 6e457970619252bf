package providertest

import (
	"context"
	"database/sql/driver"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

var gateTests = []test{
	{name: "HeldAsLongAsTheConnection", run: testGateHeld},
	{name: "Balance", run: testGateBalance},
	{name: "Panics", run: testGatePanics},
	{name: "Refuses", run: testGateRefuses},
	{name: "Waits", run: testGateWaits},
	{name: "NoConnection", run: testGateNoConnection},
	{name: "Forced", run: testGateForced},
	{name: "OfManyAtOnce", run: testGateMany},
}

// gate counts who is inside. It lets limit of them in, if that is not 0.
type gate struct {
	limit int
	full  chan struct{} // closed when one is refused or waits for room

	mu              sync.Mutex
	entered, inside int
	most            int
	room            chan struct{} // closed when one leaves
	once            sync.Once
}

func newGate(limit int) *gate {
	return &gate{limit: limit, full: make(chan struct{}), room: make(chan struct{})}
}

// Enter waits for room.
func (g *gate) Enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		if g.limit == 0 || g.inside < g.limit {
			g.entered++
			g.inside++
			g.most = max(g.most, g.inside)
			g.mu.Unlock()
			return nil
		}
		room := g.room
		g.mu.Unlock()
		g.once.Do(func() { close(g.full) })
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Leave makes room.
func (g *gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	close(g.room)
	g.room = make(chan struct{})
}

func (g *gate) counts() (entered, inside int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.entered, g.inside
}

// of is confineX through the gate.
func (g *gate) of(ctx context.Context) (providers.Scope, error) {
	scope, err := confineX(ctx)
	if err == nil && scope.Settings != nil {
		scope.Gate = g
	}
	return scope, err
}

// wantInside checks how many entered by now, and how many are inside.
func (g *gate) wantInside(t testing.TB, what string, entered, inside int) {
	t.Helper()
	if e, i := g.counts(); e != entered || i != inside {
		t.Errorf("%s: %d entered and %d are inside, want %d and %d", what, e, i, entered, inside)
	}
}

// wantEmpty waits until everybody left. What leaves twice never gets there.
func (g *gate) wantEmpty(t testing.TB) {
	t.Helper()
	eventually(t, "everybody left the gate", func() bool { _, inside := g.counts(); return inside == 0 })
}

// Whoever holds a connection is inside, once, whatever is done with it.
func testGateHeld(t *testing.T, s suite) {
	g := newGate(0)
	p := s.openConfined(t, 2, g.of)
	ctx := in(t.Context(), "a")
	wantSeen(ctx, t, p, "a")
	g.wantInside(t, "a query", 1, 0)

	rows, err := p.Query(ctx, "select generate_series(1, 3)")
	if err != nil {
		t.Fatal(err)
	}
	g.wantInside(t, "open rows", 2, 1)
	rows.Close()
	g.wantInside(t, "closed rows", 2, 0)

	c, err := p.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	wantSeen(ctx, t, c, "a")
	seenByTx(ctx, t, c, "a")
	g.wantInside(t, "a connection", 3, 1)
	c.Release()
	c.Release()
	g.wantInside(t, "a connection that is back", 3, 0)

	for _, end := range []func(providers.Tx, context.Context) error{providers.Tx.Commit, providers.Tx.Rollback} {
		tx, err := p.Begin(ctx, providers.TxOptions{})
		if err != nil {
			t.Fatal(err)
		}
		entered, _ := g.counts()
		for name, op := range operations(tx) {
			if err := op(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		g.wantInside(t, "a transaction", entered, 1)
		if err := end(tx, ctx); err != nil {
			t.Error(err)
		}
		g.wantInside(t, "its end", entered, 0)
	}
	wantSeen(in(t.Context(), free), t, p, "")
	g.wantInside(t, "what is not confined", 5, 0)
}

// Whatever goes well or wrong, who entered leaves, once.
func testGateBalance(t *testing.T, s suite) {
	g := newGate(0)
	p := s.openConfined(t, 2, g.of)
	ctx := in(t.Context(), "a")
	for name, op := range operations(p) {
		if err := op(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		g.wantEmpty(t)
		_ = op(in(ended(), "a"))
		late, cancel := expired()
		_ = op(in(late, "a"))
		cancel()
		g.wantEmpty(t)
	}
	if _, err := p.Exec(in(t.Context(), free), "alter table t add check (n <> 1) not valid"); err != nil {
		t.Fatal(err)
	}
	for name, op := range operations(p) {
		if op(ctx) == nil {
			t.Errorf("%s: no error", name)
		}
		g.wantEmpty(t)
	}
	soon, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := second(p.Exec(soon, "select pg_sleep(60)")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	tx := timedOut(ctx, t, p, func(providers.Tx) error { return nil })
	g.wantEmpty(t) // when its time is over
	wantExpired(t, "exec", second(tx.Exec(ctx, "select 1")))
	if entered, _ := g.counts(); entered == 0 {
		t.Error("nobody came through the gate")
	}
}

// panicky panics when it is made an argument, or scanned.
type panicky struct{}

func (panicky) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	panic("the application's own")
}
func (panicky) Scan(any) error { panic("the application's own") }

type panickyValue struct{}

func (panickyValue) Value() (driver.Value, error) { panic("the application's own") }

func testGatePanics(t *testing.T, s suite) {
	g := newGate(0)
	p := s.openConfined(t, 2, g.of)
	ctx := in(t.Context(), "a")
	for name, op := range map[string]func(q querier){
		"exec":      func(q querier) { _, _ = q.Exec(ctx, "select $1::text", panicky{}) },
		"query":     func(q querier) { _ = queryError(ctx, q, "select $1::text", panicky{}) },
		"value":     func(q querier) { _ = queryError(ctx, q, "select $1::text", panickyValue{}) },
		"query row": func(q querier) { _ = q.QueryRow(ctx, "select 'x'").Scan(&panicky{}) },
		"run": func(q querier) {
			_ = q.Run(ctx, scoped(providers.CallExec, "select $1::text", []any{panicky{}}, "app.y", "1"))
		},
	} {
		recovered(t, name, func() { op(p) })
		g.wantEmpty(t)
		recovered(t, name+" on a connection", func() {
			c, err := p.Acquire(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Release()
			op(c)
		})
		g.wantEmpty(t)
		recovered(t, name+" in a transaction", func() {
			tx, err := p.Begin(ctx, providers.TxOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = tx.Rollback(ctx) }()
			op(tx)
		})
		g.wantEmpty(t)
	}
	wantSeen(ctx, t, p, "a")
}

// recovered runs what panics.
func recovered(t testing.TB, what string, fn func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: the panic did not get through", what)
		}
	}()
	fn()
}

// errFull is what a gate of the suite refuses with.
var errFull = errors.New("no admission")

type closedGate struct{}

func (closedGate) Enter(context.Context) error { return errFull }
func (closedGate) Leave()                      { panic("one leaves who did not enter") }

func testGateRefuses(t *testing.T, s suite) {
	p := s.openConfined(t, 1, func(ctx context.Context) (providers.Scope, error) {
		scope, err := confineX(ctx)
		if scope.Settings != nil {
			scope.Gate = closedGate{}
		}
		return scope, err
	})
	for name, op := range operations(p) {
		err := op(in(t.Context(), "a"))
		wantOutcome(t, name, err, providers.OutcomeNotSent)
		if !errors.Is(err, errFull) {
			t.Errorf("%s: the reason is not in the chain of: %v", name, err)
		}
	}
	if n := p.Stats().Acquires; n != 0 {
		t.Errorf("%d connections were taken for nothing", n)
	}
	wantRowsOfA(in(t.Context(), free), t, p, 0)
}

// Who waits at the gate holds no connection, and leaves with its context.
func testGateWaits(t *testing.T, s suite) {
	g := newGate(1)
	p := s.openConfined(t, 2, g.of)
	ctx := in(t.Context(), "a")
	tx, err := p.Begin(ctx, providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	waiting, giveUp := context.WithCancel(ctx)
	failed, served := make(chan error, 1), make(chan error, 1)
	go func() { failed <- second(p.Exec(waiting, insertOne)) }()
	<-g.full
	go func() { served <- second(p.Exec(ctx, insertOne)) }()
	if st := p.Stats(); st.InUse != 1 {
		t.Errorf("%d connections are in use", st.InUse)
	}
	wantSeen(in(t.Context(), free), t, p, "") // the others have the rest
	giveUp()
	err = <-failed
	wantOutcome(t, "a wait that was called off", err, providers.OutcomeNotSent)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	commit(t, tx)
	if err := <-served; err != nil {
		t.Error(err)
	}
	g.wantEmpty(t)
	wantRowsOfA(in(t.Context(), free), t, p, 1)
}

// Who was admitted and gets no connection leaves as well.
func testGateNoConnection(t *testing.T, s suite) {
	g := newGate(0)
	cfg := s.config(t, 1)
	mustExec(t, s.openWith(t, cfg), scopeTable)
	cfg.Scope, cfg.AcquireTimeout = g.of, 20*time.Millisecond
	p := s.openWith(t, cfg)
	var c providers.Conn
	eventually(t, "a connection is made within the timeout", func() bool {
		var err error
		c, err = p.Acquire(in(t.Context(), free))
		return err == nil
	})
	for name, op := range operations(p) {
		err := op(in(t.Context(), "a"))
		wantOutcome(t, name, err, providers.OutcomeNotSent)
		if !errors.Is(err, providers.ErrPoolExhausted) {
			t.Errorf("%s: %v", name, err)
		}
		g.wantEmpty(t)
	}
	c.Release()
	if entered, _ := g.counts(); entered == 0 {
		t.Error("nobody came through the gate")
	}
}

// A connection that is taken from its borrower is back as well.
func testGateForced(t *testing.T, s suite) {
	g := newGate(0)
	p := s.openConfined(t, 3, g.of)
	ctx := in(t.Context(), "a")
	c, err := p.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := p.Begin(ctx, providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := p.Query(ctx, "select generate_series(1, 100)")
	if err != nil {
		t.Fatal(err)
	}
	var forced *providers.CloseError
	if err := p.Close(ended()); !errors.As(err, &forced) {
		t.Errorf("%v", err)
	}
	g.wantEmpty(t)
	rows.Close()
	_ = tx.Rollback(ctx)
	c.Release()
	g.wantInside(t, "what was given back once more", 3, 0)
}

func testGateMany(t *testing.T, s suite) {
	g := newGate(2)
	p := s.openConfined(t, 3, g.of)
	ctx := in(t.Context(), "a")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				wantSeen(ctx, t, p, "a")
				seenByConn(ctx, t, p, "a")
				seenByTx(ctx, t, p, "a")
			}
		})
	}
	all.Wait()
	g.wantInside(t, "all of them", 8*10*3, 0)
	if g.most > 2 {
		t.Errorf("%d at a time", g.most)
	}
}
