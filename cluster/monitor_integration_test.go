package cluster

import (
	"context"
	"errors"
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

// The primary is killed, a standby promoted, and the former primary started again. A
// role without any privilege sees the same, but what a standby receives.
func TestFailoverIsSeen(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{Standbys: 2})
	nodes, dsns := c.Nodes(), dsnsOf(c)
	execute(t, dsns[0], `create role plain login`)
	if err := c.WaitCaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	var at, plain []string
	for _, dsn := range dsns {
		at = append(at, addressOf(t, dsn))
		plain = append(plain, withSettings(dsn, []setting{{"user", "plain"}}))
	}
	m, r := watchNodes(t, Options{}, dsns...)
	p, _ := watchNodes(t, Options{}, plain...)
	v := m.view()
	for _, m := range []*monitor{m, p} {
		v := sees(t, m, "all", func(v *view) bool { return isWriter(at[0])(v) && reads(at[1], at[2])(v) })
		if v.timeline != 1 || v.start == 0 {
			t.Fatalf("%+v", v)
		}
	}

	if err := nodes[0].Kill(); err != nil {
		t.Fatal(err)
	}
	m.trouble(v.writer, net.ErrClosed)
	lost := sees(t, m, "the loss", func(v *view) bool { return v.writer == nil && reads(at[1], at[2])(v) })
	if lost.timeline != 1 {
		t.Errorf("%+v", lost)
	}
	eventually(t, func() bool { return len(r.told()) == 1 }) // it is told after the view
	if heard := r.heard(); heard != "silent "+at[0] {
		t.Error(heard)
	}

	if err := nodes[1].Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	promoted := time.Now()
	now := sees(t, m, "the new primary", isWriter(at[1]))
	t.Logf("known %s after the promotion", time.Since(promoted))
	for _, now := range []*view{now, sees(t, p, "the new primary", isWriter(at[1]))} {
		if now.timeline != 2 || now.start <= v.start {
			t.Errorf("%+v", now)
		}
	}
	// The other standby follows the server that is gone.
	sees(t, m, "no replica", reads())
	sees(t, p, "no replica", reads())
	eventually(t, func() bool { return len(r.told()) == 2 })
	if told := r.told(); told[0] != "lost "+at[0] || told[1] != "gone "+at[1] {
		t.Error(told)
	}

	if err := nodes[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return m.stats().Alarms == 1 && r.logged("level=ERROR") == 1 })
	if s := m.stats(); s.Epochs != 2 || s.Writer != at[1] || s.Timeline != 2 {
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

// What happens to servers that all stay what they are.
func TestServersInTrouble(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{Standbys: 2})
	t.Run("PausedPrimary", func(t *testing.T) { pausedPrimary(t, c) })
	t.Run("PausedReplay", func(t *testing.T) { pausedReplay(t, c) })
	t.Run("BlackHole", func(t *testing.T) { blackHole(t, c) })
	t.Run("AnotherCluster", func(t *testing.T) { anotherCluster(t, c) })
	t.Run("CutOff", func(t *testing.T) { cutOff(t, c) })
}

