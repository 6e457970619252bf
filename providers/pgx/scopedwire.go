package pgx

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// scopedWire is what a session sends scoped statements with.
type scopedWire struct {
	eqb      pgx.ExtendedQueryBuilder
	exchange exchange
	// items and messages are those of a batch.
	items    []wiredItem
	messages []byte
	// lastTag saves the allocation of one that is the same as the last.
	lastTag pgconn.CommandTag
	// settings are the statements that make settings, by their number.
	settings map[int]*pgconn.StatementDescription
	// made counts those there were, as a name is not used again.
	made int
	// sent is the statement that was sent last.
	sent *described
	// gate and position are what an order adds to a flush. snapshots says that a
	// transaction of the session has one snapshot for all of it.
	gate, position *pgconn.StatementDescription
	snapshots      bool
	values         [][]byte
	text           []byte
}

// sendPrepared sends the settings and the statement, both prepared before. It
// returns nil where it does not know how to, and has sent nothing then. An error
// is that of the preparing.
func (p *Pool) sendPrepared(ctx context.Context, st *statement, scope []providers.Setting, rows bool) (*exchange, error) {
	if ctx.Done() != nil {
		return nil, nil //nolint:nilnil // the session does not look after its end
	}
	settings, d, err := p.ready(ctx, st, scope)
	if d == nil {
		return nil, err
	}
	st.lease.s.dirt |= d.effects.Left()
	return st.lease.s.exchange(ctx, settings, scope, d, rows), nil
}

// ready prepares the settings, if there are any, and the statement, and encodes its
// arguments. It returns no statement for one that is to be sent otherwise.
func (p *Pool) ready(ctx context.Context, st *statement, scope []providers.Setting) (settings *pgconn.StatementDescription, d *described, err error) {
	s := st.lease.s
	s.scoped.sent = nil
	known := descriptionsOf(s)
	prepares := known != nil && known.named && known.capacity > 0
	if !prepares || p.cfg.Tracer != nil || st.sql == "" || p.names.has(st.sql) || changesMeaning(scope, nil) {
		return nil, nil, nil
	}
	sql, args := st.sql, st.args
	if len(args) > 0 {
		var ok bool
		if sql, args, ok = rewrite(ctx, sql, args); !ok {
			return nil, nil, nil
		}
	}
	if len(scope) > 0 {
		if settings, err = s.describeSettings(ctx, scope); err != nil {
			return nil, nil, err
		}
	}
	d, err = p.describeFor(ctx, s, known, sql, args)
	if d == nil || err != nil {
		return nil, nil, err
	}
	s.scoped.sent = d
	return settings, d, nil
}

// describeFor prepares a statement and encodes its arguments, anew if they do not
// fit what was prepared before: the columns can have other types since. What is
// wrong with them is said here, as the driver closes the connection over a batch
// that it cannot encode to its end.
func (p *Pool) describeFor(ctx context.Context, s *session, known *descriptions, sql string, args []any) (*described, error) {
	for {
		old := known.bySQL[sql]
		d, err := p.describeScoped(ctx, s, known, sql)
		if d == nil || err != nil {
			return nil, err
		}
		if len(d.sd.ParamOIDs) != len(args) {
			return nil, fmt.Errorf("expected %d arguments, got %d", len(d.sd.ParamOIDs), len(args))
		}
		err = s.scoped.eqb.Build(s.conn.TypeMap(), d.sd, args)
		switch {
		case err == nil:
			return d, nil
		case d != old:
			return nil, err
		}
		known.drop(d)
	}
}

// encode makes arguments of settings, in memory that the next ones use again.
func (w *scopedWire) encode(scope []providers.Setting) [][]byte {
	size := 0
	for _, s := range scope {
		size += len(s.Name) + len(s.Value)
	}
	w.values, w.text = w.values[:0], slices.Grow(w.text[:0], size)
	add := func(s string) {
		begin := len(w.text)
		w.text = append(w.text, s...)
		w.values = append(w.values, w.text[begin:len(w.text):len(w.text)])
	}
	for _, s := range scope {
		add(s.Name)
		add(s.Value)
	}
	return w.values
}

// describeSettings prepares the statement that makes so many settings.
func (s *session) describeSettings(ctx context.Context, scope []providers.Setting) (*pgconn.StatementDescription, error) {
	if sd := s.scoped.settings[len(scope)]; sd != nil {
		return sd, nil
	}
	sql, _ := settingsSQL(scope, nil)
	s.scoped.made++
	sd, err := s.conn.PgConn().Prepare(ctx, "pgkeel_scope_"+itoa(s.scoped.made), sql, nil)
	if err != nil {
		return nil, err
	}
	if s.scoped.settings == nil {
		s.scoped.settings = map[int]*pgconn.StatementDescription{}
	}
	s.scoped.settings[len(scope)] = sd
	return sd, nil
}

// describeScoped prepares a statement, or returns nil for one that is not sent so.
func (p *Pool) describeScoped(ctx context.Context, s *session, known *descriptions, sql string) (*described, error) {
	d, err := known.of(sql, p)
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // what a batch refuses can be sent otherwise
	}
	if d.sd != nil {
		return d, nil
	}
	known.evict(nil)
	stale := known.stale
	known.stale = nil
	for _, name := range stale {
		if err := s.conn.PgConn().Deallocate(ctx, name); err != nil {
			return nil, err
		}
	}
	sd, err := s.conn.PgConn().Prepare(ctx, known.name(), sql, nil)
	if err != nil {
		known.drop(d)
		return nil, err
	}
	d.fill(sd)
	known.line = append(known.line, d)
	return d, nil
}

// forgetStale has what was sent last prepared anew if that can be why it failed: it
// does not fit the schema any more, or the server has forgotten it.
func (s *session) forgetStale(err error) {
	d := s.scoped.sent
	s.scoped.sent = nil
	pg := providers.NewPGError(err)
	if d == nil || s.known == nil || !mayBeStale(pg) {
		return
	}
	s.known.drop(d)
	s.forgetSettings(pg)
}

// forgetSettings has the statements that make settings prepared anew, if the server
// has forgotten what was prepared.
func (s *session) forgetSettings(pg *providers.PGError) {
	if pg.Code[:2] != classNoStatement {
		return
	}
	for _, sd := range s.scoped.settings {
		s.known.stale = append(s.known.stale, sd.Name)
	}
	s.scoped.settings = nil
}

// queryPrepared makes rows of what sendPrepared sent.
func (r *rows) queryPrepared(x *exchange) error {
	r.running().around = x
	rows := x.rows()
	r.Rows = rows
	return rows.Err()
}

// execPrepared reads the tag of what sendPrepared sent.
func execPrepared(x *exchange) (pgconn.CommandTag, error) {
	err := x.Close()
	return x.tag, err
}

func (w *scopedWire) tag(text []byte) pgconn.CommandTag {
	if string(text) != w.lastTag.String() {
		w.lastTag = pgconn.NewCommandTag(string(text))
	}
	return w.lastTag
}
