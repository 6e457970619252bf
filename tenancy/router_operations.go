package tenancy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// failedRows are the rows of a query that never began.
func failedRows(err error) pgx.Rows {
	rows, _ := pgx.FailedBatchResults(&pgx.Batch{}, err).Query()
	return rows
}

// Query runs sql on the database of the context's tenant.
func (r *Router) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, err := routed(ctx, r, func(pool providers.Pool) (pgx.Rows, error) { return pool.Query(ctx, sql, args...) })
	if rows == nil {
		rows = failedRows(err)
	}
	return rows, err
}

// QueryRow runs sql on the database of the context's tenant and returns its first
// row. Errors wait for Scan.
func (r *Router) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := r.Query(ctx, sql, args...) // its error is the rows' own
	return providers.FirstRow(rows)
}

// Exec runs sql on the database of the context's tenant.
func (r *Router) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return routed(ctx, r, func(pool providers.Pool) (pgconn.CommandTag, error) { return pool.Exec(ctx, sql, args...) })
}

// Run executes a call on the database of the context's tenant.
func (r *Router) Run(ctx context.Context, call *providers.Call) error {
	_, err := routed(ctx, r, func(pool providers.Pool) (struct{}, error) { return struct{}{}, pool.Run(ctx, call) })
	return err
}

// Acquire takes a connection to the database of the context's tenant. A statement
// on it with a context of another tenant is refused.
func (r *Router) Acquire(ctx context.Context) (providers.Conn, error) {
	return routed(ctx, r, func(pool providers.Pool) (providers.Conn, error) { return pool.Acquire(ctx) })
}

// Begin starts a transaction on the database of the context's tenant. A statement
// in it with a context of another tenant is refused.
func (r *Router) Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	return routed(ctx, r, func(pool providers.Pool) (providers.Tx, error) { return pool.Begin(ctx, opts) })
}

// BeginWith starts a transaction on the database of the context's tenant together
// with its first statement. See [providers.Starter].
func (r *Router) BeginWith(ctx context.Context, opts providers.TxOptions, first providers.Statement) (providers.Tx, error) {
	return routed(ctx, r, func(pool providers.Pool) (providers.Tx, error) {
		starter, ok := pool.(providers.Starter)
		if !ok {
			return nil, unsupported("BeginWith")
		}
		return starter.BeginWith(ctx, opts, first)
	})
}

// SendBatch sends a batch to the database of the context's tenant.
func (r *Router) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	m, err := r.route(ctx)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	defer r.budget.unpin(m.db)
	batcher, ok := m.db.pool.(providers.Batcher)
	if !ok {
		return pgx.FailedBatchResults(b, unsupported("SendBatch"))
	}
	return batcher.SendBatch(ctx, b)
}

// RunBatch runs a stream of statements on the database of the context's tenant.
func (r *Router) RunBatch(ctx context.Context, call *providers.BatchCall) error {
	m, err := r.route(ctx)
	if err == nil {
		defer r.budget.unpin(m.db)
		if runner, ok := m.db.pool.(providers.BatchRunner); ok {
			return runner.RunBatch(ctx, call)
		}
		err = unsupported("RunBatch")
	}
	call.Report.Fail(&providers.BatchError{Operation: providers.BatchConnection, Result: providers.OutcomeNotSent, Err: err})
	return call.Report.Err()
}

// CopyFrom loads rows into the database of the context's tenant.
func (r *Router) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	return routed(ctx, r, func(pool providers.Pool) (int64, error) {
		copier, ok := pool.(providers.Copier)
		if !ok {
			return 0, unsupported("CopyFrom")
		}
		return copier.CopyFrom(ctx, table, columns, src)
	})
}

