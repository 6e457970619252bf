package pgkeel

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pgkeel/pgkeel/chain"
	"github.com/pgkeel/pgkeel/cluster"
	"github.com/pgkeel/pgkeel/outcome"
	"github.com/pgkeel/pgkeel/providers"
	pgxprovider "github.com/pgkeel/pgkeel/providers/pgx"
	"github.com/pgkeel/pgkeel/tenancy"
)

// settings are what the options of Open make.
type settings struct {
	config   providers.Config
	provider string
	opener   providers.Provider // instead of a name
	tenancy  tenancy.Mode
	several  bool // servers
	cluster  cluster.Options
	replicas []string // besides those of the DSN
	layers   []chain.Layer
	hooks    []providers.Hook
	panics   *providers.PanicPolicy
	faults   []error
}

// Open opens a handle. The DSN is a URL (postgres://…) or keywords and values
// (host=… user=…); what it leaves out, or all of it when it is empty, comes
// from the PG* environment, as in libpq.
//
// Open reports every fault of the configuration at once: each is a
// [*ConfigError] with the field and what to do, [ErrUnknownProvider], or what a
// hook was refused with. It opens InitialSize connections before it returns, and
// fails with the first error that it meets; with a size of 0 it connects on
// first use.
func Open(ctx context.Context, dsn string, options ...Option) (*DB, error) {
	s := settings{config: providers.Config{DSN: dsn}, provider: pgxprovider.Name}
	for _, option := range options {
		if option == nil {
			s.fault("options", "one is nil; leave it out")
			continue
		}
		option(&s)
	}
	hooks, unregister := s.hookManager()
	pool, err := s.open(ctx)
	if err != nil {
		unregister()
		return nil, err
	}
	db := newDB(pool, hooks, s.layers)
	db.markers = outcome.New(pool, s.config.Logger)
	return db, nil
}

func (s *settings) fault(field, problem string) {
	s.faults = append(s.faults, &providers.ConfigError{Field: field, Problem: problem})
}

func (s *settings) open(ctx context.Context) (providers.Pool, error) {
	if names := providers.Names(); s.opener == nil && !slices.Contains(names, s.provider) {
		s.faults = append(s.faults, fmt.Errorf("%w %q: registered are %q (import the provider's package)",
			ErrUnknownProvider, s.provider, names))
	}
	if err := errors.Join(append(s.faults, s.validate())...); err != nil {
		return nil, err
	}
	open := s.openPool
	if s.several {
		open = s.openCluster
	}
	if s.tenancy == nil {
		return open(ctx, s.config)
	}
	pool, err := s.tenancy.Open(ctx, s.config, open)
	if _, many := pool.(*tenancy.Router); many && err == nil && s.several {
		return nil, errors.Join(&providers.ConfigError{Field: "Cluster", Problem: "replicas are those of one database, " +
			"and tenancy.Database has one for each tenant; leave out WithReplicas and WithCluster"}, pool.Close(ctx))
	}
	return pool, err
}

func (s *settings) validate() error {
	config := s.config
	if !s.several {
		return config.Validate()
	}
	config.Pool.PreferPrimary = false // the cluster has an effect for it
	return errors.Join(config.Validate(), s.clusterOptions().Validate())
}

// openPool opens a pool of one server.
func (s *settings) openPool(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
	if s.opener != nil {
		return providers.OpenWith(ctx, s.opener, cfg)
	}
	return providers.Open(ctx, s.provider, cfg)
}

// openCluster opens one of several.
func (s *settings) openCluster(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
	c, err := cluster.Open(ctx, cfg, s.clusterOptions(), s.openPool)
	if err != nil {
		return nil, err // not a nil *Cluster
	}
	return c, nil
}

// hookManager gives the pool a manager in any case, so that hooks can also be
// registered later. The function it returns takes back what it registered: the
// manager can be one that outlives a failed Open.
func (s *settings) hookManager() (*providers.HookManager, func()) {
	m := s.config.Hooks
	if m == nil {
		m = &providers.HookManager{Logger: s.config.Logger}
		s.config.Hooks = m
	}
	if s.panics != nil {
		if *s.panics > providers.PropagatePanics {
			s.fault("Hooks.Panics", fmt.Sprintf("%d is neither RecoverPanics nor PropagatePanics", *s.panics))
		}
		m.Panics = *s.panics
	}
	var registered []string
	for _, h := range s.hooks {
		if err := m.Register(h); err != nil {
			s.faults = append(s.faults, err)
			continue
		}
		registered = append(registered, h.Name)
	}
	return m, func() {
		for _, name := range registered {
			m.Unregister(name)
		}
	}
}
