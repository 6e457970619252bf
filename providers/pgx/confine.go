package pgx

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

var errBeginsInScope = &notSentError{errors.New("pgkeel: a batch cannot begin its transaction where the scope (tenant) decides " +
	"what names mean (search_path, role); use Begin, and SendBatch of the transaction")}

var errRawScope = errors.New("pgkeel: the pool is confined to scopes (tenants), which connections of the unwrapped pool " +
	"keep by session state; that needs SessionReset other than ResetNever, and a profile other than ProfilePgBouncer")

// confined is what an operation of the pool is confined to; nothing without
// [providers.Config.Scope]. An error means that it may not begin.
func (p *Pool) confined(ctx context.Context) (providers.Scope, error) {
	if p.cfg.Scope == nil {
		return providers.Scope{}, nil
	}
	scope, err := p.cfg.Scope(ctx)
	if err != nil && providers.OutcomeOf(err) != providers.OutcomeNotSent {
		err = &notSentError{err}
	}
	return scope, err
}

// confine is confined for a statement, whose own settings come behind.
func (p *Pool) confine(ctx context.Context, sql string, settings []providers.Setting) ([]providers.Setting, providers.Gate, error) {
	if p.cfg.Scope == nil {
		return settings, nil, nil
	}
	scope, err := p.confined(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(scope.Settings) > 0 && p.endsScope(sql) {
		return nil, nil, providers.ErrEndsScope
	}
	return providers.WithinScope(scope.Settings, settings), scope.Gate, nil
}

// within refuses what does not belong to the scope that a transaction or a
// connection began in.
func (p *Pool) within(ctx context.Context, began []providers.Setting) error {
	if p.cfg.Scope == nil {
		return nil
	}
	scope, err := p.confined(ctx)
	if err == nil && !slices.Equal(scope.Settings, began) {
		err = providers.ErrOtherScope
	}
	return err
}

// endsScope reports whether a statement begins or ends transactions, by which
// what comes behind it would escape its scope.
func (p *Pool) endsScope(sql string) bool { return p.classifier.classify(sql).ControlTx() }

// escapes is endsScope for a statement of a batch. Outside of a transaction that
// was begun, one can also end it from inside.
func (p *Pool) escapes(sql string, inTx bool) bool {
	d := p.classifier.classify(sql)
	return d.ControlTx() || !inTx && d&sqltext.Procedural != 0
}

// enterGate admits an operation. The wait is part of the wait for a connection.
func (p *Pool) enterGate(ctx context.Context, gate providers.Gate) error {
	if gate == nil {
		return nil
	}
	if p.acquireTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, p.acquireTimeout, errAcquireTimeout)
		defer cancel()
	}
	err := gate.Enter(ctx)
	if err != nil && providers.OutcomeOf(err) != providers.OutcomeNotSent {
		err = &notSentError{err}
	}
	return err
}

func leaveGate(gate providers.Gate) {
	if gate != nil {
		gate.Leave()
	}
}

// prepareRaw confines a connection that somebody takes from the unwrapped pool.
// There is no statement yet that the settings could travel with, so the session
// keeps them until it is reset at its return.
func (p *Pool) prepareRaw(ctx context.Context, conn *pgx.Conn) (healthy bool, err error) {
	w, ok := ctx.(*wait)
	if !ok || w.lent || w.own {
		return true, nil
	}
	scope, err := p.confined(w.caller)
	if err != nil {
		return true, err
	}
	s := sessionOf(conn)
	s.raw, s.scope = true, scope.Settings
	if len(scope.Settings) == 0 {
		return true, nil
	}
	if !p.resets {
		return true, &notSentError{errRawScope}
	}
	if err := p.confineSession(ctx, s, scope.Settings); err != nil {
		return false, wrapPG(err) // closed rather than half confined
	}
	return true, nil
}

// confineSession makes settings for as long as the session is not reset, which
// it is from now on at its return.
func (p *Pool) confineSession(ctx context.Context, s *session, settings []providers.Setting) error {
	s.dirt |= sqltext.State
	sql, args := setConfigSQL(settings, nil, "false")
	_, err := s.conn.Exec(ctx, sql, args...)
	return err
}

