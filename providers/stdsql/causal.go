package stdsql

import (
	"context"
	"database/sql"
	"errors"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// order is what the context of an operation holds it to. The gate and the question
// for the position are a round trip each. A nil one asks for nothing.
type order struct {
	*providers.Causality
	lease *lease
	// reads says that the operation was declared to only read, parts that some of
	// its work can be there although it failed, and ends that it may end a
	// transaction that a statement began.
	reads, parts, ends bool
}

func (l *lease) order(ctx context.Context) *order {
	c := providers.CausalityOf(ctx)
	if c == nil {
		return nil
	}
	return &order{Causality: c, lease: l, reads: providers.IsReadOnly(ctx)}
}

// holdToOrder has a statement keep what its context asks for. What runs in a
// transaction is held to its.
func (st *statement) holdToOrder(ctx context.Context) {
	if st.tx != nil {
		return
	}
	o := st.lease.order(ctx)
	if o == nil {
		return
	}
	o.ends = st.effects&sqltext.Ends != 0
	if st.lease.begunInSQL() && !o.ends {
		return
	}
	o.parts = st.effects.ControlTx() || st.effects&sqltext.Procedural != 0 // which can commit in the middle of its work
	st.order = o
}

// pass has the server check the gate.
func (o *order) pass(ctx context.Context, op string) error {
	if o == nil || o.After == 0 || o.lease.begunInSQL() {
		return nil
	}
	err := o.lease.control(ctx, providers.GateSQL("'"+o.After.String()+"'"))
	return providers.Behind(o.lease.fault(ctx, op, err))
}

// tell notes how the operation ended: err is nil, or says what became of it.
func (o *order) tell(ctx context.Context, err error) {
	if o == nil || o.Note == nil || errors.Is(err, providers.ErrBehind) || !o.matters(err) {
		return
	}
	if o.lease.begunInSQL() && !o.ends {
		return // the transaction goes on
	}
	p, err := o.ask(ctx)
	switch {
	case err == nil:
		o.Note(p, true)
	case !o.reads:
		o.Note(providers.Position{}, false)
	}
}

// matters reports whether the operation can have done or seen anything.
func (o *order) matters(err error) bool {
	switch providers.OutcomeOf(err) {
	case providers.OutcomeNotSent, providers.OutcomeRolledBack:
		return o.parts
	default:
		return true
	}
}

// ask asks for the position.
func (o *order) ask(ctx context.Context) (providers.Position, error) {
	l := o.lease
	if l.gone.Load() {
		return providers.Position{}, errConnLost
	}
	bound, done := l.bound(ctx)
	defer done()
	row := make([]sql.RawBytes, providers.PositionColumns)
	dest := make([]any, len(row))
	for i := range row {
		dest[i] = &row[i]
	}
	answer, err := l.conn.QueryContext(bound, providers.PositionSQL)
	if err != nil {
		return providers.Position{}, l.fault(ctx, opQuery, err)
	}
	defer func() { _ = answer.Close() }()
	if !answer.Next() {
		return providers.Position{}, l.fault(ctx, opQuery, errors.Join(answer.Err(), errNoRow))
	}
	if err := answer.Scan(dest...); err != nil {
		return providers.Position{}, err
	}
	text := make([][]byte, len(row))
	for i := range row {
		text[i] = row[i]
	}
	return providers.ReadPosition(text)
}

// orderOfCommit is that of the context that the transaction ends with, if it has
// one, else that of the one that it began with.
func (t *Tx) orderOfCommit(ctx context.Context) *order {
	o := t.lease.order(ctx)
	if o == nil {
		return t.order
	}
	o.reads, o.ends = t.reads, true
	return o
}

// undone notes a rollback: the transaction has written nothing, but may have read.
func (o *order) undone(ctx context.Context, err error) {
	if o != nil && err == nil {
		o.reads = true
		o.tell(ctx, nil)
	}
}
