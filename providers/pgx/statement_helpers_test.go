package pgx

import (
	"context"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

// sightings are what a hook saw.
type sightings struct {
	mu  sync.Mutex
	all []providers.HookInfo
}

func (s *sightings) after(_ context.Context, info *providers.HookInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, *info)
}

func (s *sightings) of(e providers.HookEvent) []providers.HookInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []providers.HookInfo
	for _, info := range s.all {
		if info.Event == e {
			found = append(found, info)
		}
	}
	return found
}

func (s *sightings) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = nil
}

// scoped is a call with a scope of pairs.
func scoped(kind providers.CallKind, sql string, args []any, pairs ...string) *providers.Call {
	call := &providers.Call{Kind: kind, SQL: sql, Args: args}
	for i := 0; i < len(pairs); i += 2 {
		call.Scope = append(call.Scope, providers.Setting{Name: pairs[i], Value: pairs[i+1]})
	}
	return call
}

// runner is what runs calls and statements.
type runner interface {
	providers.Querier
	providers.Runner
}

// onEach runs a test on a pool, a connection and a transaction, each of which
// must give its connection back.
func onEach(t *testing.T, cfg providers.Config, setup string, test func(t *testing.T, p *Pool, q runner)) {
	t.Helper()
	prepare := func(t *testing.T) *Pool {
		p := balanced(t, cfg)
		if setup != "" {
			mustExec(t, p, setup)
		}
		return p
	}
	t.Run("pool", func(t *testing.T) {
		p := prepare(t)
		test(t, p, p)
	})
	t.Run("conn", func(t *testing.T) {
		p := prepare(t)
		c := acquireN(t, p, 1)[0]
		defer c.Release()
		test(t, p, c)
	})
	t.Run("tx", func(t *testing.T) {
		p := prepare(t)
		tx := begin(t, p, providers.TxOptions{})
		defer func() { _ = tx.Rollback(t.Context()) }()
		test(t, p, tx)
	})
}

// watched is a hook manager that keeps what it sees.
func watched(t testing.TB) (*providers.HookManager, *sightings) {
	t.Helper()
	s := &sightings{}
	m, err := providers.NewHookManager(providers.Hook{Name: "sightings", After: s.after})
	if err != nil {
		t.Fatal(err)
	}
	return m, s
}
