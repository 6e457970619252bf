package pgx

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// The end of a context is noticed late, but whatever is under way then ends by
// it, and the connection stays.
func TestContextsThatEndUnderWay(t *testing.T) {
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
	pid := value[int32](t, p, "select pg_backend_pid()")
	for name, op := range map[string]func(ctx context.Context) error{
		"query": func(ctx context.Context) error {
			rows, err := p.Query(ctx, "select pg_sleep(60)")
			if err != nil {
				return err
			}
			rows.Close()
			return rows.Err()
		},
		"exec": func(ctx context.Context) error {
			_, err := p.Exec(ctx, "select pg_sleep($1)", 60)
			return err
		},
		"transaction": func(ctx context.Context) error {
			tx, err := p.Begin(ctx, providers.TxOptions{})
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
			_, err = tx.Exec(ctx, "select pg_sleep($1)", 60)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
			defer cancel()
			if err := op(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
			if got := value[int32](t, p, "select pg_backend_pid()"); got != pid {
				t.Errorf("the connection was replaced: server process %d, then %d", pid, got)
			}
		})
	}
}

// A context that ends after its statement does nothing to the next one.
func TestContextsThatEndAfterwards(t *testing.T) {
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
	pid := value[int32](t, p, "select pg_backend_pid()")
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := p.Exec(ctx, "select pg_sleep($1)", 0.001); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	if got := value[int32](t, p, "select pg_backend_pid()"); got != pid {
		t.Errorf("the connection was replaced: server process %d, then %d", pid, got)
	}
}

// onLeave is a gate that says when the pool has the connection back.
type onLeave func()

func (onLeave) Enter(context.Context) error { return nil }
func (g onLeave) Leave()                    { g() }

// A transaction that ends looks no more after the statements of a connection that
// went on to somebody else meanwhile.
func TestTheEndOfATransactionIsNotThatOfTheNextStatement(t *testing.T) {
	for name, end := range map[string]func(tx providers.Tx) error{
		"commit":   func(tx providers.Tx) error { return tx.Commit(t.Context()) },
		"rollback": func(tx providers.Tx) error { return tx.Rollback(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			var p *Pool
			next := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			returned := onLeave(func() {
				go func() {
					_, err := p.Exec(asTenant(ctx, ""), "select pg_sleep(600)")
					next <- err
				}()
				eventually(t, "somebody else uses the connection", p.anyWatched)
			})
			p = openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}, Scope: func(ctx context.Context) (providers.Scope, error) {
				if ctx.Value(tenantKey{}) == nil {
					return providers.Scope{Gate: returned}, nil
				}
				return providers.Scope{}, nil
			}})
			tx, err := p.Begin(t.Context(), providers.TxOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := end(tx); err != nil {
				t.Error(err)
			}
			cancel()
			select {
			case err := <-next:
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Error("the context of the next statement is ignored")
				p.Unwrap().Reset()
			}
		})
	}
}
