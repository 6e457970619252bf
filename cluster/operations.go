package cluster

import (
	"context"
	"errors"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
)

// Query runs sql on the primary or, if the context declares it to only read, on a
// replica.
func (c *Cluster) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return c.query(ctx, sql, args, nil)
}

// QueryRow runs sql as Query does and returns its first row. Errors wait for Scan.
func (c *Cluster) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	r := &row{sql: sql, args: args}
	r.statement(ctx, c)
	r.send()
	return r
}

// Exec runs sql as Query does.
func (c *Cluster) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	var t trip
	t.statement(ctx, c)
	for {
		on, pool, placeErr := t.place()
		if placeErr != nil {
			return tag, placeErr
		}
		tag, err = pool.Exec(on, sql, args...)
		if t.ended(&err) {
			return tag, err
		}
	}
}

// ended reports whether the operation is over, as it succeeded or is not to be tried
// again.
func (t *trip) ended(err *error) bool {
	t.answered()
	if *err == nil {
		t.leave()
		return true
	}
	return !t.again(err)
}

// Run executes a call as Query does.
func (c *Cluster) Run(ctx context.Context, call *providers.Call) error {
	if call.Kind == providers.CallQuery {
		rows, err := c.query(ctx, call.SQL, call.Args, call.Scope)
		call.Rows = rows
		return err
	}
	var t trip
	t.statement(ctx, c)
	for {
		on, pool, err := t.place()
		if err != nil {
			return err
		}
		err = pool.Run(on, call)
		if t.ended(&err) {
			return err
		}
	}
}

// travel takes an operation to one server after the other until it succeeds.
func travel[T any](t *trip, do func(ctx context.Context, pool providers.Pool) (T, error)) (result T, err error) {
	for {
		ctx, pool, placeErr := t.place()
		if placeErr != nil {
			return result, placeErr
		}
		result, err = do(ctx, pool)
		if t.ended(&err) {
			return result, err
		}
	}
}

// Begin starts a transaction on the primary or, if it only reads, on a replica. A
// serializable one goes to the primary in any case, as a replica has none.
func (c *Cluster) Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	t := trip{harmless: true}
	t.begin(ctx, c)
	if opts.Access == providers.AccessDefault && intentOf(ctx).place == replicaFirst {
		opts.Access = providers.ReadOnly
	}
	if opts.Access == providers.ReadOnly && opts.Isolation != providers.Serializable {
		t.read()
	}
	return travel(&t, func(ctx context.Context, pool providers.Pool) (providers.Tx, error) { return pool.Begin(ctx, opts) })
}

// BeginWith starts a transaction on the primary together with its first statement.
func (c *Cluster) BeginWith(ctx context.Context, opts providers.TxOptions, first providers.Statement) (providers.Tx, error) {
	starter, ok := c.writer.(providers.Starter)
	if !ok {
		return nil, unsupported("BeginWith")
	}
	t := trip{harmless: true} // as long as nothing is committed
	t.begin(ctx, c)
	return travel(&t, func(ctx context.Context, _ providers.Pool) (providers.Tx, error) {
		return starter.BeginWith(ctx, opts, first)
	})
}

// Acquire takes a connection to the primary or, if the context declares to only
// read, to a replica. With a session in the context it is the primary's, as nobody
// can tell what will have been written by the time that the connection is used.
func (c *Cluster) Acquire(ctx context.Context) (providers.Conn, error) {
	t := c.borrowing(ctx)
	return travel(&t, func(ctx context.Context, pool providers.Pool) (providers.Conn, error) { return pool.Acquire(ctx) })
}

// borrowing is the trip to a connection.
func (c *Cluster) borrowing(ctx context.Context) trip {
	t := trip{harmless: true}
	t.begin(ctx, c)
	if providers.IsReadOnly(ctx) && SessionOf(ctx) == nil {
		t.read()
	}
	return t
}

