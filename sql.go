package pgkeel

import (
	"database/sql"
	"database/sql/driver"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
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

func (h *sqlHandle) get(pool *pgxpool.Pool) *sql.DB {
	h.mu.Lock()
	db, closed := h.db, h.closed
	if db == nil {
		db = sql.OpenDB(sqlConnector{stdlib.GetPoolConnector(pool), h})
		db.SetMaxIdleConns(0) // the pool keeps them
		h.db = db
	}
	h.mu.Unlock()
	if closed {
		_ = db.Close()
	}
	return db
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
