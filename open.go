package pgkeel

import (
	"context"
	"errors"

	"github.com/pgkeel/pgkeel/chain"
	"github.com/pgkeel/pgkeel/providers"
	pgxprovider "github.com/pgkeel/pgkeel/providers/pgx"
)

// settings are what the options of Open make.
type settings struct {
	config   providers.Config
	provider string
	layers   []chain.Layer
	hooks    []providers.Hook
	faults   []error
}

// Open opens a handle. The DSN is a URL (postgres://…) or keywords and values
// (host=… user=…); what it leaves out, or all of it when it is empty, comes
// from the PG* environment, as in libpq.
//
// Open reports every fault of the configuration at once, each a
// [*ConfigError]. It opens InitialSize connections before it returns, and
// fails with the first error that it meets; with a size of 0 it connects on
// first use.
func Open(ctx context.Context, dsn string, options ...Option) (*DB, error) {
	s := settings{config: providers.Config{DSN: dsn}, provider: pgxprovider.Name}
	for _, option := range options {
		if option == nil {
			s.faults = append(s.faults, &providers.ConfigError{Field: "options", Problem: "one is nil; leave it out"})
			continue
		}
		option(&s)
	}
	hooks := s.hookManager()
	if err := errors.Join(append(s.faults, s.config.Validate())...); err != nil {
		return nil, err
	}
	pool, err := providers.Open(ctx, s.provider, s.config)
	if err != nil {
		return nil, err
	}
	return newDB(pool, hooks, s.layers), nil
}

// hookManager gives the pool a manager in any case, so that hooks can also be
// registered later.
func (s *settings) hookManager() *providers.HookManager {
	if s.config.Hooks == nil {
		s.config.Hooks = &providers.HookManager{Logger: s.config.Logger}
	}
	for _, h := range s.hooks {
		if err := s.config.Hooks.Register(h); err != nil {
			s.faults = append(s.faults, err)
		}
	}
	return s.config.Hooks
}
