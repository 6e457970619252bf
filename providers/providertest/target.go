package providertest

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// patience is how long a condition may take on a slow machine.
const patience = 20 * time.Second

// Target is the provider under test.
type Target struct {
	// Provider opens the pools.
	Provider providers.Provider
	// DSN returns the DSN, in the form of a URL and without TLS, of an empty
	// database for one test. Its user must be a superuser, and it must take 10
	// connections.
	DSN func(t testing.TB) string
	// Standby returns the DSNs, as DSN does, of an empty database on a primary and
	// on a streaming standby of it, whose replay tests pause. Without it, what needs
	// a standby is left out. Optional.
	Standby func(t testing.TB) (primary, standby string)
	// Config is what every pool is opened with besides its DSN, size, limits
	// and hooks. With ProfilePgBouncer, what needs a session of one's own is
	// left out. Optional.
	Config providers.Config
}

// Run runs the suite, each test as a subtest of t.
func Run(t *testing.T, target Target) {
	t.Helper()
	s := suite{target}
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"Query", queryTests},
		{"Values", valueTests},
		{"Errors", errorTests},
		{"Limits", limitTests},
		{"Scope", scopeTests},
		{"Confined", confinedTests},
		{"Gate", gateTests},
		{"Transaction", transactionTests},
		{"Start", startTests},
		{"Savepoint", savepointTests},
		{"Expiry", expiryTests},
		{"Pool", poolTests},
		{"Conn", connTests},
		{"Hooks", hookTests},
		{"Loss", lossTests},
		{"Causal", causalTests},
		{"Evict", evictTests},
		{"Capability", capabilityTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, test := range group.tests {
				if (!test.session || s.keepsSessions()) && (!test.standby || s.Standby != nil) {
					t.Run(test.name, func(t *testing.T) { test.run(t, s) })
				}
			}
		})
	}
}

// test is one test of the suite.
type test struct {
	name string
	run  func(t *testing.T, s suite)
	// session says that it needs a session that stays the same, standby that it
	// needs a standby.
	session, standby bool
}

type suite struct{ Target }

// keepsSessions reports whether a connection of the pool is a session.
func (s suite) keepsSessions() bool { return s.Config.Profile != providers.ProfilePgBouncer }

// config is that of a pool of n connections on a database of the test's own.
func (s suite) config(t testing.TB, n int32) providers.Config {
	t.Helper()
	cfg := s.Config
	cfg.DSN = s.DSN(t)
	cfg.Pool.MaxSize = n
	return cfg
}

// open opens a pool of n connections, which must all be back at the test's end.
func (s suite) open(t testing.TB, n int32) providers.Pool {
	t.Helper()
	return s.openWith(t, s.config(t, n))
}

func (s suite) openWith(t testing.TB, cfg providers.Config) providers.Pool {
	t.Helper()
	p, err := s.Provider.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		eventually(t, "every connection is back", func() bool { return p.Stats().InUse == 0 })
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var forced *providers.CloseError
		if err := p.Close(ctx); err != nil && !errors.As(err, &forced) { // of a test that says what it expects
			t.Errorf("Close: %v", err)
		}
	})
	return p
}

// querier is what runs statements and calls.
type querier interface {
	providers.Querier
	providers.Runner
}

// onEach runs a test on a pool, a connection and a transaction.
func (s suite) onEach(t *testing.T, setup string, test func(t *testing.T, q querier)) {
	t.Helper()
	prepare := func(t *testing.T) providers.Pool {
		p := s.open(t, 1)
		if setup != "" {
			mustExec(t, p, setup)
		}
		return p
	}
	t.Run("pool", func(t *testing.T) { test(t, prepare(t)) })
	t.Run("conn", func(t *testing.T) {
		c := acquire(t, prepare(t))
		defer c.Release()
		test(t, c)
	})
	t.Run("transaction", func(t *testing.T) {
		tx := begin(t, prepare(t), providers.TxOptions{})
		defer func() { _ = tx.Rollback(t.Context()) }()
		test(t, tx)
	})
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("it never came true: %s", what)
		}
	}
}

