package stdsql

import (
	"context"
	"database/sql"
	"errors"

	"github.com/pgkeel/pgkeel/providers"
)

// Provider opens pools over database/sql. Set one of its fields. It is not
// registered by itself, as there is no driver to be sure of.
type Provider struct {
	// DB is a database that is open already. It stays the caller's: closing the
	// pool does not close it, its limits stay unless the configuration names
	// others, and the DSN must be empty.
	DB *sql.DB
	// Driver is the name of a driver that is registered with database/sql,
	// such as "pgx" or "postgres".
	Driver string
}

var _ providers.Provider = Provider{}

// Open opens a pool.
func (p Provider) Open(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
	pool, err := p.open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return pool, nil
}

func (p Provider) open(ctx context.Context, cfg providers.Config) (*Pool, error) {
	switch {
	case (p.DB == nil) == (p.Driver == ""):
		return nil, errors.New("pgkeel: stdsql: set either Provider.DB or Provider.Driver")
	case p.DB != nil:
		return New(ctx, p.DB, cfg)
	default:
		return openDriver(ctx, p.Driver, cfg)
	}
}

// New makes a pool over a database that is open already. See [Provider].DB.
func New(ctx context.Context, db *sql.DB, cfg providers.Config) (*Pool, error) {
	if err := errors.Join(cfg.Validate(), withoutEffect(cfg, false)); err != nil {
		return nil, err
	}
	p := newPool(cfg)
	p.db = db
	applyLimits(db, cfg)
	p.setSize(db.Stats().MaxOpenConnections)
	return p.warmedUp(ctx)
}

// openDriver makes a pool whose connections it makes itself.
func openDriver(ctx context.Context, name string, cfg providers.Config) (*Pool, error) {
	if err := errors.Join(cfg.Validate(), withoutEffect(cfg, true)); err != nil {
		return nil, err
	}
	cfg = withDefaults(cfg)
	inner, err := driverConnector(name, connectDSN(cfg))
	if err != nil {
		return nil, &providers.ConfigError{Field: "DSN", Problem: providers.Redact(err.Error(), cfg.DSN)}
	}
	p := newPool(cfg)
	p.connector = &connector{Connector: inner, pool: p, timeout: cfg.ConnectTimeout}
	p.db = sql.OpenDB(p.connector)
	applyLimits(p.db, cfg)
	p.db.SetMaxIdleConns(int(cfg.Pool.MaxSize))
	p.setSize(int(cfg.Pool.MaxSize))
	return p.warmedUp(ctx)
}

// warmedUp opens InitialSize connections, all held until the last is there, or
// one would be taken for the next.
func (p *Pool) warmedUp(ctx context.Context) (*Pool, error) {
	type result struct {
		lease *lease
		err   error
	}
	n := int(p.cfg.Pool.InitialSize)
	results := make(chan result, n)
	for range n {
		go func() {
			l, err := p.borrow(ctx, opWarmUp, nil)
			results <- result{l, err}
		}()
	}
	var leases []*lease
	var failure error
	for range n {
		r := <-results
		if r.err != nil {
			failure = r.err
			continue
		}
		leases = append(leases, r.lease)
	}
	for _, l := range leases {
		l.release()
	}
	if failure != nil {
		_ = p.Close(ended()) // nobody holds a connection
		return nil, failure
	}
	return p, nil
}
