package stdsql

import (
	"context"
	"errors"
	"slices"

	"github.com/pgkeel/pgkeel/providers"
)

// confine asks what an operation is confined to. An error means that it may not
// begin.
func (p *Pool) confine(ctx context.Context) (providers.Scope, error) {
	if p.cfg.Scope == nil {
		return providers.Scope{}, nil
	}
	scope, err := p.cfg.Scope(ctx)
	return scope, unsent(err)
}

// stays refuses a context of another scope than the one that a transaction or a
// connection began in.
func (p *Pool) stays(ctx context.Context, began []providers.Setting) error {
	scope, err := p.confine(ctx)
	if err == nil && !slices.Equal(scope.Settings, began) {
		return providers.ErrOtherScope
	}
	return err
}

// keepScope refuses a statement by which what comes behind it would leave its
// scope, or one of several.
func (st *statement) keepScope() error {
	if st.lease.pool.cfg.Scope == nil {
		return nil
	}
	if st.effects.ControlTx() {
		return providers.ErrEndsScope
	}
	return nil
}

// unsent has an error of code that is not the provider's say that nothing was
// sent.
func unsent(err error) error {
	if err == nil || providers.OutcomeOf(err) == providers.OutcomeNotSent {
		return err
	}
	return refused(err)
}

// enterGate waits for a gate's admission, within the limits of the wait for a
// connection.
func (p *Pool) enterGate(ctx context.Context, gate providers.Gate) error {
	if ctx.Err() != nil {
		return notSent(ctx, "acquire", ctx.Err())
	}
	limited, stop := p.limitWait(ctx)
	defer stop()
	err := gate.Enter(limited)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return notSent(ctx, "acquire", err)
	case errors.Is(context.Cause(limited), providers.ErrPoolClosed):
		return providers.ErrPoolClosed
	default:
		return unsent(err)
	}
}