// value reads one value.
func value[T any](t testing.TB, q providers.Querier, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := q.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func mustExec(t testing.TB, q providers.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func acquire(t testing.TB, p providers.Pool) providers.Conn {
	t.Helper()
	c, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	return c
}

type beginner interface {
	Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error)
}

func begin(t testing.TB, on beginner, opts providers.TxOptions) providers.Tx {
	t.Helper()
	tx, err := on.Begin(t.Context(), opts)
	if err != nil {
		t.Fatalf("Begin: %v", err)
	}
	return tx
}

func savepoint(t testing.TB, tx providers.Tx, name string) providers.Tx {
	t.Helper()
	sp, err := tx.Savepoint(t.Context(), name)
	if err != nil {
		t.Fatalf("Savepoint %q: %v", name, err)
	}
	return sp
}

func commit(t testing.TB, tx providers.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatalf("Commit: %v", err)
	}
}

func rollback(t testing.TB, tx providers.Tx) {
	t.Helper()
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatalf("Rollback: %v", err)
	}
}

// table is where tests leave their traces.
const table = "create table t (n int)"

// traces counts the rows of table.
func traces(t testing.TB, q providers.Querier) int {
	t.Helper()
	return value[int](t, q, "select count(*) from t")
}

// txError finds what became of a transaction.
func txError(t testing.TB, err error) *providers.TxError {
	t.Helper()
	var tx *providers.TxError
	if !errors.As(err, &tx) {
		t.Errorf("%v (%T) does not say what became of the transaction: it is no *TxError", err, err)
		return &providers.TxError{}
	}
	return tx
}

// wantOutcome checks what an error tells of the work.
func wantOutcome(t testing.TB, what string, err error, want providers.Outcome) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
	} else if got := providers.OutcomeOf(err); got != want {
		t.Errorf("%s: the outcome is told as %q, and is %q: %v", what, got, want, err)
	}
}

// wantNoDoubt checks that the text of an error whose outcome is certain does not
// call it unknown.
func wantNoDoubt(t testing.TB, what string, err error) {
	t.Helper()
	if err == nil || providers.OutcomeOf(err) == providers.OutcomeUnknown {
		return
	}
	if strings.Contains(err.Error(), "("+providers.OutcomeUnknown.String()+")") {
		t.Errorf("%s: the outcome is %q, and the text says otherwise: %v", what, providers.OutcomeOf(err), err)
	}
}

// ended is a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// expired is a context whose deadline is over.
func expired() (context.Context, context.CancelFunc) {
	return context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
}

// withAddress replaces the address in a DSN.
func withAddress(t testing.TB, dsn, address string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil || u.Host == "" {
		t.Fatalf("Target.DSN must return a URL with the server's address")
	}
	u.Host = address
	return u.String()
}

// scoped is a call whose scope is made of pairs.
func scoped(kind providers.CallKind, sql string, args []any, pairs ...string) *providers.Call {
	call := &providers.Call{Kind: kind, SQL: sql, Args: args}
	for pair := range slices.Chunk(pairs, 2) {
		call.Scope = append(call.Scope, providers.Setting{Name: pair[0], Value: pair[1]})
	}
	return call
}

// runExec runs a call without rows.
func runExec(t testing.TB, on providers.Runner, sql string, pairs ...string) error {
	t.Helper()
	return on.Run(t.Context(), scoped(providers.CallExec, sql, nil, pairs...))
}

// runValue runs a call and reads one value of its rows.
func runValue[T any](t testing.TB, on providers.Runner, sql string, pairs ...string) (T, error) {
	t.Helper()
	var v T
	call := scoped(providers.CallQuery, sql, nil, pairs...)
	if err := on.Run(t.Context(), call); err != nil {
		return v, err
	}
	return v, providers.FirstRow(call.Rows).Scan(&v)
}
