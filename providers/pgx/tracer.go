package pgx

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
)

// tracer sits where pgx and pgxpool report what really happens on the wire. It
// supervises the pool, and passes everything on to the user's tracer, for each
// of the interfaces that the user's tracer has. It does not show the user's the
// acquires and releases by which pgkeel itself makes and checks connections.
type tracer struct {
	pool    *Pool
	query   pgx.QueryTracer
	batch   pgx.BatchTracer
	copy    pgx.CopyFromTracer
	prepare pgx.PrepareTracer
	connect pgx.ConnectTracer
	acquire pgxpool.AcquireTracer
	release pgxpool.ReleaseTracer
}

var (
	_ pgx.QueryTracer       = (*tracer)(nil)
	_ pgx.BatchTracer       = (*tracer)(nil)
	_ pgx.CopyFromTracer    = (*tracer)(nil)
	_ pgx.PrepareTracer     = (*tracer)(nil)
	_ pgx.ConnectTracer     = (*tracer)(nil)
	_ pgxpool.AcquireTracer = (*tracer)(nil)
	_ pgxpool.ReleaseTracer = (*tracer)(nil)
)

func newTracer(p *Pool, user pgx.QueryTracer) *tracer {
	t := &tracer{pool: p, query: user}
	t.batch, _ = user.(pgx.BatchTracer)
	t.copy, _ = user.(pgx.CopyFromTracer)
	t.prepare, _ = user.(pgx.PrepareTracer)
	t.connect, _ = user.(pgx.ConnectTracer)
	t.acquire, _ = user.(pgxpool.AcquireTracer)
	t.release, _ = user.(pgxpool.ReleaseTracer)
	return t
}

// TraceQueryStart notes what the statement leaves behind in the session.
func (t *tracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	sessionIn(ctx, conn).soil(data.SQL)
	ctx = t.pool.keepRaw(ctx, conn)
	if t.query != nil {
		return t.query.TraceQueryStart(ctx, conn, data)
	}
	return ctx
}

// TraceQueryEnd looks for what puts the server in doubt.
func (t *tracer) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	t.pool.doubtRaw(ctx, conn, data.Err)
	if t.query != nil {
		t.query.TraceQueryEnd(ctx, conn, data)
	}
}

// TraceBatchStart notes what the statements leave behind in the session.
func (t *tracer) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	s := sessionIn(ctx, conn)
	for _, q := range data.Batch.QueuedQueries {
		s.soil(q.SQL)
	}
	ctx = t.pool.keepRaw(ctx, conn)
	if t.batch != nil {
		return t.batch.TraceBatchStart(ctx, conn, data)
	}
	return ctx
}

// TraceBatchQuery only passes on.
func (t *tracer) TraceBatchQuery(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchQueryData) {
	if t.batch != nil {
		t.batch.TraceBatchQuery(ctx, conn, data)
	}
}

// TraceBatchEnd looks for what puts the server in doubt.
func (t *tracer) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchEndData) {
	t.pool.doubtRaw(ctx, conn, data.Err)
	if t.batch != nil {
		t.batch.TraceBatchEnd(ctx, conn, data)
	}
}

// TraceCopyFromStart only passes on.
func (t *tracer) TraceCopyFromStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromStartData) context.Context {
	ctx = t.pool.keepRaw(ctx, conn)
	if t.copy != nil {
		return t.copy.TraceCopyFromStart(ctx, conn, data)
	}
	return ctx
}

// TraceCopyFromEnd looks for what puts the server in doubt.
func (t *tracer) TraceCopyFromEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromEndData) {
	t.pool.doubtRaw(ctx, conn, data.Err)
	if t.copy != nil {
		t.copy.TraceCopyFromEnd(ctx, conn, data)
	}
}

// TracePrepareStart notes what the statement will leave behind, by its name.
func (t *tracer) TracePrepareStart(ctx context.Context, conn *pgx.Conn, data pgx.TracePrepareStartData) context.Context {
	t.pool.prepared(conn, data.Name, data.SQL)
	ctx = t.pool.keepRaw(ctx, conn)
	if t.prepare != nil {
		return t.prepare.TracePrepareStart(ctx, conn, data)
	}
	return ctx
}

