package pgx

import (
	"context"
	"maps"
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

	// What follows is no dirt. transactional: the statement begins or ends a
	// transaction. procedural: it can do so inside. copiesIn: it waits for data
	// from the client.
	transactional
	procedural
	copiesIn
	noDirt = transactional | procedural | copiesIn
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
	"explain": dirtState, // with ANALYZE it runs what it explains
	"declare": dirtState, "do": dirtState | procedural, "call": dirtState | procedural, "execute": dirtState,
	"begin": transactional, "start": transactional, "commit": transactional, "end": transactional,
	"abort":   transactional,
	"prepare": dirtPrepared, "deallocate": dirtPrepared, "discard": dirtState | dirtPrepared,
}

// dirtFunctions are functions that change the session.
var dirtFunctions = map[string]bool{
	"set_config": true, "setseed": true,
	"pg_advisory_lock": true, "pg_advisory_lock_shared": true,
	"pg_try_advisory_lock": true, "pg_try_advisory_lock_shared": true,
	"pg_temp":     true, // not a function: the schema of temporary tables
	"pg_settings": true, // nor is this: an UPDATE of it is a SET
}

// tableFollows are the words that TEMP can follow in SELECT INTO.
var tableFollows = map[string]bool{"into": true, "local": true, "global": true}

// classify tells what a statement, or several, may leave behind in the session.
// A false alarm costs a round trip, a miss leaks state: functions are looked for
// everywhere, also in literals and comments. What a function of the application
// does inside, nobody can see from here.
func classify(sql string) dirt {
	var d dirt
	first, previous, back := "", "", false
	over := func() {
		if first == "rollback" && !back {
			d |= transactional
		}
		first, back = "", false
	}
	for word, quoted := range words(sql) {
		switch {
		case word == ";":
			over()
			continue
		case first == "prepare" && previous == first && word == "transaction":
			d |= transactional
		case first == "rollback" && word == "to" && !quoted:
			back = true // to a savepoint only
		case first == "" && !quoted:
			first = word
			d |= dirtStatements[word]
		case first == "copy" && word == "stdin" && !quoted:
			d |= copiesIn
		case dirtFunctions[word]:
			d |= dirtState
		case (word == "temp" || word == "temporary") && (first == "create" || tableFollows[previous]):
			d |= dirtState
		}
		if !quoted { // a comment can be anywhere
			previous = word
		}
	}
	over()
	if strings.Contains(sql, `&"`) { // U&"\0073et_config" is a name as well
		d |= dirtState
	}
	return d
}

// words yields the words of a statement in lower case, with whether they are
// part of a literal, a quoted name or a comment, and each semicolon that ends a
// statement.
func words(sql string) func(yield func(string, bool) bool) {
	return func(yield func(string, bool) bool) {
		quotedTo := 0
		for i := 0; i < len(sql); {
			if i >= quotedTo {
				quotedTo = i + quotation(sql, i)
			}
			if sql[i] == ';' && i >= quotedTo && !yield(";", false) {
				return
			}
			end := i
			for end < len(sql) && isWordByte(sql[end]) && (i >= quotedTo || end < quotedTo) {
				end++
			}
			if end == i {
				i++
				continue
			}
			if !yield(strings.ToLower(sql[i:end]), i < quotedTo) {
				return
			}
			i = end
		}
	}
}

func isWordByte(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80
}

// quotation returns the length of the comment, literal or quoted name that
// begins at i, or 0.
func quotation(sql string, i int) int {
	s := sql[i:]
	switch {
	case strings.HasPrefix(s, "--"):
		if end := strings.IndexAny(s, "\r\n"); end >= 0 {
			return end + 1
		}
		return len(s)
	case strings.HasPrefix(s, "/*"):
		return blockComment(s)
	case s[0] == '"':
		return upTo(s, `"`, 1)
	case s[0] == '\'':
		if i > 0 && (sql[i-1] == 'e' || sql[i-1] == 'E') && (i == 1 || !isWordByte(sql[i-2])) {
			return escapedLiteral(s)
		}
		return upTo(s, "'", 1) // a doubled quote just begins the next literal
	case s[0] == '$' && (i == 0 || !isWordByte(sql[i-1])):
		return dollarLiteral(s)
	default:
		return 0
	}
}

