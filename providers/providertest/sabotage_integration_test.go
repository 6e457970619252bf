package providertest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	pgxprovider "github.com/pgkeel/pgkeel/providers/pgx"
	"github.com/pgkeel/pgkeel/providers/providertest"
)

// sabotageEnv names the sabotage in a test program of its own, since the suite
// fails there.
const sabotageEnv = "PGKEEL_SABOTAGE"

// sabotages are faults of a provider, each with the test that must find it.
var sabotages = map[string]struct {
	finds  string
	pool   func(providers.Pool) providers.Pool
	config func(*providers.Config)
}{
	"a scope that is dropped":      {finds: "Scope/HoldsForTheCall", pool: func(p providers.Pool) providers.Pool { return unscoped{p} }},
	"a guess at what was sent":     {finds: "Loss/Statement", pool: func(p providers.Pool) providers.Pool { return guessing{p} }},
	"a commit that never fails":    {finds: "Transaction/CommitThatFails", pool: func(p providers.Pool) providers.Pool { return optimist{p} }},
	"a rollback that commits":      {finds: "Transaction/CommitAndRollback", pool: func(p providers.Pool) providers.Pool { return committing{p} }},
	"a context that is not heeded": {finds: "Limits/DeadContext", pool: func(p providers.Pool) providers.Pool { return heedless{p} }},
	"a close that works once":      {finds: "Pool/Close", pool: func(p providers.Pool) providers.Pool { return &closedOnce{Pool: p} }},
	"statistics that do not count": {finds: "Hooks/Stats", pool: func(p providers.Pool) providers.Pool { return uncounted{p} }},
	"the driver's own errors":      {finds: "Errors/Fields", pool: func(p providers.Pool) providers.Pool { return unmapped{p} }},
	"no scope for a context":       {finds: "Confined/NoScopeNothingSent", config: func(c *providers.Config) { c.Scope = nil }},
	"a write that tells nothing":   {finds: "Causal/Notes", pool: func(p providers.Pool) providers.Pool { return untold{p} }},
	"a gate that nobody leaves":    {finds: "Gate/Balance", config: func(c *providers.Config) { c.Scope = neverLeft(c.Scope) }},
}

// A suite that has never failed proves nothing. (That the provider passes without
// the sabotage is its own test's matter.)
func TestSuiteFindsWhatIsWrong(t *testing.T) {
	dsn := pgtest.Shared(t).Primary().DSN("")
	for name, sabotage := range sabotages {
		t.Run(name, func(t *testing.T) {
			out, err := runChild(t, dsn, name, sabotage.finds)
			if err == nil || !strings.Contains(out, "--- FAIL: TestSabotaged/"+sabotage.finds) {
				t.Errorf("%s did not find it: %v\n%s", sabotage.finds, err, out)
			}
		})
	}
}

func runChild(t *testing.T, dsn, sabotage, test string) (string, error) {
	t.Helper()
	pattern := "^TestSabotaged$/^" + strings.ReplaceAll(test, "/", "$/^") + "$"
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+pattern)
	cmd.Env = append(os.Environ(), sabotageEnv+"="+sabotage, "PGKEEL_TEST_DSN="+dsn)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestSabotaged runs the suite over a provider that was tampered with, for the
// test above. On its own it has nothing to do.
func TestSabotaged(t *testing.T) {
	name := os.Getenv(sabotageEnv)
	if name == "" {
		return
	}
	providertest.Run(t, providertest.Target{Provider: saboteur{sabotages[name].pool, sabotages[name].config}, DSN: pgtest.NewDB})
}

type saboteur struct {
	tamper func(providers.Pool) providers.Pool
	config func(*providers.Config)
}

func (s saboteur) Open(ctx context.Context, cfg providers.Config) (providers.Pool, error) {
	if s.config != nil {
		s.config(&cfg)
	}
	p, err := pgxprovider.Provider{}.Open(ctx, cfg)
	if err != nil || s.tamper == nil {
		return p, err
	}
	return s.tamper(p), nil
}

type unscoped struct{ providers.Pool }

func (p unscoped) Run(ctx context.Context, call *providers.Call) error {
	call.Scope = nil
	return p.Pool.Run(ctx, call)
}

type untold struct{ providers.Pool }

func (p untold) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return p.Pool.Exec(providers.WithCausality(ctx, &providers.Causality{}), sql, args...)
}

type guessing struct{ providers.Pool }

func (p guessing) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	tag, err := p.Pool.Exec(ctx, sql, args...)
	if err != nil {
		err = notSent{err}
	}
	return tag, err
}

type notSent struct{ error }

func (notSent) Outcome() providers.Outcome { return providers.OutcomeNotSent }

type optimist struct{ providers.Pool }

func (p optimist) Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	tx, err := p.Pool.Begin(ctx, opts)
	return optimistTx{tx}, err
}

type optimistTx struct{ providers.Tx }

func (t optimistTx) Commit(ctx context.Context) error {
	_ = t.Tx.Commit(ctx)
	return nil
}

type committing struct{ providers.Pool }

func (p committing) Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	tx, err := p.Pool.Begin(ctx, opts)
	return committingTx{tx}, err
}

type committingTx struct{ providers.Tx }

func (t committingTx) Rollback(ctx context.Context) error { return t.Commit(ctx) }

type heedless struct{ providers.Pool }

func (p heedless) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return p.Pool.Exec(context.WithoutCancel(ctx), sql, args...)
}

type closedOnce struct {
	providers.Pool

	closed bool
}

func (p *closedOnce) Close(ctx context.Context) error {
	if p.closed {
		return errors.New("closed already")
	}
	p.closed = true
	return p.Pool.Close(ctx)
}

type uncounted struct{ providers.Pool }

func (p uncounted) Stats() providers.PoolStats {
	st := p.Pool.Stats()
	st.Acquires = 0
	return st
}

type unmapped struct{ providers.Pool }

func (p unmapped) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	tag, err := p.Pool.Exec(ctx, sql, args...)
	var pg *providers.PGError
	if errors.As(err, &pg) {
		err = pg.Unwrap()
	}
	return tag, err
}

// neverLeft makes gates that are entered and never left.
func neverLeft(scope providers.ScopeFunc) providers.ScopeFunc {
	if scope == nil {
		return nil
	}
	return func(ctx context.Context) (providers.Scope, error) {
		s, err := scope(ctx)
		if s.Gate != nil {
			s.Gate = oneWay{s.Gate}
		}
		return s, err
	}
}

type oneWay struct{ providers.Gate }

func (oneWay) Leave() {}
