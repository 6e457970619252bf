package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// world is some servers, by the address that they are reached at.
type world struct {
	mu      sync.Mutex
	servers map[string]*fakeNode
	// open are the pools that are open, looks how many looks began, and most how many
	// ran on one pool at a time.
	open, looks, most int
}

// fakeNode is what a look at a server finds.
type fakeNode struct {
	standby   bool
	timeline  uint32
	position  providers.LSN
	receiving bool
	system    string
	started   int
	down      error         // why it cannot be looked at
	drops     int           // how many looks lose their connection
	hangs     bool          // until the context ends
	takes     time.Duration // a look
	looks     int
	resets    int
}

// newWorld has a primary at p:1 and standbys at a:1 and b:1.
func newWorld() *world {
	w := &world{servers: map[string]*fakeNode{}}
	for i, name := range []string{"p:1", "a:1", "b:1"} {
		w.servers[name] = &fakeNode{
			standby: i > 0, timeline: 1, position: 1000, receiving: i > 0, system: "one", started: i, takes: time.Millisecond,
		}
	}
	return w
}

// set changes servers, as one thing that happens.
func (w *world) set(change func(at map[string]*fakeNode)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w.servers)
}

// looksAt is how many looks at a server began.
func (w *world) looksAt(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.servers[name].looks
}

func (w *world) Open(_ context.Context, cfg providers.Config) (providers.Pool, error) {
	all, err := addresses(cfg.DSN)
	if err != nil || len(all) != 1 || cfg.Pool.MaxSize < 1 || cfg.Pool.MaxSize > 2 || cfg.Scope != nil || cfg.Route != nil {
		return nil, fmt.Errorf("%v: %w; %+v", all, err, cfg)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open++
	return &fakeProbe{world: w, address: all[0]}, nil
}

// fakeProbe is the pool that a server is looked at with.
type fakeProbe struct {
	providers.Pool
	world   *world
	address string
	running int
	closed  bool
}

func (p *fakeProbe) Close(context.Context) error {
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	if !p.closed {
		p.closed = true
		p.world.open--
	}
	return nil
}

func (p *fakeProbe) Reset() {
	p.world.set(func(at map[string]*fakeNode) { at[p.address].resets++ })
}

func (p *fakeProbe) QueryRow(ctx context.Context, _ string, _ ...any) pgx.Row {
	p.world.mu.Lock()
	s, ok := p.world.servers[p.address]
	if !ok {
		s = &fakeNode{down: errors.New("no such host"), takes: time.Millisecond}
	}
	s.looks++
	p.world.looks++
	p.running++
	p.world.most = max(p.world.most, p.running)
	takes := time.After(s.takes)
	if s.hangs {
		takes = nil
	}
	p.world.mu.Unlock()
	var err error
	select {
	case <-takes:
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	p.running--
	if err == nil && s.drops > 0 {
		s.drops--
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = s.down
	}
	return fakeLook{*s, err}
}

type fakeLook struct {
	fakeNode
	err error
}

func (l fakeLook) Scan(into ...any) error {
	if l.err != nil {
		return l.err
	}
	file, control := "", int64(l.timeline)
	if !l.standby {
		file, control = fmt.Sprintf("%08X", l.timeline), 1 // which is late
	}
	*into[0].(*bool) = l.standby
	*into[1].(*string) = file
	*into[2].(*int64) = control
	*into[3].(*string) = l.position.String()
	*into[4].(*bool) = l.receiving
	*into[5].(*string) = l.system
	*into[6].(*string) = fmt.Sprint(l.started)
	return nil
}

// record is a log, and what the monitor told.
type record struct {
	mu    sync.Mutex
	text  bytes.Buffer
	calls []string
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

// tell is a callback of the monitor.
func (r *record) tell(what string) func(*server) {
	return func(s *server) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.calls = append(r.calls, what+" "+s.Host().Address)
	}
}

// logged is how often the log has a text.
func (r *record) logged(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.text.String(), text)
}

// heard is what the monitor told, since the last time.
func (r *record) heard() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := strings.Join(r.calls, ", ")
	r.calls = nil
	return told
}

// told is the same, without an end to it.
func (r *record) told() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

const fakeDSN = "postgres://u:geheim@p:1,a:1,b:1/db"

// newFakeMonitor is a monitor of the world that was not started yet.
func newFakeMonitor(t *testing.T, w *world, dsn string, opts Options) (*monitor, *record) {
	t.Helper()
	r := &record{}
	m, err := newMonitor(providers.Config{DSN: dsn, Logger: slog.New(slog.NewTextHandler(r, nil))}, opts, w.Open)
	if err != nil {
		t.Fatal(err)
	}
	m.onWriterLost, m.onWriterSilent, m.onServerGone = r.tell("lost"), r.tell("silent"), r.tell("gone")
	return m, r
}

// inWorld runs a test of a monitor that was started, and closes it: then nothing is
// open, and no goroutine is left, which the bubble sees to.
func inWorld(t *testing.T, opts Options, test func(t *testing.T, w *world, m *monitor, r *record)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		m, r := newFakeMonitor(t, w, fakeDSN, opts)
		if err := m.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer func() {
			m.close()
			m.close()
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.open != 0 || w.most > 1 {
				t.Errorf("%d pools are open, and there were %d looks at a time", w.open, w.most)
			}
			if strings.Contains(r.text.String(), "geheim") {
				t.Error("the password is in the log")
			}
			if t.Failed() {
				t.Logf("log:\n%s", r.text.String())
			}
		}()
		expect(t, m, "p:1", "a:1 b:1")
		test(t, w, m, r)
	})
}

// expect compares the view.
func expect(t *testing.T, m *monitor, writer, replicas string) {
	t.Helper()
	v := m.view()
	got := ""
	if v.writer != nil {
		got = v.writer.Host().Address
	}
	if all := strings.Join(replicaNames(v), " "); got != writer || all != replicas {
		t.Errorf("the writer is %q, the replicas are %q; want %q and %q; known: %q", got, all, writer, replicas, m.known())
	}
}

func replicaNames(v *view) (names []string) {
	for _, s := range v.replicas {
		names = append(names, s.Host().Address)
	}
	return names
}

var (
	errRefused = errors.New("connection refused, password=geheim")
	errSlots   = &pgconn.PgError{Severity: "FATAL", Code: "53300", Message: "sorry, too many clients already"}
	errStarts  = &pgconn.PgError{Severity: "FATAL", Code: "57P03", Message: "the database system is starting up"}
)
