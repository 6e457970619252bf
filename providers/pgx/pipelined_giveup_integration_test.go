package pgx

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

// TestPipelinedCallersMindTheirContexts has callers wait behind a statement that does
// not end. One whose context ends returns, also while the pool is being closed.
func TestPipelinedCallersMindTheirContexts(t *testing.T) {
	for name, closing := range map[string]bool{"in use": false, "being closed": true} {
		t.Run(name, func(t *testing.T) {
			p := pipelinedPool(t, providers.Config{})
			mustExec(t, p, waiter)
			mustExec(t, p, "select wait_for_it()") // so that it is known
			other := openPool(t, providers.Config{DSN: p.cfg.DSN})
			lock := begin(t, other, providers.TxOptions{})
			mustExec(t, lock, "select pg_advisory_xact_lock(4711)")

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var all sync.WaitGroup
			ended := make(chan error, 2)
			for _, ctx := range []context.Context{t.Context(), ctx} {
				all.Go(func() {
					_, err := p.Exec(ctx, "select wait_for_it()")
					ended <- err
				})
			}
			eventually(t, "both wait", func() bool {
				s := p.Stats()
				return s.Pipeline.Depth+s.InUse == 2
			})
			closed := make(chan error, 1)
			if closing {
				go func() { closed <- p.Close(context.Background()) }()
				eventually(t, "the pool is closing", p.closing.Load) // what it is asked before goes behind the others
			}
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the first to end was not the one whose context did: %v", err)
			}
			mustRollback(t, lock)
			if err := <-ended; err != nil {
				t.Errorf("the other one: %v", err)
			}
			all.Wait()
			if closing {
				if err := <-closed; err != nil {
					t.Errorf("Close: %v", err)
				}
			}
		})
	}
}
