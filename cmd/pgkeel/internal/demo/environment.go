package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
)

// cleanUpTimeout bounds what is done at the end, also after an interrupt.
const cleanUpTimeout = 15 * time.Second

const (
	// poolSize is the size of the main handle's pool, callers how many use it
	// at once: more than there are connections, so that there are waits to see.
	poolSize = 8
	callers  = 16
	// appName is what the server knows the connections of the main handle by.
	appName = "pgkeel-demo"
)

// environment is what scenes work with.
type environment struct {
	out     *report
	cluster *pgtest.Cluster
	// db is the handle that the demo is about.
	db *pgkeel.DB
	// observer looks at the server from outside, on connections of its own.
	observer *pgkeel.DB
	// slice is how long the scene may work.
	slice time.Duration
	// places are the rows of the data set; the scene that loads them sets them.
	places []place

	events  tally
	timings timings
	handles []handle
	folder  string // where the primary keeps its data
	logger  *slog.Logger
}

// handle is an open handle, with a name for the table of pools.
type handle struct {
	name string
	db   *pgkeel.DB
}

// setUp starts the servers and opens the main handle.
func setUp(ctx context.Context, out *report, stderr io.Writer) (*environment, error) {
	out.line("starting a primary and a streaming replica …")
	begin := time.Now()
	cluster, err := pgtest.Start(ctx, pgtest.Options{Standbys: 1})
	switch {
	case ctx.Err() != nil && err != nil: // which says no more than that it was cut short
		return nil, fmt.Errorf("while the servers started: %w", context.Cause(ctx))
	case err != nil:
		return nil, fmt.Errorf("start the servers: %w", err)
	}
	e := &environment{out: out, cluster: cluster, logger: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	version, err := e.openHandles(ctx)
	if err != nil {
		e.takeDown(ctx)
		return nil, err
	}
	out.line("PostgreSQL %s · both up after %s · a pool of %d connections for %d callers",
		version, short(time.Since(begin)), poolSize, callers)
	return e, nil
}

// openHandles opens the handles and returns the server's version.
func (e *environment) openHandles(ctx context.Context) (version string, err error) {
	primary := e.cluster.Primary()
	e.observer, err = e.open(ctx, "", primary, appName+"-observer",
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 2}))
	if err != nil {
		return "", err
	}
	if e.folder, err = pgkeel.One[string](ctx, e.observer, `show data_directory`); err != nil {
		return "", err
	}
	if version, err = pgkeel.One[string](ctx, e.observer, `show server_version`); err != nil {
		return "", err
	}
	e.db, err = e.open(ctx, "primary", primary, appName,
		pgkeel.WithPool(pgkeel.PoolStrategy{MinSize: poolSize, MaxSize: poolSize}),
		pgkeel.WithHooks(e.events.hook()))
	return version, err
}

// open opens a handle on a node, which is closed at the end. One with a name
// is in the table of pools.
func (e *environment) open(ctx context.Context, name string, node *pgtest.Node, app string, options ...pgkeel.Option) (*pgkeel.DB, error) {
	return e.openAs(ctx, "", name, node, app, options...)
}

// openAs is open as a role of the database; empty is the cluster's own.
func (e *environment) openAs(ctx context.Context, role, name string, node *pgtest.Node, app string, options ...pgkeel.Option) (*pgkeel.DB, error) {
	dsn, err := withApplication(node.DSN(""), role, app)
	if err != nil {
		return nil, err
	}
	db, err := pgkeel.Open(ctx, dsn, append([]pgkeel.Option{pgkeel.WithLogger(e.logger)}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("open a handle on %s: %w", node.Name(), err)
	}
	e.handles = append(e.handles, handle{name, db})
	return db, nil
}

// withApplication adds an application_name to the URL of a node, and a role if
// there is one.
func withApplication(dsn, role, app string) (string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return "", fmt.Errorf("the address of a node: %w", err)
	}
	if role != "" {
		u.User = url.User(role)
	}
	q := u.Query()
	q.Set("application_name", app)
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// check notes something that must hold, unless an interrupt made it fail.
func (e *environment) check(ctx context.Context, ok bool, format string, args ...any) {
	if ctx.Err() == nil {
		e.out.check(ok, format, args...)
	}
}

// takeDown closes the handles, ends the servers, and checks that both left
// nothing behind.
func (e *environment) takeDown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	e.out.section("Shutdown")
	begin := time.Now()
	var errs []error
	for _, h := range e.handles {
		errs = append(errs, h.db.Close(ctx))
	}
	err := errors.Join(errs...)
	e.out.check(err == nil, "every handle closed with nothing left in use%s, in %s", because(err), short(time.Since(begin)))
	begin = time.Now()
	err = e.cluster.Close(ctx)
	if err == nil && e.folder != "" {
		err = gone(filepath.Dir(e.folder))
	}
	e.out.check(err == nil, "the servers ended and their folder is gone%s, in %s", because(err), short(time.Since(begin)))
}

// gone fails if a folder is still there.
func gone(folder string) error {
	_, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		return fmt.Errorf("%s is still there", folder)
	default:
		return err
	}
}

// because adds an error to the text of a check.
func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}
