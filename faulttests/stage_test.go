package faulttests

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/cluster"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
	"github.com/pgkeel/pgkeel/providers"
)

// runs is how many faults to make: few in every run of the tests, all by
// PGKEEL_FAULT_RUNS.
func runs(t *testing.T, few int) int {
	text := os.Getenv("PGKEEL_FAULT_RUNS")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("PGKEEL_FAULT_RUNS is %q: it is a number of faults", text)
	}
	return n
}

// stage is a cluster of servers, each behind a proxy, and a handle over the
// proxies.
type stage struct {
	t       *testing.T
	servers *pgtest.Cluster
	random  *rand.Rand
	db      *pgkeel.DB

	mu      sync.Mutex
	proxies map[*pgtest.Node]*fault.Proxy
	order   []*pgtest.Node
}

// newStage starts a primary and its standbys, of which the primary waits for one if
// synchronous, and opens a handle that finds them through the stage.
func newStage(t *testing.T, standbys int, synchronous bool, options ...pgkeel.Option) *stage {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	opts := pgtest.Options{Standbys: standbys}
	if synchronous {
		opts.SynchronousStandbys = 1
	}
	s := &stage{
		t: t, servers: pgtest.New(t, opts),
		random: rand.New(rand.NewPCG(seed, 0)), proxies: map[*pgtest.Node]*fault.Proxy{},
	}
	for _, n := range s.servers.Nodes() {
		s.join(n)
	}
	s.db = s.open(options...)
	return s
}

// open opens a handle over the stage.
func (s *stage) open(options ...pgkeel.Option) *pgkeel.DB {
	s.t.Helper()
	options = append([]pgkeel.Option{
		pgkeel.WithCluster(cluster.Options{
			Discovery: s, DiscoverEvery: 200 * time.Millisecond, Heartbeat: 200 * time.Millisecond,
		}),
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 12}),
		pgkeel.WithLogger(slog.New(slog.DiscardHandler)),
	}, options...)
	db, err := pgkeel.Open(s.t.Context(), s.proxy(s.servers.Primary()).DSN(), options...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := db.Close(ctx); err != nil {
			s.t.Errorf("close: %v", err)
		}
	})
	return db
}

func (s *stage) join(n *pgtest.Node) {
	p := fault.New(s.t, n.DSN(""))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proxies[n] = p
	s.order = append(s.order, n)
}

// leave has a server found no more.
func (s *stage) leave(n *pgtest.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order = slices.DeleteFunc(s.order, func(o *pgtest.Node) bool { return o == n })
}

func (s *stage) proxy(n *pgtest.Node) *fault.Proxy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proxies[n]
}

// Discover finds the servers.
func (s *stage) Discover(context.Context, providers.Querier) ([]cluster.Host, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hosts := make([]cluster.Host, len(s.order))
	for i, n := range s.order {
		hosts[i] = cluster.Host{DSN: s.proxies[n].DSN()}
	}
	return hosts, nil
}

// sql runs a statement on a server itself.
func (s *stage) sql(n *pgtest.Node, statements ...string) {
	s.t.Helper()
	db := s.direct(n)
	defer s.closeDirect(db)
	for _, sql := range statements {
		if _, err := db.Exec(s.t.Context(), sql); err != nil {
			s.t.Fatalf("%s on %s: %v", sql, n.Name(), err)
		}
	}
}

// direct is a handle on a server itself.
func (s *stage) direct(n *pgtest.Node) *pgkeel.DB {
	s.t.Helper()
	db, err := pgkeel.Open(s.t.Context(), n.DSN(""), pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 2}))
	if err != nil {
		s.t.Fatal(err)
	}
	return db
}

func (s *stage) closeDirect(db *pgkeel.DB) {
	if err := db.Close(context.Background()); err != nil {
		s.t.Error(err)
	}
}

// last while the fault lasts, which is a part of it.
func (s *stage) last(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.t.Context().Done():
	}
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}
