package pgx

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

// TestPipelinedNewStatementMovesAway has a statement that nobody knows yet sent to be
// described behind one that does not end. That ran nothing, so its caller need not wait.
func TestPipelinedNewStatementMovesAway(t *testing.T) {
	for name, declare := range map[string]func(context.Context) context.Context{
		"a read": providers.WithReadOnly, "of whatever kind": func(ctx context.Context) context.Context { return ctx },
	} {
		t.Run(name, func(t *testing.T) {
			p := pipelinedPool(t, providers.Config{})
			mustExec(t, p, waiter)
			ctx := declare(t.Context())
			if _, err := p.Exec(ctx, "select wait_for_it()"); err != nil { // so that it is known
				t.Fatal(err)
			}
			lock := begin(t, openPool(t, providers.Config{DSN: p.cfg.DSN}), providers.TxOptions{})
			mustExec(t, lock, "select pg_advisory_xact_lock(4711)")
			var ahead sync.WaitGroup
			flushes := p.Stats().Pipeline.Flushes
			ahead.Go(func() {
				if _, err := p.Exec(ctx, "select wait_for_it()"); err != nil {
					t.Error(err)
				}
			})
			defer ahead.Wait()
			defer mustRollback(t, lock)
			eventually(t, "it was sent", func() bool { return p.Stats().Pipeline.Flushes > flushes })
			soon, cancel := context.WithTimeout(ctx, patience/2)
			defer cancel()
			for i := range 3 {
				var got int
				if err := p.QueryRow(soon, fmt.Sprintf("select %d", i)).Scan(&got); err != nil || got != i {
					t.Errorf("%d instead of %d, %v", got, i, err)
				}
			}
		})
	}
}
