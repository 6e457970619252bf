package pgx

import (
	"context"

	"github.com/pgkeel/pgkeel/providers"
)

// Name is the name under which the provider is registered.
const Name = "pgx"

// Provider opens pools of pgx connections.
type Provider struct{}

var _ providers.Provider = Provider{}

func init() {
	if err := providers.Register(Name, Provider{}); err != nil {
		panic(err) // only possible when another package takes the name
	}
}

// Open opens a [Pool].
func (Provider) Open(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
	p, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return p, nil
}