// TracePrepareEnd looks for what puts the server in doubt.
func (t *tracer) TracePrepareEnd(ctx context.Context, conn *pgx.Conn, data pgx.TracePrepareEndData) {
	t.pool.doubtRaw(ctx, conn, data.Err)
	if t.prepare != nil {
		t.prepare.TracePrepareEnd(ctx, conn, data)
	}
}

// connecting is an attempt to connect, carried from its start to its end.
type connecting struct {
	start  time.Time
	slot   bool
	config *pgx.ConnConfig
	firing *providers.Firing
	// epoch is that in which it began; free lets go of it.
	epoch *epoch
	free  context.CancelFunc
}

type connectingKey struct{}

// TraceConnectStart waits for one of the places for attempts to connect.
func (t *tracer) TraceConnectStart(ctx context.Context, data pgx.TraceConnectStartData) context.Context {
	c := &connecting{start: time.Now(), config: data.ConnConfig, epoch: t.pool.epoch.Load()}
	ctx, c.free = c.epoch.bound(ctx)
	ctx, c.firing = t.pool.hooks.Start(ctx, providers.HookInfo{Event: providers.EventConnect})
	select {
	case t.pool.dials <- struct{}{}:
		c.slot = true
	case <-ctx.Done(): // the attempt fails by itself
	case <-t.pool.life.Done():
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		cancel()
	}
	ctx = context.WithValue(ctx, connectingKey{}, c)
	if t.connect == nil {
		return ctx
	}
	ctx = t.connect.TraceConnectStart(ctx, data)
	if ctx.Value(connectingKey{}) != c { // the user's tracer dropped our context
		ctx = context.WithValue(ctx, connectingKey{}, c)
	}
	return ctx
}

// TraceConnectEnd frees the place and counts the result.
func (t *tracer) TraceConnectEnd(ctx context.Context, data pgx.TraceConnectEndData) {
	c := t.connected(ctx, data)
	if data.Err != nil && c.epoch.over() {
		c.firing.End(0, errEvicted) // says nothing of the server
		return
	}
	c.firing.End(0, t.pool.dialed(data.Err, time.Since(c.start)))
}

// connected frees the place and adopts what came of the attempt.
func (t *tracer) connected(ctx context.Context, data pgx.TraceConnectEndData) *connecting {
	if t.connect != nil {
		t.connect.TraceConnectEnd(ctx, data)
	}
	c := ctx.Value(connectingKey{}).(*connecting)
	c.free()
	if c.slot {
		<-t.pool.dials
	}
	if data.Conn != nil {
		t.pool.adopt(data.Conn, c.config, c.epoch)
		c.firing.SetPID(data.Conn.PgConn().PID())
	}
	return c
}

// TraceAcquireStart begins the wait for a connection.
func (t *tracer) TraceAcquireStart(ctx context.Context, pool *pgxpool.Pool, data pgxpool.TraceAcquireStartData) context.Context {
	w, lent := ctx.(*wait)
	if !lent {
		w = t.pool.newWait(ctx)
	}
	if t.acquire != nil && !w.own {
		w.caller = t.acquire.TraceAcquireStart(w.caller, pool, data)
		w.Context = w.caller
	}
	t.pool.acquireStart(w)
	return w
}

// TraceAcquireEnd ends the wait.
func (t *tracer) TraceAcquireEnd(ctx context.Context, pool *pgxpool.Pool, data pgxpool.TraceAcquireEndData) {
	w := ctx.(*wait)
	t.pool.acquireEnd(w, data)
	if t.acquire != nil && !w.own {
		t.acquire.TraceAcquireEnd(w.caller, pool, data) // with the context that its start returned
	}
	if !w.lent {
		w.recycle()
	}
}

// TraceRelease sees the connection off on its way back to the pool.
func (t *tracer) TraceRelease(pool *pgxpool.Pool, data pgxpool.TraceReleaseData) {
	s := sessionOf(data.Conn)
	own := s.own.Load()
	t.pool.releasing(s)
	if t.release != nil && !own {
		t.release.TraceRelease(pool, data)
	}
}