// refusedContext makes the driver refuse a statement with an error of ours.
type refusedContext struct {
	context.Context //nolint:containedctx // it is a context
	err             error
}

var closedChannel = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Done is closed: the driver sends nothing.
func (refusedContext) Done() <-chan struct{} { return closedChannel }

// Err is the reason.
func (c refusedContext) Err() error { return c.err }

// keepRaw refuses a statement on a connection of the unwrapped pool whose context
// belongs to another scope than the connection's. One that belongs to none is
// the driver's own, or a library's: where the session has settings, they confine
// it.
func (p *Pool) keepRaw(ctx context.Context, conn *pgx.Conn) context.Context {
	if p.cfg.Scope == nil {
		return ctx
	}
	s := sessionOf(conn)
	if s == nil || !s.raw {
		return ctx
	}
	scope, err := p.cfg.Scope(ctx)
	switch {
	case err != nil && len(s.scope) > 0:
		return ctx
	case err != nil:
		return refusedContext{ctx, err}
	case !slices.Equal(scope.Settings, s.scope):
		return refusedContext{ctx, providers.ErrOtherScope}
	default:
		return ctx
	}
}

// beginConfined begins a transaction, its scope and its first statement in one
// flush, once more if the statement's plan was stale.
func (p *Pool) beginConfined(ctx context.Context, s *session, opts pgx.TxOptions, scope []providers.Setting, first *providers.Statement) (pgx.Tx, error) {
	if len(scope) == 0 && first == nil {
		return s.conn.BeginTx(ctx, opts)
	}
	tx, err := p.sendBegin(ctx, s, opts, scope, first)
	if err != nil && s.conn.PgConn().TxStatus() == 'I' {
		if pg := providers.NewPGError(err); pg != nil && pg.IsStalePlan() {
			return p.sendBegin(ctx, s, opts, scope, first)
		}
	}
	return tx, err
}

// checkedBatch is a batch none of whose statements ends the scope.
func (p *Pool) checkedBatch(b *pgx.Batch, scope []providers.Setting, inTx bool) (*pgx.Batch, error) {
	if len(scope) == 0 || b == nil {
		return b, nil
	}
	queued := b.QueuedQueries
	if beginsTx(b) {
		queued, inTx = queued[1:], true // its own BEGIN
	}
	for _, q := range queued {
		if p.escapes(q.SQL, inTx) {
			return b, providers.ErrEndsScope
		}
	}
	checked := *b
	checked.QueuedQueries = p.guardedQueries(b.QueuedQueries, scope, inTx)
	return &checked, nil
}

// confinedBatch puts the settings of the scope in front of a batch's statements.
func (p *Pool) confinedBatch(b *pgx.Batch, scope []providers.Setting) (*pgx.Batch, error) {
	confined, err := p.checkedBatch(b, scope, false)
	if err != nil || confined == b {
		return confined, err
	}
	settings := &pgx.Batch{}
	sql, args := settingsSQL(scope, nil)
	settings.Queue(sql, args...)
	at := 0
	if beginsTx(b) {
		at = 1
	}
	confined.QueuedQueries = slices.Insert(confined.QueuedQueries, at, settings.QueuedQueries...)
	return confined, nil
}

// scopeBeginner is a pool or a connection.
type scopeBeginner interface {
	begin(ctx context.Context, opts providers.TxOptions) (*Tx, error)
}

// inScope runs fn in a transaction of the scope, for what the settings cannot
// travel with in one flush.
func inScope[T any](ctx context.Context, on scopeBeginner, fn func(tx *Tx) (T, error)) (T, error) {
	tx, err := on.begin(ctx, providers.TxOptions{})
	if err != nil {
		var none T
		return none, err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after a commit it does nothing
	result, err := fn(tx)
	if err == nil {
		err = tx.Commit(ctx)
	}
	return result, err
}