// upTo returns the length of s up to and including the first end behind from.
func upTo(s, end string, from int) int {
	if n := strings.Index(s[from:], end); n >= 0 {
		return from + n + len(end)
	}
	return len(s)
}

// escapedLiteral returns the length of what follows the E of E'…'.
func escapedLiteral(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '\'':
			return i + 1
		}
	}
	return len(s)
}

// dollarLiteral returns the length of $tag$…$tag$, or 0 for a parameter.
func dollarLiteral(s string) int {
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '$':
			return upTo(s, s[:i+1], i+1)
		case !isWordByte(c) || i == 1 && c >= '0' && c <= '9':
			return 0
		}
	}
	return 0
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

// classifier remembers what classify said. A lookup takes no lock and allocates
// nothing, since every statement makes one; learning copies the map. It forgets
// nothing, so it stops learning at a bound: an application that builds ever new
// statements pays for a scan of each.
type classifier struct {
	known atomic.Pointer[map[string]dirt]
	learn sync.Mutex
}

const classifierBound = 2048

func (c *classifier) classify(sql string) dirt {
	if known := c.known.Load(); known != nil {
		if d, ok := (*known)[sql]; ok {
			return d
		}
	}
	d := classify(sql)
	c.remember(sql, d)
	return d
}

func (c *classifier) remember(sql string, d dirt) {
	c.learn.Lock()
	defer c.learn.Unlock()
	var learned map[string]dirt
	if known := c.known.Load(); known != nil {
		if len(*known) >= classifierBound {
			return
		}
		learned = maps.Clone(*known)
	} else {
		learned = map[string]dirt{}
	}
	learned[strings.Clone(sql)] |= d // a name can stand for several statements
	c.known.Store(&learned)
}

// told is what a statement was told to be, by what was known then.
type told struct {
	known *map[string]dirt
	sql   string
	dirt  dirt
}

// classify is that of the classifier, which it spares to ask again for what the
// session ran last.
func (s *session) classify(sql string) dirt {
	c := &s.pool.classifier
	known := c.known.Load() // before: what is learned from then on counts
	if s.told.known != known || known == nil || s.told.sql != sql {
		s.told = told{known: known, sql: sql, dirt: c.classify(sql)}
	}
	return s.told.dirt
}

// soil notes what a statement leaves behind in its session, if it has one yet.
func (s *session) soil(sql string) {
	if s != nil && s.pool.resets {
		s.dirt |= s.classify(sql) &^ noDirt
	}
}

// prepared notes what a statement leaves behind that will be run by its name. A
// name that a borrower chose is itself something left behind; the driver's own
// names, and those of AfterConnect, belong to the connection.
func (p *Pool) prepared(conn *pgx.Conn, name, sql string) {
	if name == "" || strings.HasPrefix(name, "stmtcache_") {
		return
	}
	p.names.add(name)
	if !p.resets {
		return
	}
	if d := p.classifier.classify(sql); d != 0 {
		p.classifier.remember(name, d)
	}
	if s := sessionOf(conn); s != nil {
		s.dirt |= dirtPrepared
	}
}

func (p *Pool) needsReset(s *session) bool {
	return p.resets && (s.dirt != 0 || p.cfg.SessionReset == providers.ResetAlways)
}

// clean resets the session on its way back to the pool. A session that cannot
// be reset is closed.
func (p *Pool) clean(s *session) {
	d := s.dirt
	s.dirt = 0
	ctx, cancel := context.WithTimeout(p.life, resetTimeout)
	defer cancel()
	if err := p.reset(ctx, s.conn, d); err != nil {
		if p.closing.Load() {
			return // nobody needs it any more
		}
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
		forgetDescriptions(conn)
	}
	forgetNotifications(conn)
	return p.prepareSession(ctx, conn)
}

// forgetNotifications drops those that came for the last borrower.
func forgetNotifications(conn *pgx.Conn) {
	for {
		if n, _ := conn.WaitForNotification(ended()); n == nil {
			return
		}
	}
}
