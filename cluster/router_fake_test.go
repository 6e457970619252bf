package cluster

import (
	"context"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// stage is a cluster of fake pools, and what the router is told of it.
type stage struct {
	*Cluster

	t     *testing.T
	pools map[string]*fakePool // by the name of the server, "primary" for the writer's
	names []string             // of the replicas

	mu       sync.Mutex
	now      *view
	visits   []string // where operations went
	troubles []string
	calls    int // of awaitNewer
	sought   int
}

const primaryName = "primary"

// newStage is a cluster of a primary and those replicas.
func newStage(t *testing.T, opts Options, replicas ...string) *stage {
	s := &stage{t: t, pools: map[string]*fakePool{}, names: replicas}
	v := &view{system: here, timeline: 1, newer: make(chan struct{}), writer: fakeServer(primaryName)}
	for _, name := range replicas {
		v.replicas = append(v.replicas, fakeServer(name))
	}
	s.now = v
	cfg := providers.Config{Logger: slog.New(slog.DiscardHandler), AcquireTimeout: 5 * time.Second}
	s.Cluster = newCluster(cfg, opts.withDefaults(), s.openPool, s)
	if err := s.openWriter(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func fakeServer(name string) *server {
	s := &server{Replica: newReplica(Host{Address: name}), dsn: name}
	now := time.Now()
	s.current.Store(&now)
	return s
}

func (s *stage) openPool(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
	name := primaryName
	if cfg.ReadOnly {
		name, _ = cfg.Route(ctx)
	}
	p := &fakePool{stage: s, name: name, cfg: cfg}
	s.pools[name] = p
	return p, nil
}

// pool is that of a server, which is opened if it is not.
func (s *stage) pool(name string) *fakePool {
	for _, r := range s.view().replicas {
		if r.dsn == name {
			s.poolOf(r)
		}
	}
	return s.pools[name]
}

// replace publishes another view.
func (s *stage) replace(change func(v *view)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.now
	next := *last
	next.newer = make(chan struct{})
	change(&next)
	s.now = &next
	close(last.newer)
}

func (s *stage) view() *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *stage) awaitWriter(ctx context.Context) (*server, error) {
	for {
		v := s.view()
		if v.writer != nil {
			return v.writer, nil
		}
		select {
		case <-v.newer:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *stage) awaitNewer(ctx context.Context, v *view) error {
	s.mu.Lock()
	s.calls++
	s.mu.Unlock()
	for {
		now := s.view()
		if now != v && now.writer != nil && !now.doubted {
			return nil
		}
		select {
		case <-now.newer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *stage) trouble(at *server, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.troubles = append(s.troubles, at.dsn+": "+err.Error())
}

func (s *stage) seek() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sought++
}

func (s *stage) known() []string { return []string{"a server: no answer"} }
func (s *stage) stats() Stats    { return Stats{Writer: "primary"} }
func (s *stage) close()          {}

func (s *stage) visit(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.visits = append(s.visits, name)
}

// went returns where operations went since it was asked last.
func (s *stage) went() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	visits := s.visits
	s.visits = nil
	return visits
}

// expect checks where operations went.
func (s *stage) expect(want ...string) {
	s.t.Helper()
	if got := s.went(); !slices.Equal(got, want) {
		s.t.Errorf("went to %q, not to %q", got, want)
	}
}

// inUse is what all replicas count.
func (s *stage) inUse() (n int64) {
	for _, r := range s.view().replicas {
		n += r.InUse()
	}
	return n
}

// reply is how a fake answers one operation.
type reply struct {
	err  error // at once
	rows int   // handed out before
	late error // ends them
	// during runs before the answer. Optional.
	during func()
}

// fakePool answers with its replies, one after the other, and then well: with one
// row.
type fakePool struct {
	stage *stage
	name  string
	cfg   providers.Config

	mu      sync.Mutex
	replies []reply
	always  *reply
	began   []providers.TxOptions
	calls   []providers.Call
	after   []providers.LSN
	at      providers.Position // what it notes
	evicted int
	resets  int
	closed  bool
	block   chan struct{} // Close waits for it
}

func (p *fakePool) say(replies ...reply) { p.replies = append(p.replies, replies...) }

func (p *fakePool) next(ctx context.Context) reply {
	p.stage.visit(p.name)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return reply{err: &providers.TimeoutError{Operation: "acquire", Err: &notSentError{err}, Context: err}}
	}
	if p.closed {
		return reply{err: providers.ErrPoolClosed}
	}
	c := providers.CausalityOf(ctx)
	if c != nil {
		p.after = append(p.after, c.After)
		if c.After > p.at.Replayed && p.at.Standby {
			return reply{err: providers.ErrBehind}
		}
	}
	answer := reply{rows: 1}
	switch {
	case len(p.replies) > 0:
		answer, p.replies = p.replies[0], p.replies[1:]
	case p.always != nil:
		answer = *p.always
	}
	if answer.during != nil {
		answer.during()
	}
	if c != nil && answer.err == nil && answer.late == nil {
		c.Note(p.at, p.at != providers.Position{})
	}
	return answer
}

func (p *fakePool) Query(ctx context.Context, _ string, _ ...any) (pgx.Rows, error) {
	r := p.next(ctx)
	if r.err != nil {
		return failedRows(r.err), r.err
	}
	return &fakeRows{name: p.name, left: r.rows, late: r.late}, nil
}

func (p *fakePool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := p.Query(ctx, sql, args...)
	return providers.FirstRow(rows)
}

func (p *fakePool) Exec(ctx context.Context, _ string, _ ...any) (pgconn.CommandTag, error) {
	r := p.next(ctx)
	return pgconn.NewCommandTag(p.name), r.err
}

func (p *fakePool) Run(ctx context.Context, call *providers.Call) (err error) {
	p.calls = append(p.calls, *call)
	if call.Kind == providers.CallExec {
		call.Tag, err = p.Exec(ctx, call.SQL)
	} else {
		call.Rows, err = p.Query(ctx, call.SQL)
	}
	return err
}

func (p *fakePool) Acquire(ctx context.Context) (providers.Conn, error) {
	if r := p.next(ctx); r.err != nil {
		return nil, r.err
	}
	return &fakeConn{pool: p}, nil
}

func (p *fakePool) Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	if r := p.next(ctx); r.err != nil {
		return nil, r.err
	}
	p.began = append(p.began, opts)
	return nil, nil
}

func (p *fakePool) BeginWith(ctx context.Context, opts providers.TxOptions, _ providers.Statement) (providers.Tx, error) {
	return p.Begin(ctx, opts)
}

func (p *fakePool) Ping(ctx context.Context) error { return p.next(ctx).err }

func (p *fakePool) Reset() { p.resets++ }

func (p *fakePool) Evict() { p.evicted++ }

func (p *fakePool) Stats() providers.PoolStats { return providers.PoolStats{Acquires: 1} }

func (p *fakePool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	block := p.block
	p.mu.Unlock()
	if block == nil {
		return nil
	}
	select {
	case <-block:
		return nil
	case <-ctx.Done():
		return &providers.CloseError{Err: context.Cause(ctx)}
	}
}

// fakeConn is a connection of a fake pool that can do everything.
type fakeConn struct {
	providers.Conn

	pool     *fakePool
	released bool
}

func (c *fakeConn) Release() { c.released = true }

func (c *fakeConn) SendBatch(context.Context, *pgx.Batch) pgx.BatchResults { return fakeResults{} }

func (c *fakeConn) RunBatch(context.Context, *providers.BatchCall) error { return nil }

func (c *fakeConn) CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error) {
	return 0, nil
}

func (c *fakeConn) CopyFromReader(context.Context, io.Reader, string) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, nil
}

func (c *fakeConn) CopyToWriter(context.Context, io.Writer, string) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, nil
}

type fakeResults struct{ pgx.BatchResults }

func (fakeResults) Close() error { return nil }

// fakeRows are a few rows, each of which is the name of the server.
type fakeRows struct {
	pgx.Rows

	name string
	left int
	late error
	err  error
}

func (r *fakeRows) Next() bool {
	if r.left == 0 {
		r.err = r.late
		return false
	}
	r.left--
	return true
}

func (r *fakeRows) Scan(dest ...any) error {
	*dest[0].(*string) = r.name
	return nil
}

func (r *fakeRows) Close() {
	for r.Next() {
	}
}

func (r *fakeRows) Err() error { return r.err }

// The errors that fakes answer with.
var (
	errUnreachable = &providers.UnreachableError{Err: &net.OpError{Op: "dial", Err: io.ErrClosedPipe}}
	errLost        = io.ErrUnexpectedEOF
	errReadOnly    = pgError("25006")
	errConflict    = pgError("40001")
	errUnique      = pgError("23505")
)

func pgError(code string) error {
	return providers.NewPGError(&pgconn.PgError{Code: code, Severity: "ERROR"})
}
