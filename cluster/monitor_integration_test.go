package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
	"github.com/pgkeel/pgkeel/providers"
	provider "github.com/pgkeel/pgkeel/providers/pgx"
)

// watchNodes watches servers, of which the first stands for the handle's DSN.
func watchNodes(t *testing.T, opts Options, dsns ...string) (*monitor, *record) {
	t.Helper()
	r := &record{}
	if len(dsns) > 1 {
		opts.Discovery = Static(dsns[1:]...)
	}
	m, err := newMonitor(providers.Config{DSN: dsns[0], Logger: slog.New(slog.NewTextHandler(r, nil))}, opts, provider.Provider{}.Open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.close()
		if t.Failed() {
			t.Logf("log:\n%s", r.text.String())
		}
	})
	m.onWriterLost, m.onWriterSilent, m.onServerGone = r.tell("lost"), r.tell("silent"), r.tell("gone")
	if err := m.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m, r
}

func dsnsOf(c *pgtest.Cluster) (dsns []string) {
	for _, n := range c.Nodes() {
		dsns = append(dsns, n.DSN(""))
	}
	return dsns
}

func addressOf(t *testing.T, dsn string) string {
	t.Helper()
	all, err := addresses(dsn)
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	return all[0]
}

// sees waits until the view is one, and fails the test with what is known after a
// minute.
func sees(t *testing.T, m *monitor, what string, good func(v *view) bool) *view {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	v, err := m.await(ctx, good)
	if err != nil {
		t.Fatalf("%s: %v; known: %s", what, err, strings.Join(m.known(), "; "))
	}
	return v
}

func isWriter(address string) func(v *view) bool {
	return func(v *view) bool { return v.writer != nil && v.writer.Host().Address == address }
}

func reads(addresses ...string) func(v *view) bool {
	return func(v *view) bool { return strings.Join(replicaNames(v), " ") == strings.Join(addresses, " ") }
}

func execute(t *testing.T, dsn string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// The primary is killed, a standby promoted, and the former primary started again.
func TestFailoverIsSeen(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Standbys: 2})
	nodes, dsns := c.Nodes(), dsnsOf(c)
	var at []string
	for _, dsn := range dsns {
		at = append(at, addressOf(t, dsn))
	}
	m, r := watchNodes(t, Options{}, dsns...)
	v := m.view()
	if !isWriter(at[0])(v) || v.timeline != 1 || v.start == 0 || !reads(at[1], at[2])(v) {
		t.Fatalf("%+v; known: %q", v, m.known())
	}
	if err := nodes[0].Kill(); err != nil {
		t.Fatal(err)
	}
	m.trouble(v.writer, net.ErrClosed)
	lost := sees(t, m, "the loss", func(v *view) bool { return v.writer == nil })
	if !reads(at[1], at[2])(lost) || lost.timeline != 1 {
		t.Errorf("without a primary reads go to %v", replicaNames(lost))
	}
	if heard := r.heard(); heard != "silent "+at[0] {
		t.Error(heard)
	}

	if err := nodes[1].Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	promoted := time.Now()
	now := sees(t, m, "the new primary", isWriter(at[1]))
	t.Logf("known %s after the promotion", time.Since(promoted))
	if now.timeline != 2 || now.start <= v.start {
		t.Errorf("%+v", now)
	}
	// The other standby follows the server that is gone.
	sees(t, m, "no replica", reads())
	if heard := r.heard(); !strings.Contains(heard, "lost "+at[0]) || !strings.Contains(heard, "gone "+at[1]) {
		t.Error(heard)
	}

	if err := nodes[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return m.stats().Alarms == 1 })
	if v := m.view(); !isWriter(at[1])(v) {
		t.Errorf("the writer is %v", v.writer)
	}
	if s := m.stats(); s.Epochs != 2 || s.Writer != at[1] || s.Timeline != 2 || r.logged("level=ERROR") != 1 {
		t.Errorf("%+v", s)
	}
	// The newer one goes: the former primary is not taken for want of another.
	if err := nodes[1].Kill(); err != nil {
		t.Fatal(err)
	}
	sees(t, m, "the loss", func(v *view) bool { return v.writer == nil })
	if known := strings.Join(m.known(), "; "); !strings.Contains(known, "primary on timeline 1, which is not used") {
		t.Error(known)
	}
}

// eventually waits for what no view tells.
func eventually(t *testing.T, good func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for !good() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it did not come about within a minute")
		}
	}
}

// A primary that hangs is lost, and back when it goes on: no session is ended.
func TestPausedPrimary(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Standbys: 1})
	dsns := dsnsOf(c)
	primary, standby := addressOf(t, dsns[0]), addressOf(t, dsns[1])
	m, r := watchNodes(t, Options{Heartbeat: 100 * time.Millisecond, ProbeTimeout: 200 * time.Millisecond}, dsns...)
	if err := c.Primary().Pause(); err != nil {
		t.Fatal(err)
	}
	sees(t, m, "the loss", func(v *view) bool { return v.writer == nil })
	if !reads(standby)(m.view()) {
		t.Error(m.known())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if s, err := m.awaitWriter(ctx); err == nil {
		t.Error("a writer is given out:", s.Host().Address)
	}
	if err := c.Primary().Resume(); err != nil {
		t.Fatal(err)
	}
	sees(t, m, "its return", isWriter(primary))
	if r.heard() != "silent "+primary || m.stats().Epochs != 1 {
		t.Errorf("%s; %+v", r.heard(), m.stats())
	}
}

