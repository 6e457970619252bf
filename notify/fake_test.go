package notify

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// fakePool makes fake connections to a fake server.
type fakePool struct {
	mu sync.Mutex
	// refuse, if set, is asked before each attempt.
	refuse func(attempt int) error
	// onExec, if set, is asked before each statement.
	onExec   func(sql string) error
	attempts int
	dials    []time.Time
	opts     providers.ListenOptions
	conns    []*fakeConn
}

func (p *fakePool) Listen(ctx context.Context, opts providers.ListenOptions) (providers.ListenConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempts++
	p.dials = append(p.dials, time.Now())
	p.opts = opts
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if refuse, attempt := p.refuse, p.attempts; refuse != nil {
		p.mu.Unlock()
		err := refuse(attempt)
		p.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
	c := &fakeConn{
		pool: p, pid: uint32(len(p.conns) + 1), broken: make(chan struct{}), listening: map[string]bool{},
		arrived: make(chan *pgconn.Notification, 10_000),
	}
	p.conns = append(p.conns, c)
	return c, nil
}

// refusing has attempts to connect ask fn, answering statements.
func (p *fakePool) refusing(fn func(attempt int) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = fn
}

func (p *fakePool) answering(fn func(sql string) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onExec = fn
}

// made is how many connections were made.
func (p *fakePool) made() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// last is the newest connection.
func (p *fakePool) last() *fakeConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns[len(p.conns)-1]
}

func (p *fakePool) dialed() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.dials)
}

// fakeConn is a fake connection.
type fakeConn struct {
	pool    *fakePool
	pid     uint32
	arrived chan *pgconn.Notification
	broken  chan struct{}

	mu        sync.Mutex
	err       error
	silent    bool
	pings     []time.Time
	log       []string
	listening map[string]bool
	closed    int
}

var errBroken = errors.New("broken pipe")

// fail breaks the connection.
func (c *fakeConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.broken)
	}
}

// hole swallows everything from now on.
func (c *fakeConn) hole() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.silent = true
}

func (c *fakeConn) state() (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.silent, c.err
}

// send delivers to the connection what it listens to.
func (c *fakeConn) send(channel, payload string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listening[channel] && c.err == nil && !c.silent {
		c.arrived <- &pgconn.Notification{PID: 7, Channel: channel, Payload: payload}
	}
}

func (c *fakeConn) Exec(ctx context.Context, sql string) error {
	silent, err := c.state()
	if err != nil {
		return err
	}
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	c.pool.mu.Lock()
	ask := c.pool.onExec
	c.pool.mu.Unlock()
	if ask != nil {
		if err := ask(sql); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for st := range strings.SplitSeq(strings.TrimSuffix(sql, ";"), ";") {
		c.log = append(c.log, st)
		verb, name, _ := strings.Cut(st, " ")
		c.listening[strings.Trim(name, `"`)] = verb == "listen"
	}
	return nil
}

func (c *fakeConn) WaitForNotification(ctx context.Context) (*pgconn.Notification, error) {
	select {
	case n := <-c.arrived:
		return n, nil
	default:
	}
	select {
	case n := <-c.arrived:
		return n, nil
	case <-c.broken:
		_, err := c.state()
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *fakeConn) Ping(ctx context.Context) error {
	c.mu.Lock()
	c.pings = append(c.pings, time.Now())
	c.mu.Unlock()
	silent, err := c.state()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (c *fakeConn) pinged() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pings)
}

func (c *fakeConn) closes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func (c *fakeConn) PID() uint32 { return c.pid }

func (c *fakeConn) Close(context.Context) error {
	c.fail(errBroken)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed++
	return nil
}

func (c *fakeConn) statements() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.log)
}

// logBuffer collects what is logged.
type logBuffer struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// newListener makes a listener on a fake pool.
func newListener(t testing.TB, p *fakePool, o Options) *Listener {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet()
	}
	l, err := New(p, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// startListener starts one; close it.
func startListener(t testing.TB, p *fakePool, o Options) *Listener {
	t.Helper()
	l := newListener(t, p, o)
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

func closeListener(t testing.TB, l *Listener) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Error(err)
	}
}

func subscribe(t testing.TB, l *Listener, channel string, q ...Queue) *Subscription {
	t.Helper()
	s, err := l.Subscribe(t.Context(), channel, q...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// patience is how long a condition may take on a slow machine.
const patience = 30 * time.Second

// next is the next event, which must come.
func next(t testing.TB, s *Subscription) Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, err := s.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// wantMessage takes the next event, which must be that message.
func wantMessage(t testing.TB, s *Subscription, payload string) {
	t.Helper()
	if e := next(t, s); e.Kind != Message || e.Payload != payload {
		t.Fatalf("got %+v, want the message %q", e, payload)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("it never came true: %s", what)
		}
	}
}