// A primary that hangs is lost, and back when it goes on: no session is ended.
func pausedPrimary(t *testing.T, c *pgtest.Cluster) {
	dsns := dsnsOf(c)
	primary := addressOf(t, dsns[0])
	m, r := watchNodes(t, Options{ProbeTimeout: 500 * time.Millisecond}, dsns...)
	standbys := reads(addressOf(t, dsns[1]), addressOf(t, dsns[2]))
	sees(t, m, "the replicas", standbys)
	if err := c.Primary().Pause(); err != nil {
		t.Fatal(err)
	}
	sees(t, m, "the loss", func(v *view) bool { return v.writer == nil && standbys(v) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := m.awaitWriter(ctx); err == nil {
		t.Error("a writer is given out:", s.Host().Address)
	}
	if err := c.Primary().Resume(); err != nil {
		t.Fatal(err)
	}
	sees(t, m, "its return", isWriter(primary))
	if told := r.heard(); !strings.HasPrefix(told, "silent "+primary) || strings.Contains(told, "lost") || m.stats().Epochs != 1 {
		t.Errorf("%s; %+v", told, m.stats())
	}
}

// A standby whose replay is paused is out once it is too far behind, and in again
// when it has caught up.
func pausedReplay(t *testing.T, c *pgtest.Cluster) {
	dsns := dsnsOf(c)
	first, second := addressOf(t, dsns[1]), addressOf(t, dsns[2])
	m, r := watchNodes(t, Options{Heartbeat: 50 * time.Millisecond, MaxLag: 2 * time.Second}, dsns...)
	sees(t, m, "the replicas", reads(first, second))
	execute(t, dsns[1], `select pg_wal_replay_pause()`)
	execute(t, dsns[0], `create table written as select generate_series(1, 1000) n`)
	v := sees(t, m, "one replica", reads(second))
	s := m.stats().Servers[1]
	if s.Fit || s.Lag < 2*time.Second || s.Lag == UnknownLag || s.LagBytes == 0 || !strings.Contains(s.Problem, "behind the primary by") || v.writer == nil {
		t.Errorf("%+v", s)
	}
	execute(t, dsns[1], `select pg_wal_replay_resume()`)
	sees(t, m, "the replicas", reads(first, second))
	if r.logged("replica is not read from") == 0 {
		t.Error("not logged")
	}
}

// A host that swallows everything is out before the look at it has ended, and the
// others are looked at meanwhile.
func blackHole(t *testing.T, c *pgtest.Cluster) {
	dsns := dsnsOf(c)
	hole := fault.New(t, dsns[1])
	other := addressOf(t, dsns[2])
	m, _ := watchNodes(t, Options{Heartbeat: 100 * time.Millisecond, ProbeTimeout: time.Minute}, dsns[0], hole.DSN(), dsns[2])
	sees(t, m, "both", reads(addressOf(t, hole.DSN()), other))
	hole.BlackHole(fault.ToServer)
	sees(t, m, "the other", reads(other))
	out := m.stats().Servers
	if !strings.Contains(out[1].Problem, "did not answer for") {
		t.Errorf("%+v", out[1])
	}
	eventually(t, func() bool {
		s := m.stats().Servers
		return s[0].LastSeen.Sub(out[0].LastSeen) > time.Second && s[2].LastSeen.Sub(out[2].LastSeen) > time.Second
	})
	if s := m.stats().Servers[1]; !s.LastSeen.Equal(out[1].LastSeen) {
		t.Errorf("%+v", s)
	}
	hole.Heal()
	sees(t, m, "both", reads(addressOf(t, hole.DSN()), other))
}

// A server of another cluster is a fault at first.
func anotherCluster(t *testing.T, c *pgtest.Cluster) {
	stranger := pgtest.Shared(t).Primary().DSN("")
	cfg := providers.Config{DSN: c.Primary().DSN(""), Logger: slog.New(slog.DiscardHandler)}
	m, err := newMonitor(cfg, Options{Discovery: Static(stranger)}, provider.Provider{}.Open)
	if err != nil {
		t.Fatal(err)
	}
	err = m.start(t.Context())
	var fault *providers.ConfigError
	if !errors.As(err, &fault) || fault.Field != "Cluster.Discovery" || !strings.Contains(err.Error(), addressOf(t, stranger)) {
		t.Fatal(err)
	}
}

// TRAPS 37: a standby that is cut off tells of no lag itself.
func cutOff(t *testing.T, c *pgtest.Cluster) {
	dsns := dsnsOf(c)
	standby := addressOf(t, dsns[2])
	m, _ := watchNodes(t, Options{Heartbeat: 50 * time.Millisecond}, dsns...)
	execute(t, dsns[1], `alter system set primary_conninfo = 'host=/nowhere'`, `select pg_reload_conf()`)
	sees(t, m, "the other", reads(standby))
	execute(t, dsns[0], `create table lost as select generate_series(1, 300000) n`)
	eventually(t, func() bool { return m.stats().Servers[1].Lag > time.Second && m.stats().Servers[1].LagBytes > 15<<20 })
	if s := m.stats().Servers[1]; s.Lag == UnknownLag || s.Problem != "receives nothing from the primary" {
		t.Errorf("%+v", s)
	}
	if s := m.stats().Servers[2]; !s.Fit {
		t.Errorf("%+v", s)
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