// A standby whose replay is paused is out once it is too far behind, and in again
// when it has caught up.
func TestPausedReplay(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Standbys: 1})
	dsns := dsnsOf(c)
	standby := addressOf(t, dsns[1])
	m, r := watchNodes(t, Options{Heartbeat: 50 * time.Millisecond, MaxLag: time.Second}, dsns...)
	sees(t, m, "the replica", reads(standby))
	execute(t, dsns[1], `select pg_wal_replay_pause()`)
	execute(t, dsns[0], `create table written (n int)`, `insert into written select generate_series(1, 1000)`)
	v := sees(t, m, "no replica", reads())
	s := m.stats().Servers[1]
	if s.Fit || s.Lag < time.Second || s.Lag == UnknownLag || s.LagBytes == 0 || !strings.Contains(s.Problem, "behind the primary by") || v.writer == nil {
		t.Errorf("%+v", s)
	}
	execute(t, dsns[1], `select pg_wal_replay_resume()`)
	sees(t, m, "the replica", reads(standby))
	if s := m.stats().Servers[1]; s.Lag > time.Second {
		t.Errorf("%+v", s)
	}
	if r.logged("replica is not read from") != 1 || r.logged("replica is read from") != 2 {
		t.Error(r.text.String())
	}
}

// TRAPS 37: a standby that is cut off tells of no lag itself.
func TestCutOffStandbyShowsItsLag(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Standbys: 1})
	dsns := dsnsOf(c)
	standby := addressOf(t, dsns[1])
	m, _ := watchNodes(t, Options{Heartbeat: 50 * time.Millisecond}, dsns...)
	execute(t, dsns[1], `alter system set primary_conninfo = 'host=/nowhere'`, `select pg_reload_conf()`)
	execute(t, dsns[0], `create table written as select generate_series(1, 300000) n`)
	sees(t, m, "no replica", reads())
	eventually(t, func() bool { return m.stats().Servers[1].Lag > 500*time.Millisecond })
	s := m.stats().Servers[1]
	if s.Lag == UnknownLag || s.LagBytes < 10<<20 || s.Problem != "receives nothing from the primary" {
		t.Errorf("%+v", s)
	}
	_ = standby
}

// A host that swallows everything delays nobody.
func TestBlackHole(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Standbys: 2})
	dsns := dsnsOf(c)
	hole := fault.New(t, dsns[1])
	m, _ := watchNodes(t, Options{Heartbeat: 100 * time.Millisecond, ProbeTimeout: time.Second}, dsns[0], hole.DSN(), dsns[2])
	other := addressOf(t, dsns[2])
	sees(t, m, "both", reads(addressOf(t, hole.DSN()), other))
	hole.BlackHole(fault.ToServer)
	sees(t, m, "the other", reads(other))
	var worst time.Duration
	for range 20 {
		<-time.After(50 * time.Millisecond)
		for i, s := range m.stats().Servers {
			if i != 1 {
				worst = max(worst, time.Since(s.LastSeen))
			}
		}
	}
	t.Logf("the oldest look at another was %s old", worst)
	hole.Heal()
	sees(t, m, "both", reads(addressOf(t, hole.DSN()), other))
}

// A role without any privilege sees all that is needed but what a walreceiver does.
func TestPlainRole(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Standbys: 1})
	execute(t, c.Primary().DSN(""), `create role plain login`)
	if err := c.WaitCaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	var dsns []string
	for _, n := range c.Nodes() {
		dsn := withSettings(n.DSN(""), []setting{{"user", "plain"}})
		dsns = append(dsns, dsn)
	}
	m, _ := watchNodes(t, Options{Heartbeat: 100 * time.Millisecond}, dsns...)
	sees(t, m, "the replica", reads(addressOf(t, dsns[1])))
	s := m.stats()
	if s.Timeline != 1 || s.Servers[1].Role != RoleStandby || s.Servers[1].Timeline != 0 || s.Servers[1].Position == 0 {
		t.Errorf("%+v", s)
	}
	if err := c.Primary().Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Standbys()[0].Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := sees(t, m, "the new primary", isWriter(addressOf(t, dsns[1]))); v.timeline != 2 {
		t.Errorf("%+v", v)
	}
}

// A server of another cluster is a fault at first, and not used later.
func TestAnotherCluster(t *testing.T) {
	c, stranger := pgtest.New(t, pgtest.Options{}), pgtest.New(t, pgtest.Options{})
	m, err := newMonitor(providers.Config{DSN: c.Primary().DSN("")}, Options{Discovery: Static(stranger.Primary().DSN(""))}, provider.Provider{}.Open)
	if err != nil {
		t.Fatal(err)
	}
	err = m.start(t.Context())
	if fault := new(providers.ConfigError); !asConfigError(err, &fault) || fault.Field != "Cluster.Discovery" {
		t.Fatal(err)
	}
	if !strings.Contains(err.Error(), addressOf(t, stranger.Primary().DSN(""))) {
		t.Error(err)
	}
	_ = fmt.Sprint
}

func asConfigError(err error, target **providers.ConfigError) bool { return errors.As(err, target) }
