package pgx

import (
	"context"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

// The server quotes a value that it cannot read, however large it is. That is an error
// like any other: it does not end the connection, with the statements of others on it.
func TestPipelinedLargeErrors(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	for name, ctx := range map[string]context.Context{"a read": providers.WithReadOnly(t.Context()), "of whatever kind": t.Context()} {
		t.Run(name, func(t *testing.T) {
			_, err := p.Exec(ctx, "select repeat('x', 20 * 1024 * 1024)::int")
			if pg := providers.NewPGError(err); pg == nil || pg.Code != "22P02" {
				t.Errorf("it ended with %.200v", err)
			}
			_, err = p.Exec(ctx, "select repeat('x', $1)::int", 20<<20)
			if pg := providers.NewPGError(err); pg == nil || pg.Code != "22P02" {
				t.Errorf("with an argument it ended with %.200v", err)
			}
		})
	}
	if s := p.Stats().Pipeline; s.Lost > 0 {
		t.Errorf("%d connections were lost", s.Lost)
	}
}
