package pgx

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/pgx/pipeline"
)

// pipelined is the part of the pool whose connections are shared. A nil one
// takes nothing.
type pipelined struct {
	pool    *Pool
	engine  *pipeline.Engine
	traffic providers.PipelineTraffic
	// held is what a context tells by that it belongs to a transaction of the pool.
	held any
	// conn is what the user's tracer is shown: the newest connection, which
	// nobody can run anything on.
	conn atomic.Pointer[pgx.Conn]
}

const (
	// pipelineRequestBytes is how much of statements is on its way to the server
	// at most; pipelineSendBuffer, what the socket holds, is well above it, so
	// that writing never blocks.
	pipelineRequestBytes = 64 << 10
	pipelineSendBuffer   = 256 << 10
	// pipelineStatements is how many statements are prepared on a connection.
	pipelineStatements = 512
)

// checkPipelining refuses to pipeline where the DSN wants no statement to have a
// name.
func checkPipelining(c providers.Config, mode pgx.QueryExecMode) error {
	if c.Pipelining == nil || mode == pgx.QueryExecModeCacheStatement {
		return nil
	}
	return &providers.ConfigError{Field: "Pipelining", Problem: fmt.Sprintf(
		"prepares statements under names, which the DSN's default_query_exec_mode (%s) is there to avoid; leave one of the two out", mode)}
}

func (p *Pool) newPipelined() *pipelined {
	if p.cfg.Pipelining == nil {
		return nil
	}
	pl := &pipelined{pool: p, traffic: p.cfg.Pipelining.Traffic, held: providers.HeldKey(p)}
	o := pipelineOptions(*p.cfg.Pipelining, p.pool.Config())
	if p.readsOnly {
		o.Connections, o.ReadConnections = 0, o.Connections+o.ReadConnections
	}
	o.PingAfter, o.PingTimeout = p.pingAfter, p.pingTimeout
	o.Dial, o.Room, o.Waited = pl.dial, pl.room, pl.waited
	o.Failed = func(err error) {
		if p.closing.Load() || errors.Is(err, errEvicted) {
			return
		}
		p.doubt(p.life, opQuery, err)
		p.logger().Warn("pgkeel: a pipelined connection was lost or could not be made", "error", p.redact(err))
	}
	pl.engine = pipeline.New(o)
	return pl
}

// room is how many statements the pool could run at once.
func (pl *pipelined) room() int {
	return int(pl.pool.maxConns - pl.pool.pool.Stat().AcquiredConns())
}

// waited is how long the first of those who wait for a connection of the pool has waited.
func (pl *pipelined) waited() time.Duration {
	n, since := pl.pool.waiting.oldest()
	if n == 0 {
		return 0
	}
	return time.Since(since)
}

// pipelineOptions turns the configuration into the engine's limits.
func pipelineOptions(c providers.Pipelining, pc *pgxpool.Config) pipeline.Options {
	c = c.Resolved()
	return pipeline.Options{
		Connections: int(c.Connections), ReadConnections: int(c.ReadConnections),
		MaxInFlight: int(c.MaxInFlight), MaxGroup: int(c.MaxGroup),
		MaxRequestBytes: pipelineRequestBytes, MaxResultBytes: int(c.MaxResultBytes),
		MaxStatements: pipelineStatements, SlowAfter: min(c.SlowAfter, forEver),
		MaxLifetime: pc.MaxConnLifetime, MaxIdleTime: pc.MaxConnIdleTime,
	}
}

// reset replaces the connections.
func (pl *pipelined) reset() {
	if pl != nil {
		pl.engine.Reset()
	}
}

// evict ends the connections, under those who use them as well.
func (pl *pipelined) evict() {
	if pl != nil {
		pl.engine.Evict()
	}
}

// passed notes that a connection of the pool was there for a statement.
func (pl *pipelined) passed() {
	if pl != nil {
		pl.engine.Passed()
	}
}

// tick ends connections that are old or idle for long.
func (pl *pipelined) tick(now time.Time) {
	if pl != nil {
		pl.engine.Tick(now)
	}
}

// close ends the connections, once nothing is under way or ctx has ended.
func (pl *pipelined) close(ctx context.Context) {
	if pl != nil {
		pl.engine.Close(ctx)
	}
}

// stats is a snapshot; nil without pipelining.
func (pl *pipelined) stats() *providers.PipelineStats {
	if pl == nil {
		return nil
	}
	s := pl.engine.Stats()
	return &providers.PipelineStats{
		Connections: s.Connections, Depth: s.Depth,
		Statements: s.Statements, Segments: s.Segments, Flushes: s.Flushes, MaxDepth: s.MaxDepth, BytesSent: s.BytesSent,
		Repeated: s.Again, Full: s.Full, Slow: s.Slow, Large: s.Large, Moved: s.Moved,
		HeldUp: s.HeldUp, Abandoned: s.Abandoned, Lost: s.Lost, RoundTrip: s.RoundTrip,
	}
}
