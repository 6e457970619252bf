package stdsql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// driverConnector is the connector of a driver that is known by name.
func driverConnector(name, dsn string) (driver.Connector, error) {
	db, err := sql.Open(name, dsn)
	if err != nil {
		return nil, err
	}
	d := db.Driver()
	_ = db.Close() // it has no connections
	if with, ok := d.(driver.DriverContext); ok {
		return with.OpenConnector(dsn)
	}
	return dsnConnector{d, dsn}, nil
}

// dsnConnector is the connector of a driver that has none.
type dsnConnector struct {
	driver driver.Driver
	dsn    string
}

// Connect makes a connection.
func (c dsnConnector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }

// Driver is the driver.
func (c dsnConnector) Driver() driver.Driver { return c.driver }

// connector watches the making of connections, and readies them.
type connector struct {
	driver.Connector

	pool    *Pool
	timeout time.Duration
}

// Connect makes a connection and runs the warm-up queries on it.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	p := c.pool
	ctx, f := p.startHook(ctx, providers.EventConnect, "")
	p.dialing.Add(1)
	defer p.dialing.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	conn, err := c.connect(ctx)
	err = p.dialed(err)
	if err == nil {
		pid, _ := about(conn)
		f.SetPID(pid)
	}
	f.End(0, err)
	return conn, err
}

func (c *connector) connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	for i, q := range c.pool.cfg.Pool.WarmupQueries {
		if err := execDriver(ctx, conn, q); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("warm-up query %d: %w", i, err)
		}
	}
	c.pool.trust(conn)
	return conn, nil
}

// execDriver runs a statement before there is a database/sql connection.
func execDriver(ctx context.Context, conn driver.Conn, query string) error {
	execer, ok := conn.(driver.ExecerContext)
	if !ok {
		return errors.New("the driver runs no statement without preparing it")
	}
	_, err := execer.ExecContext(ctx, query, nil)
	return err
}
