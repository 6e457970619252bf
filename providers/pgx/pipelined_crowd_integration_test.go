package pgx

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// TestPipelinedCrowdLeaves has so many callers on one connection that halves of them
// are gathered, most of whom leave at once: the others are not left waiting for a half
// that will never be there, also where some give up while they wait.
func TestPipelinedCrowdLeaves(t *testing.T) {
	for name, reads := range map[string]bool{"reads": true, "a Sync each": false} {
		t.Run(name, func(t *testing.T) {
			p := pipelinedPool(t, providers.Config{Pipelining: &providers.Pipelining{Connections: 1, ReadConnections: 1}})
			ctx := t.Context()
			if reads {
				ctx = providers.WithReadOnly(ctx)
			}
			const callers, stay = 96, 6
			var all sync.WaitGroup
			n := sent(p, func() {
				for w := range callers {
					all.Go(func() {
						statements := 60
						if w < stay {
							statements *= 4
						}
						for i := range statements {
							if err := askBack(ctx, p, w*1000+i, i%17 == 16); err != nil {
								t.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
			})
			if n < callers {
				t.Errorf("it proved little: %d statements were pipelined", n)
			}
		})
	}
}

// askBack has the server return a number. A caller in a hurry may get nothing.
func askBack(ctx context.Context, p *Pool, number int, hurry bool) error {
	if hurry {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 200*time.Microsecond)
		defer cancel()
	}
	var got int
	err := p.QueryRow(ctx, "select $1::int", number).Scan(&got)
	switch {
	case err == nil && got != number:
		return errors.New("somebody else's row")
	case hurry && errors.Is(err, context.DeadlineExceeded):
		return nil
	default:
		return err
	}
}
