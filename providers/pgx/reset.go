package pgx

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// resetTimeout bounds the reset of a session; one that takes longer is closed.
const resetTimeout = 5 * time.Second

// resetSQL makes a session as new, in one round trip. It is DISCARD ALL without
// DEALLOCATE ALL and DISCARD PLANS, which would throw away pgx's prepared
// statements, and which cannot run together with other statements.
const resetSQL = `CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; ` +
	`SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES`

// soil notes what a statement leaves behind in its session, if it has one yet.
func (s *session) soil(sql string) {
	if s != nil && s.pool.resets {
		s.dirt |= s.classify(sql).Left()
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
		s.dirt |= sqltext.Prepared
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

func (p *Pool) reset(ctx context.Context, conn *pgx.Conn, d sqltext.Effects) error {
	if err := conn.PgConn().Exec(ctx, resetSQL).Close(); err != nil {
		return err
	}
	if d&sqltext.Prepared != 0 {
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