// CopyFromReader loads data into the database of the context's tenant. See
// [providers.RawCopier].
func (r *Router) CopyFromReader(ctx context.Context, src io.Reader, sql string) (pgconn.CommandTag, error) {
	return routed(ctx, r, func(pool providers.Pool) (pgconn.CommandTag, error) {
		copier, ok := pool.(providers.RawCopier)
		if !ok {
			return pgconn.CommandTag{}, unsupported("CopyFromReader")
		}
		return copier.CopyFromReader(ctx, src, sql)
	})
}

// CopyToWriter copies data out of the database of the context's tenant. See
// [providers.RawCopier].
func (r *Router) CopyToWriter(ctx context.Context, dst io.Writer, sql string) (pgconn.CommandTag, error) {
	return routed(ctx, r, func(pool providers.Pool) (pgconn.CommandTag, error) {
		copier, ok := pool.(providers.RawCopier)
		if !ok {
			return pgconn.CommandTag{}, unsupported("CopyToWriter")
		}
		return copier.CopyToWriter(ctx, dst, sql)
	})
}

func unsupported(operation string) error {
	return refusef("%s: %w by the provider of the tenant's database", operation, errors.ErrUnsupported)
}

// PoolFor returns the pool of the tenant's database together with the right to
// take one connection out of it, which ends when release is called. It is for
// those who need the pool itself, such as a driver for database/sql: what they
// take is then part of the limit. The pool refuses contexts of other tenants.
func (r *Router) PoolFor(ctx context.Context) (pool providers.Pool, release func(), err error) {
	var entered *member
	for entered == nil {
		m, err := r.route(ctx)
		if err != nil {
			return nil, nil, err
		}
		if err = r.enter(ctx, m.scope.Gate); err == nil {
			entered = m
		}
		r.budget.unpin(m.db)
		if err != nil && !errors.Is(err, errMoved) {
			return nil, nil, err
		}
	}
	return entered.db.pool, sync.OnceFunc(entered.scope.Gate.Leave), nil
}

// enter waits for a connection no longer than AcquireTimeout.
func (r *Router) enter(ctx context.Context, gate providers.Gate) error {
	timeout := r.cfg.AcquireTimeout
	if timeout == 0 {
		timeout = providers.DefaultAcquireTimeout
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, errAcquireTimeout)
		defer cancel()
	}
	return gate.Enter(ctx)
}

var errAcquireTimeout = errors.New("acquire timeout")

// Ping makes a round trip to the database of the context's tenant, or, without a
// tenant, to each whose pool is open, and joins their errors.
func (r *Router) Ping(ctx context.Context) error {
	if _, err := owner(ctx); errors.Is(err, ErrNoTenant) {
		return r.pingAll(ctx)
	}
	pool, release, err := r.PoolFor(ctx)
	if err != nil {
		return err
	}
	defer release()
	return pool.Ping(own(ctx))
}

func (r *Router) pingAll(ctx context.Context) error {
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	for _, db := range r.openDatabases() {
		all.Go(func() {
			err := r.pingOne(ctx, db)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// pingOne pings a database on behalf of one of its tenants.
func (r *Router) pingOne(ctx context.Context, db *database) error {
	m := db.anyMember()
	if m == nil || !r.budget.pin(db) {
		return nil // not in use yet, or not any more
	}
	defer r.budget.unpin(db)
	err := r.enter(ctx, m) // whatever the tenant itself does at the moment
	if err == nil {
		defer m.Leave()
		err = db.pool.Ping(own(ctx))
	}
	if err == nil || errors.Is(err, errMoved) {
		return nil
	}
	if m.tenant == adminTenant {
		return fmt.Errorf("pgkeel: tenancy: the database of AdminDSN: %w", err)
	}
	return fmt.Errorf("pgkeel: tenancy: the database of the tenant %q: %w", m.tenant, err)
}

// Reset replaces every connection of every pool.
func (r *Router) Reset() {
	for _, db := range r.openDatabases() {
		select {
		case <-db.ready:
			if db.err == nil {
				db.pool.Reset()
			}
		default: // it has none yet
		}
	}
}