// SendBatch sends a batch to where Acquire goes.
func (c *Cluster) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	conn, err := c.Acquire(ctx)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	batcher, ok := conn.(providers.Batcher)
	if !ok {
		conn.Release()
		return pgx.FailedBatchResults(b, unsupported("SendBatch"))
	}
	return &results{batcher.SendBatch(ctx, b), conn}
}

// results give their connection back with their end.
type results struct {
	pgx.BatchResults

	conn providers.Conn
}

// Close ends the results.
func (r *results) Close() error {
	defer r.conn.Release()
	return r.BatchResults.Close()
}

// RunBatch runs a stream of statements where Acquire goes.
func (c *Cluster) RunBatch(ctx context.Context, call *providers.BatchCall) error {
	conn, err := c.Acquire(ctx)
	if err == nil {
		defer conn.Release()
		if runner, ok := conn.(providers.BatchRunner); ok {
			return runner.RunBatch(ctx, call)
		}
		err = unsupported("RunBatch")
	}
	call.Report.Fail(&providers.BatchError{Operation: providers.BatchConnection, Result: providers.OutcomeNotSent, Err: err})
	return call.Report.Err()
}

// CopyFrom loads rows into the primary.
func (c *Cluster) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	conn, err := c.Acquire(OnPrimary(ctx))
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	copier, ok := conn.(providers.Copier)
	if !ok {
		return 0, unsupported("CopyFrom")
	}
	return copier.CopyFrom(ctx, table, columns, src)
}

// CopyFromReader loads data into the primary. See [providers.RawCopier].
func (c *Cluster) CopyFromReader(ctx context.Context, src io.Reader, sql string) (pgconn.CommandTag, error) {
	return c.rawCopy(OnPrimary(ctx), "CopyFromReader", func(copier providers.RawCopier) (pgconn.CommandTag, error) {
		return copier.CopyFromReader(ctx, src, sql)
	})
}

// CopyToWriter copies data out of where Acquire goes. See [providers.RawCopier].
func (c *Cluster) CopyToWriter(ctx context.Context, dst io.Writer, sql string) (pgconn.CommandTag, error) {
	return c.rawCopy(ctx, "CopyToWriter", func(copier providers.RawCopier) (pgconn.CommandTag, error) {
		return copier.CopyToWriter(ctx, dst, sql)
	})
}

func (c *Cluster) rawCopy(ctx context.Context, name string, do func(providers.RawCopier) (pgconn.CommandTag, error)) (pgconn.CommandTag, error) {
	conn, err := c.Acquire(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer conn.Release()
	copier, ok := conn.(providers.RawCopier)
	if !ok {
		return pgconn.CommandTag{}, unsupported(name)
	}
	return do(copier)
}

// Ping makes one round trip where Acquire goes.
func (c *Cluster) Ping(ctx context.Context) error {
	t := c.borrowing(ctx)
	_, err := travel(&t, func(ctx context.Context, pool providers.Pool) (struct{}, error) { return struct{}{}, pool.Ping(ctx) })
	return err
}

// Listen opens a connection for LISTEN to the primary.
func (c *Cluster) Listen(ctx context.Context, opts providers.ListenOptions) (providers.ListenConn, error) {
	listener, ok := c.writer.(providers.Listener)
	if !ok {
		return nil, unsupported("Listen")
	}
	return listener.Listen(ctx, opts)
}

// Primary returns the pool of the primary, which follows it from server to server.
func (c *Cluster) Primary() providers.Pool { return c.writer }

// Unwrap returns the pgx pool of the primary, which follows it from server to
// server. It is nil if the provider is not built on pgx.
func (c *Cluster) Unwrap() *pgxpool.Pool {
	if u, ok := c.writer.(providers.Unwrapper); ok {
		return u.Unwrap()
	}
	return nil
}

func unsupported(operation string) error {
	return refusef("%s: %w by this provider", operation, errors.ErrUnsupported)
}
