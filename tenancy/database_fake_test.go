package tenancy

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// world is where the connections of fake pools are counted.
type world struct {
	mu         sync.Mutex
	open, most int
	connects   int
	pools      map[string]*fakePool // the newest by DSN
	opened     int
	// connect and statement are what these take.
	connect, statement time.Duration
	refuse             func(dsn string) error // an Open
	configs            []providers.Config
}

func newWorld() *world {
	return &world{pools: map[string]*fakePool{}, connect: 5 * time.Millisecond, statement: time.Millisecond}
}

func (w *world) Open(_ context.Context, cfg providers.Config) (providers.Pool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		if err := w.refuse(cfg.DSN); err != nil {
			return nil, err
		}
	}
	p := &fakePool{world: w, cfg: cfg}
	w.pools[cfg.DSN] = p
	w.opened++
	w.configs = append(w.configs, cfg)
	return p, nil
}

func (w *world) pool(dsn string) *fakePool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pools[dsn]
}

func (w *world) count(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open += n
	w.most = max(w.most, w.open)
	w.connects += max(n, 0)
}

func (w *world) now() (open, most, connects int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open, w.most, w.connects
}

// noRows is a result without rows.
type noRows struct {
	pgx.Rows
	err error
}

func (noRows) Next() bool   { return false }
func (noRows) Close()       {}
func (r noRows) Err() error { return r.err }

// fakePool is a pool of connections to nowhere, which keeps to the contract of
// scopes and gates.
type fakePool struct {
	world *world
	cfg   providers.Config

	mu         sync.Mutex
	idle       int
	generation int
	inUse      int
	closed     bool
	down       error         // why connecting fails
	hang       bool          // connecting waits until the context ends
	drained    chan struct{} // closed when the last borrower of a closed pool has left
	attempts   int           // to connect
}

type fakeConn struct {
	pool       *fakePool
	generation int
	gate       providers.Gate
	began      []providers.Setting
	once       sync.Once
}

func (p *fakePool) set(change func(p *fakePool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *fakePool) borrow(ctx context.Context, scoped bool) (*fakeConn, error) {
	var scope providers.Scope
	var err error
	if scoped {
		if scope, err = p.cfg.Scope(ctx); err != nil {
			return nil, err
		}
	}
	if scope.Gate != nil {
		if err := scope.Gate.Enter(ctx); err != nil {
			return nil, err
		}
	}
	c, err := p.take(ctx)
	if err != nil {
		if scope.Gate != nil {
			scope.Gate.Leave()
		}
		return nil, err
	}
	c.gate, c.began = scope.Gate, scope.Settings
	return c, nil
}

func (p *fakePool) take(ctx context.Context) (*fakeConn, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, providers.ErrPoolClosed
	}
	c := &fakeConn{pool: p, generation: p.generation}
	p.inUse++
	if p.idle > 0 {
		p.idle--
		p.mu.Unlock()
		return c, nil
	}
	p.attempts++
	down, hang := p.down, p.hang
	p.mu.Unlock()
	if hang {
		<-ctx.Done()
		down = ctx.Err()
	} else {
		if down == nil {
			p.world.count(1)
		}
		<-time.After(p.world.connect)
	}
	if down != nil {
		p.left()
		return nil, &providers.UnreachableError{Err: down}
	}
	return c, nil
}

func (p *fakePool) left() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inUse--; p.inUse == 0 && p.drained != nil {
		close(p.drained)
		p.drained = nil
	}
}

func (c *fakeConn) giveBack() {
	c.once.Do(func() {
		p := c.pool
		p.mu.Lock()
		if p.closed || c.generation != p.generation {
			p.world.count(-1)
		} else {
			p.idle++
		}
		p.mu.Unlock()
		p.left()
		if c.gate != nil {
			c.gate.Leave()
		}
	})
}

func (p *fakePool) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation++
	p.drop()
}

func (p *fakePool) drop() {
	p.world.count(-p.idle)
	p.idle = 0
}

func (p *fakePool) Close(ctx context.Context) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	p.drop()
	var drained chan struct{}
	if p.inUse > 0 {
		drained = make(chan struct{})
		p.drained = drained
	}
	p.mu.Unlock()
	if drained == nil {
		return nil
	}
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return &providers.CloseError{Err: context.Cause(ctx)}
	}
}

// Exec takes the time of a statement, or until the context ends.
func (p *fakePool) Exec(ctx context.Context, _ string, _ ...any) (pgconn.CommandTag, error) {
	c, err := p.borrow(ctx, true)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer c.giveBack()
	return c.Exec(ctx, "")
}

func (c *fakeConn) Exec(ctx context.Context, _ string, _ ...any) (pgconn.CommandTag, error) {
	select {
	case <-time.After(c.pool.world.statement):
		return pgconn.NewCommandTag(c.pool.cfg.DSN), nil
	case <-ctx.Done():
		return pgconn.CommandTag{}, ctx.Err()
	}
}

func (p *fakePool) Acquire(ctx context.Context) (providers.Conn, error) {
	c, err := p.borrow(ctx, true)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (p *fakePool) Ping(ctx context.Context) error {
	c, err := p.borrow(ctx, false)
	if err != nil {
		return err
	}
	c.giveBack()
	return nil
}

func (p *fakePool) Stats() providers.PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return providers.PoolStats{
		MaxSize: p.cfg.Pool.MaxSize, Open: int32(p.idle + p.inUse), Idle: int32(p.idle), InUse: int32(p.inUse),
		Acquires: 1, HookPanics: 7,
	}
}

func (p *fakePool) Query(ctx context.Context, _ string, _ ...any) (pgx.Rows, error) {
	_, err := p.Exec(ctx, "")
	return noRows{err: err}, err
}

func (p *fakePool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := p.Query(ctx, sql, args...)
	return providers.FirstRow(rows)
}

func (p *fakePool) Run(ctx context.Context, call *providers.Call) (err error) {
	call.Tag, err = p.Exec(ctx, call.SQL)
	return err
}

func (p *fakePool) Begin(context.Context, providers.TxOptions) (providers.Tx, error) {
	return nil, pgx.ErrTxClosed
}

func (c *fakeConn) Query(ctx context.Context, sql string, _ ...any) (pgx.Rows, error) {
	_, err := c.Exec(ctx, sql)
	return noRows{err: err}, err
}

func (c *fakeConn) QueryRow(ctx context.Context, sql string, _ ...any) pgx.Row {
	rows, _ := c.Query(ctx, sql)
	return providers.FirstRow(rows)
}

func (c *fakeConn) Run(ctx context.Context, call *providers.Call) (err error) {
	call.Tag, err = c.Exec(ctx, call.SQL)
	return err
}

func (c *fakeConn) Begin(context.Context, providers.TxOptions) (providers.Tx, error) {
	return nil, pgx.ErrTxClosed
}
func (c *fakeConn) Ping(context.Context) error { return nil }
func (c *fakeConn) Release()                   { c.giveBack() }
