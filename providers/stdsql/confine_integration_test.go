package stdsql

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// stuckGate admits nobody. Who waits says so.
type stuckGate struct{ waiting chan struct{} }

func (g stuckGate) Enter(ctx context.Context) error {
	close(g.waiting)
	<-ctx.Done()
	return ctx.Err()
}

func (stuckGate) Leave() { panic("one leaves who did not enter") }

// The end of the pool ends the wait at a gate.
func TestCloseEndsTheWaitAtAGate(t *testing.T) {
	gate := stuckGate{make(chan struct{})}
	p := openPool(t, providers.Config{Scope: func(context.Context) (providers.Scope, error) {
		return providers.Scope{Gate: gate}, nil
	}})
	refused := make(chan error, 1)
	go func() {
		_, err := p.Exec(t.Context(), "select 1")
		refused <- err
	}()
	<-gate.waiting
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-refused; !errors.Is(err, providers.ErrPoolClosed) {
		t.Errorf("%v", err)
	}
}

// rewriter makes itself of whatever the statement is.
type rewriter string

func (r rewriter) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	return string(r), nil, nil
}

// What a query rewriter makes of a statement is looked at as well.
func TestRewrittenStatementStaysInItsScope(t *testing.T) {
	p := openPool(t, providers.Config{Scope: func(context.Context) (providers.Scope, error) {
		return providers.Scope{Settings: []providers.Setting{{Name: "app.x", Value: "a"}}}, nil
	}})
	tx, err := p.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, made := range []rewriter{"commit", "copy pg_class from stdin", "select '\x00'"} {
		_, err = tx.Exec(t.Context(), "select 1", made)
		wantNotSent(t, string(made), err)
	}
	if got := value[string](t, tx, "select current_setting('app.x')"); got != "a" {
		t.Error(got)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}
