package pgx

import (
	"context"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// sessionKey is where a connection carries its session.
const sessionKey = "pgkeel.session"

// configKey is where it carries its configuration until there is a session.
const configKey = "pgkeel.config"

// session is what pgkeel knows of one connection for as long as it lives.
type session struct {
	pool *Pool
	conn *pgx.Conn
	pid  uint32
	// epoch is that in which the attempt to make it began.
	epoch *epoch
	// config is what the driver's connection works with, not a copy.
	config *pgx.ConnConfig

	// dirt is what the borrower left in the session; only the goroutine that
	// holds the connection touches it.
	dirt sqltext.Effects
	// told is what the last statement was told to be.
	told told
	// pinging says that a ping decides about this connection. It changes while
	// nothing else uses the connection.
	pinging bool
	// running is the statement whose rows are being read; only the goroutine that
	// holds the connection touches it.
	running running
	// copying interrupts what feeds the COPY under way; only the goroutine that
	// holds the connection touches it. nil without one.
	copying func()
	// silent says that the server did not answer a ping.
	silent atomic.Bool
	// copied are the columns of the tables into which rows were copied.
	copied map[string][]pgconn.FieldDescription
	// raw says that it was taken from the unwrapped pool, and scope what for; only
	// its holder touches them.
	raw   bool
	scope []providers.Setting
	// known are the statements that pgkeel itself prepared, scoped is what scoped
	// ones are sent with; only the holder touches them.
	known  *descriptions
	scoped scopedWire
	// unreplicated says that a commit stopped waiting for its synchronous standby.
	unreplicated *atomic.Bool
	// own says that pgkeel holds it itself, retired that it is not to be reused.
	own, retired atomic.Bool

	mu sync.Mutex
	// statement is what runs on it, as far as the watchdog is concerned.
	statement watch
	// lease counts borrowings: a borrower whose number is not this one has
	// lost the connection.
	lease uint64
	// borrowed is the pool's handle while pgkeel itself lent the connection;
	// nil for connections taken from the unwrapped pool.
	borrowed *pgxpool.Conn
	held     bool
	// returning says that the borrower gave it back and pgkeel readies it for
	// the next.
	returning bool
	// since is when it was taken; zero until somebody notes it.
	since    time.Time
	holder   context.Context //nolint:containedctx // who holds it, for reports; gone at release
	op       string
	stack    string
	reported bool
	// slab holds the next result objects for borrowers, anchor is the object
	// that stands for this borrowing, watched says that the garbage collector
	// watches it.
	slab    *slab
	anchor  any
	watched bool
	counted bool
	// gate admitted the borrower.
	gate providers.Gate
}

func sessionOf(conn *pgx.Conn) *session {
	s, _ := conn.PgConn().CustomData()[sessionKey].(*session)
	return s
}

// sessionIn is sessionOf where the context often tells.
func sessionIn(ctx context.Context, conn *pgx.Conn) *session {
	if w, ok := ctx.(*watchedContext); ok {
		return w.s
	}
	return sessionOf(conn)
}

// taken notes that somebody took the connection.
func (s *session) taken(ctx context.Context, at time.Time, own bool) {
	s.mu.Lock()
	s.take(ctx, at, "unwrapped pool")
	s.mu.Unlock()
	s.own.Store(own)
}

// take needs the lock.
func (s *session) take(ctx context.Context, at time.Time, op string) {
	s.held, s.returning, s.since, s.holder, s.op, s.reported = true, false, at, ctx, op, false
	s.lease++
}

// takenByPool notes that pgkeel took the connection past pgxpool's tracer.
func (s *session) takenByPool() { s.own.Store(true) }

// isHeld reports whether somebody has the connection.
func (s *session) isHeld() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held || s.own.Load()
}

// returned forgets the borrower.
func (s *session) returned() {
	s.mu.Lock()
	s.held, s.holder, s.stack, s.borrowed, s.anchor, s.watched = false, nil, "", nil, nil, false
	s.returning = false
	s.lease++
	s.mu.Unlock()
	if s.own.Load() {
		s.own.Store(false)
	}
}

// cut closes the socket under whoever uses the connection. Closing the
// connection itself is for its holder alone.
func (s *session) cut() { cut(s.conn) }

// cut closes the socket itself: TLS would first say goodbye, and wait for a peer
// that does not take it.
func cut(conn *pgx.Conn) {
	socket := conn.PgConn().Conn()
	if tls, ok := socket.(interface{ NetConn() net.Conn }); ok {
		socket = tls.NetConn()
	}
	_ = socket.Close()
}

// retire has the connection closed rather than reused: somebody got hold of
// the raw connection and may keep it.
func (s *session) retire() { s.retired.Store(true) }

// count and uncount keep the pool's number of usable connections, each once
// per connection, whichever of release and close comes first.
func (s *session) count() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counted = true
	s.pool.gauges.open.Add(1)
}

func (s *session) uncount() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counted {
		s.counted = false
		s.pool.gauges.open.Add(-1)
	}
}

// takeGate needs the lock, and the caller to leave the gate once the pool has the
// connection back: whoever is admitted then finds it, rather than make another.
func (s *session) takeGate() providers.Gate {
	gate := s.gate
	s.gate = nil
	return gate
}

// heldBy describes the borrower, and whether there is one. Where it was not
// known since when, it is from now on.
func (s *session) heldBy(now time.Time) (providers.Holder, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held || s.own.Load() || s.returning {
		return providers.Holder{}, false
	}
	if s.since.IsZero() {
		s.since = now
	}
	h := providers.Holder{PID: s.pid, Operation: s.op, Held: now.Sub(s.since), Stack: s.stack}
	h.CorrelationID, _ = providers.GetCorrelationID(s.holder)
	return h, true
}

// callerStack returns the call stack of the application, without pgkeel's and
// the driver's own frames at its top.
func callerStack() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var b strings.Builder
	inside := true
	for {
		f, more := frames.Next()
		inside = inside && isInternal(f)
		if !inside && f.Function != "" {
			b.WriteString("\t" + f.Function + "\n\t\t" + f.File + ":" + itoa(f.Line) + "\n")
		}
		if !more {
			return b.String()
		}
	}
}

// isInternal reports whether a frame is pgkeel's own. Its commands, examples and
// tests are applications.
func isInternal(f runtime.Frame) bool {
	const module = "github.com/pgkeel/pgkeel"
	rest, ok := strings.CutPrefix(f.Function, module)
	if !ok || strings.HasSuffix(f.File, "_test.go") {
		return false
	}
	return !strings.HasPrefix(rest, "/cmd/") && !strings.HasPrefix(rest, "/examples/")
}
