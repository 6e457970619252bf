package tenancy

import (
	"context"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

var _ providers.Listener = (*Router)(nil)

// Listen opens a connection for LISTEN to the database of the context's tenant,
// or under [Bypass] to that of [AdminDSN]. It is one of [MaxConnections] for as
// long as it is open, and waits for its turn like any other. A tenant that moves
// away loses it, at the latest with its next Ping; package notify then connects
// again, where the tenant is by then.
//
// An address of its own is refused: it would be the same for all tenants.
func (r *Router) Listen(ctx context.Context, opts providers.ListenOptions) (providers.ListenConn, error) {
	if opts.DSN != "" {
		return nil, &providers.ConfigError{
			Field:   "ListenOptions.DSN",
			Problem: "is one address for all tenants; leave it empty, as the directory of tenancy.Database says where each one is",
		}
	}
	for {
		m, err := r.route(ctx)
		if err != nil {
			return nil, err
		}
		conn, err := r.listen(ctx, m, opts)
		r.budget.unpin(m.db)
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, errMoved) {
			return nil, err
		}
	}
}

// listen opens the connection at the member's database.
func (r *Router) listen(ctx context.Context, m *member, opts providers.ListenOptions) (*listenConn, error) {
	pool, ok := m.db.pool.(providers.Listener)
	if !ok {
		return nil, unsupported("Listen")
	}
	s := &listenSource{router: r, ended: make(chan struct{})}
	var cancel context.CancelFunc
	ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	s.open = func() (providers.ListenConn, error) { return pool.Listen(ctx, opts) }
	s.cancel = cancel
	place := r.placeFor(m, s)
	if err := r.enter(ctx, place); err != nil {
		cancel()
		r.budget.awaitProbe(place.db, s.ended)
		s.close(ended(ctx))
		r.giveUpPlace(m.db, place)
		return nil, err
	}
	c := &listenConn{ListenConn: s.conn, router: r, member: m}
	c.leave = sync.OnceFunc(func() { r.giveUpPlace(m.db, place) })
	return c, nil
}

// placeFor makes the connection known to the budget, as a database of its own of
// which there can be one: so it takes a permit as fairly as any, is only opened
// at a server that answers, and leaves the connections of the pool alone. The
// database itself stays open as long as there is one.
func (r *Router) placeFor(m *member, s *listenSource) *member {
	db := &database{router: r, dsn: m.db.dsn, pool: s}
	db.server = m.db.server
	r.budget.add(db)
	r.budget.listens(m.db, 1)
	return &member{budget: r.budget, db: db, tenant: m.tenant}
}

func (r *Router) giveUpPlace(db *database, place *member) {
	r.budget.listens(db, -1)
	r.budget.drop(place.db)
}

// listenSource is the pool that the budget sees: its first connection is the one
// for LISTEN.
type listenSource struct {
	providers.Pool // nil: nothing else is asked of it

	router *Router
	open   func() (providers.ListenConn, error)
	cancel context.CancelFunc
	// ended is closed when the attempt to connect has ended; conn and err are its.
	ended chan struct{}
	conn  providers.ListenConn
	once  sync.Once
}

// Ping opens the connection.
func (s *listenSource) Ping(ctx context.Context) (err error) {
	defer close(s.ended)
	defer context.AfterFunc(ctx, s.cancel)()
	s.conn, err = s.open()
	return s.router.listenEnded(err)
}

// Reset closes the connection, which nobody took.
func (s *listenSource) Reset() { s.close(ended(context.Background())) }

func (s *listenSource) close(ctx context.Context) {
	s.once.Do(func() {
		if s.conn != nil {
			_ = s.conn.Close(ctx)
		}
	})
}

// ended is a context that has ended: what gets it does not wait.
func ended(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

// listenEnded tells the end of one database's pool from that of the router.
func (r *Router) listenEnded(err error) error {
	if errors.Is(err, providers.ErrPoolClosed) && r.life.Err() == nil {
		return errMoved
	}
	return err
}

// listenConn is a connection for LISTEN that is part of the limit.
type listenConn struct {
	providers.ListenConn

	router *Router
	member *member
	leave  func()
}

// Exec runs statements such as LISTEN.
func (c *listenConn) Exec(ctx context.Context, sql string) error {
	return c.router.listenEnded(c.ListenConn.Exec(ctx, sql))
}

// WaitForNotification waits for the next notification.
func (c *listenConn) WaitForNotification(ctx context.Context) (*pgconn.Notification, error) {
	n, err := c.ListenConn.WaitForNotification(ctx)
	return n, c.router.listenEnded(err)
}

// Ping makes one round trip, and fails if the tenant has moved away: it may be
// the only one to ask.
func (c *listenConn) Ping(ctx context.Context) error {
	_, _ = c.router.dsnOf(ended(ctx), c.member.tenant) // only has a new answer fetched when it is time
	if !c.router.isAt(c.member) {
		return errMoved
	}
	return c.router.listenEnded(c.ListenConn.Ping(ctx))
}

// Close ends the connection, and its part of the limit.
func (c *listenConn) Close(ctx context.Context) error {
	defer c.leave()
	return c.ListenConn.Close(ctx)
}
