package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/pgtest"
)

const (
	// connectTimeout bounds the first connection, the one that finds out
	// whether the database is there at all.
	connectTimeout = 10 * time.Second
	// cleanUpTimeout bounds what is done after an interrupt.
	cleanUpTimeout = 15 * time.Second
)

// database is where the scenarios run: a schema in the user's database, or in
// a cluster of our own.
type database struct {
	dsn     string
	schema  string
	version string
	cluster *pgtest.Cluster // nil on the user's database
}

// openDatabase makes the schema, in a new cluster if dsn is empty.
func openDatabase(ctx context.Context, dsn string, progress io.Writer) (*database, error) {
	d := &database{dsn: dsn, schema: "pgkeel_bench_" + strings.ToLower(rand.Text()[:10])}
	if dsn == "" {
		fmt.Fprintln(progress, "pgkeel bench: starting a PostgreSQL of its own (-dsn uses yours)")
		cluster, err := pgtest.Start(ctx, pgtest.Options{Settings: map[string]string{
			"autovacuum": "off", // it would run in somebody's turn
		}})
		if err != nil {
			return nil, fmt.Errorf("no database: give one with -dsn, or install PostgreSQL: %w", err)
		}
		d.cluster, d.dsn = cluster, cluster.Primary().DSN("")
	}
	if err := d.admin(ctx, d.create); err != nil {
		return nil, errors.Join(err, d.close(ctx))
	}
	return d, nil
}

func (d *database) create(ctx context.Context, conn *pgx.Conn, _ string) error {
	d.version = conn.PgConn().ParameterStatus("server_version")
	if _, err := conn.Exec(ctx, "create schema "+pgx.Identifier{d.schema}.Sanitize()); err != nil {
		return fmt.Errorf("create schema %s, where the benchmark keeps its tables: %w", d.schema, err)
	}
	return nil
}

// admin runs fn on a connection of its own, which takes no part in the
// measuring.
func (d *database) admin(ctx context.Context, fn SetupFunc) error {
	// The pool's parser, since a DSN for pools has keywords that a single
	// connection would send to the server.
	config, err := pgxpool.ParseConfig(d.dsn)
	if err != nil {
		return fmt.Errorf("-dsn: %w", err)
	}
	connecting, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(connecting, config.ConnConfig)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return fn(ctx, conn, d.schema)
}

// standby returns the DSN of a standby that has all that was set up. It starts one if
// there is none.
func (d *database) standby(ctx context.Context) (string, error) {
	if len(d.cluster.Standbys()) == 0 {
		if _, err := d.cluster.AddStandby(ctx); err != nil {
			return "", err
		}
	}
	if err := d.cluster.WaitCaughtUp(ctx); err != nil {
		return "", err
	}
	return d.cluster.Standbys()[0].DSN(""), nil
}

// keepApart gives this process and the servers of a site processors of their own, if
// the scenario wants it and the servers are the benchmark's. An error says why they
// are shared all the same; there is an undo in any case.
func (d *database) keepApart(ctx context.Context, sc Scenario, site Site) (undo func() error, err error) {
	nothing := func() error { return nil }
	if !sc.Apart || d.cluster == nil {
		return nothing, nil
	}
	var servers []int
	for _, dsn := range []string{site.DSN, site.Standby} {
		if dsn == "" {
			continue
		}
		pid, err := postmaster(ctx, dsn)
		if err != nil {
			return nothing, fmt.Errorf("the server's process: %w", err)
		}
		servers = append(servers, pid)
	}
	if undo, err = keepApart(servers); err != nil {
		return nothing, err
	}
	return undo, nil
}

// postmaster asks a server on this machine for its main process.
func postmaster(ctx context.Context, dsn string) (pid int, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	err = conn.QueryRow(ctx, `select split_part(pg_read_file('postmaster.pid'), E'\n', 1)::int`).Scan(&pid)
	return pid, err
}

// close leaves nothing behind, also when ctx has ended.
func (d *database) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	if d.cluster != nil {
		return d.cluster.Close(ctx) // and the schema with it
	}
	if d.version == "" {
		return nil // never connected, so nothing was made
	}
	err := d.admin(ctx, func(ctx context.Context, conn *pgx.Conn, schema string) error {
		_, err := conn.Exec(ctx, "drop schema if exists "+pgx.Identifier{schema}.Sanitize()+" cascade")
		return err
	})
	if err != nil {
		return fmt.Errorf("the schema %s may be left behind; drop it: %w", d.schema, err)
	}
	return nil
}
