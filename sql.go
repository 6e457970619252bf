package pgkeel

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgkeel/pgkeel/providers"
)

// sqlHandle is the *sql.DB over the pool. There is one, since each has a
// goroutine of its own, which ends with the handle.
type sqlHandle struct {
	mu     sync.Mutex
	db     *sql.DB
	closed bool
}

// sqlConnector tells the handle when somebody closes its *sql.DB, as libraries
// like to do with what they are given: the next one to ask gets another.
type sqlConnector struct {
	driver.Connector
	handle *sqlHandle
}

// Close is called by the *sql.DB at its own.
func (c sqlConnector) Close() error {
	c.handle.mu.Lock()
	defer c.handle.mu.Unlock()
	if !c.handle.closed {
		c.handle.db = nil
	}
	return nil
}

func (h *sqlHandle) get(connector driver.Connector) *sql.DB {
	h.mu.Lock()
	db, closed := h.db, h.closed
	if db == nil {
		db = sql.OpenDB(sqlConnector{connector, h})
		db.SetMaxIdleConns(0) // the pool keeps them
		h.db = db
	}
	h.mu.Unlock()
	if closed {
		_ = db.Close()
	}
	return db
}

// router is a pool that is several, of which the context chooses one.
type router interface {
	PoolFor(ctx context.Context) (pool providers.Pool, release func(), err error)
}

// connectorOf connects to the pool, or to the one that the context chooses. It is
// nil where the pool is not built on pgx.
func connectorOf(pool providers.Pool) driver.Connector {
	switch p := pool.(type) {
	case providers.Unwrapper:
		if p.Unwrap() == nil {
			return nil
		}
		return stdlib.GetPoolConnector(p.Unwrap())
	case router:
		return routedConnector{p}
	default:
		return nil
	}
}

type routedConnector struct{ router }

// Connect takes a connection of the context's pool.
func (c routedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	pool, release, err := c.PoolFor(ctx)
	if err != nil {
		return nil, err
	}
	u, ok := pool.(providers.Unwrapper)
	if !ok {
		release()
		return nil, refusef("SQL: %w by this provider", errors.ErrUnsupported)
	}
	conn, err := stdlib.GetPoolConnector(u.Unwrap()).Connect(ctx)
	if err != nil {
		release()
		return nil, err
	}
	return &routedConn{conn.(*stdlib.Conn), release}, nil
}

// Driver is pgx's.
func (routedConnector) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// routedConn gives its place back with the connection.
type routedConn struct {
	*stdlib.Conn

	release func()
}

// Close gives the connection back to its pool.
func (c *routedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// close ends it. What it has under way is for the pool to wait for.
func (h *sqlHandle) close() {
	h.mu.Lock()
	db := h.db
	h.closed = true
	h.mu.Unlock()
	if db != nil {
		_ = db.Close() // it keeps nothing that could fail
	}
}
