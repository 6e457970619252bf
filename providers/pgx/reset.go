package pgx

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// dirt is what statements left behind in a session.
type dirt uint8

const (
	// dirtState is anything that resetSQL undoes.
	dirtState dirt = 1 << iota
	// dirtPrepared means that prepared statements came or went behind pgx's
	// back, so its statement cache cannot be trusted.
	dirtPrepared
)

// resetTimeout bounds the reset of a session; one that takes longer is closed.
const resetTimeout = 5 * time.Second

// resetSQL makes a session as new, in one round trip. It is DISCARD ALL without
// DEALLOCATE ALL and DISCARD PLANS, which would throw away pgx's prepared
// statements, and which cannot run together with other statements.
const resetSQL = `CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; ` +
	`SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES`

// dirtStatements are the first words of statements that change the session.
var dirtStatements = map[string]dirt{
	"set": dirtState, "reset": dirtState, "listen": dirtState, "load": dirtState,
	"declare": dirtState, "do": dirtState, "call": dirtState,
	"prepare": dirtPrepared, "deallocate": dirtPrepared, "discard": dirtState | dirtPrepared,
}

// dirtFunctions are functions that change the session.
var dirtFunctions = map[string]bool{
	"set_config": true, "setseed": true,
	"pg_advisory_lock": true, "pg_advisory_lock_shared": true,
	"pg_try_advisory_lock": true, "pg_try_advisory_lock_shared": true,
}

// classify tells what a statement, or several, may leave behind in the session.
// A false alarm costs a round trip, a miss leaks state: where the text is
// ambiguous (a semicolon in a literal) it alarms. What a function of the
// application does inside, nobody can see from here.
func classify(sql string) dirt {
	var d dirt
	first, previous := "", ""
	for word := range words(sql) {
		switch {
		case word == ";":
			first = ""
			continue
		case first == "":
			first = word
			d |= dirtStatements[word]
		case dirtFunctions[word]:
			d |= dirtState
		case (word == "temp" || word == "temporary") && (first == "create" || previous == "into"):
			d |= dirtState
		}
		previous = word
	}
	return d
}

// words yields the words of a statement in lower case, and each semicolon. A
// comment ahead of a statement is skipped, since what follows it is the
// statement's first word; elsewhere its words do no harm.
func words(sql string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		atStart := true
		for i := 0; i < len(sql); {
			if n := comment(sql[i:]); atStart && n > 0 {
				i += n
				continue
			}
			if sql[i] == ';' {
				atStart = true
				if !yield(";") {
					return
				}
			}
			end := i
			for end < len(sql) && isWordByte(sql[end]) {
				end++
			}
			if end == i {
				i++
				continue
			}
			atStart = false
			if !yield(strings.ToLower(sql[i:end])) {
				return
			}
			i = end
		}
	}
}

func isWordByte(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80
}

// comment returns the length of the comment that s begins with, or 0.
func comment(s string) int {
	switch {
	case strings.HasPrefix(s, "--"):
		if end := strings.IndexByte(s, '\n'); end >= 0 {
			return end + 1
		}
		return len(s)
	case strings.HasPrefix(s, "/*"):
		return blockComment(s)
	default:
		return 0
	}
}

// blockComment returns the length of a comment that may hold others.
func blockComment(s string) int {
	depth := 0
	for i := 0; i+1 < len(s); i++ {
		switch s[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
			if depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

// classifier remembers what classify said. It forgets nothing, so it stops
// learning at a bound: an application that builds ever new statements pays for
// a scan of each.
type classifier struct {
	known sync.Map // string → dirt
	size  atomic.Int64
}

const classifierBound = 4096

func (c *classifier) classify(sql string) dirt {
	if d, ok := c.known.Load(sql); ok {
		return d.(dirt)
	}
	d := classify(sql)
	if c.size.Add(1) <= classifierBound {
		c.known.Store(strings.Clone(sql), d)
	}
	return d
}

// soil notes what a statement leaves behind in the session of conn.
func (p *Pool) soil(conn *pgx.Conn, sql string) {
	if !p.resets {
		return
	}
	if d := p.classifier.classify(sql); d != 0 {
		if s := sessionOf(conn); s != nil {
			s.dirt |= d
		}
	}
}

// clean resets the session on its way back to the pool. A session that cannot
// be reset is closed.
func (p *Pool) clean(s *session) {
	if !p.resets || s.dirt == 0 && p.cfg.SessionReset != providers.ResetAlways {
		return
	}
	d := s.dirt
	s.dirt = 0
	ctx, cancel := context.WithTimeout(context.Background(), resetTimeout)
	defer cancel()
	if err := p.reset(ctx, s.conn, d); err != nil {
		p.logger().Warn("pgkeel: a session could not be reset and is closed", "error", err)
		_ = s.conn.Close(ctx)
		return
	}
	s.dirt = 0 // the reset's own statements left nothing
	p.gauges.resets.Add(1)
}

func (p *Pool) reset(ctx context.Context, conn *pgx.Conn, d dirt) error {
	if err := conn.PgConn().Exec(ctx, resetSQL).Close(); err != nil {
		return err
	}
	if d&dirtPrepared != 0 {
		if err := conn.DeallocateAll(ctx); err != nil {
			return err
		}
	}
	return p.prepareSession(ctx, conn)
}
