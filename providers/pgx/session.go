package pgx

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
)

// sessionKey is where a connection carries its session.
const sessionKey = "pgkeel.session"

// session is what pgkeel knows of one connection for as long as it lives.
type session struct {
	pool *Pool
	conn *pgx.Conn
	pid  uint32

	// dirt is what the borrower left in the session; only the goroutine that
	// holds the connection touches it.
	dirt dirt
	// pinging is since when a ping decides about this connection.
	pinging time.Time

	mu sync.Mutex
	// lease counts borrowings: a borrower whose number is not this one has
	// lost the connection.
	lease uint64
	// borrowed is the pool's handle while pgkeel itself lent the connection;
	// nil for connections taken from the unwrapped pool.
	borrowed *pgxpool.Conn
	held     bool
	since    time.Time
	holder   context.Context //nolint:containedctx // who holds it, for reports; gone at release
	op       string
	stack    string
	reported bool
	retired  bool
	// slab holds the next result objects for borrowers, anchor is the object
	// that stands for this borrowing, watched says that the garbage collector
	// watches it.
	slab    *slab
	anchor  any
	watched bool
	counted bool
}

func sessionOf(conn *pgx.Conn) *session {
	s, _ := conn.PgConn().CustomData()[sessionKey].(*session)
	return s
}

// taken notes that somebody took the connection.
func (s *session) taken(ctx context.Context, now time.Time) {
	s.mu.Lock()
	s.held, s.since, s.holder, s.op, s.reported = true, now, ctx, "unwrapped pool", false
	s.lease++
	s.mu.Unlock()
	s.pinging = time.Time{}
}

// returned forgets the borrower.
func (s *session) returned() {
	s.mu.Lock()
	s.held, s.holder, s.stack, s.borrowed, s.anchor, s.watched = false, nil, "", nil, nil, false
	s.lease++
	s.mu.Unlock()
}

// retire has the connection closed rather than reused: somebody got hold of
// the raw connection and may keep it.
func (s *session) retire() {
	s.mu.Lock()
	s.retired = true
	s.mu.Unlock()
}

func (s *session) isRetired() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.retired
}

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

// heldBy describes the borrower, and whether there is one.
func (s *session) heldBy(now time.Time) (providers.Holder, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held {
		return providers.Holder{}, false
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
		inside = inside && isInternal(f.Function)
		if !inside && f.Function != "" {
			b.WriteString("\t" + f.Function + "\n\t\t" + f.File + ":" + itoa(f.Line) + "\n")
		}
		if !more {
			return b.String()
		}
	}
}

func isInternal(function string) bool {
	const module = "github.com/pgkeel/pgkeel"
	// A test inside the module is an application, too.
	return strings.HasPrefix(function, module+".(") || strings.HasPrefix(function, module+"/providers/pgx.(") ||
		strings.HasPrefix(function, module+"/providers/pgx.begin")
}
