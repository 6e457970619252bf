package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// One session is used with two clusters, and its token by others: nothing of the one
// has a read of the other wait, fail or be stale.
func TestOneSessionWithTwoClusters(t *testing.T) {
	var clusters []*Cluster
	var nodes []*pgtest.Cluster
	for range 2 {
		n := pgtest.New(t, pgtest.Options{Standbys: 1})
		c := openNodes(t, providers.Config{}, quick, n.Primary().DSN(""), n.Standbys()[0].DSN(""))
		until(t, c, "the standby", c.isFit(1))
		clusters, nodes = append(clusters, c), append(nodes, n)
	}
	// The first is on a later timeline, and further on.
	must(t, nodes[0].Primary().Kill())
	must(t, nodes[0].Standbys()[0].Promote(t.Context()))
	_, err := nodes[0].AddStandby(t.Context())
	must(t, err)
	session := NewSession()
	ctx := WithSession(t.Context(), session)
	for _, c := range clusters {
		_, err := c.Exec(ctx, "create table t (n int)")
		must(t, err)
	}
	_, err = clusters[0].Exec(ctx, "insert into t select 0 from generate_series(1, 100000)")
	must(t, err)
	for n := 1; n <= 20; n++ {
		for i, c := range clusters {
			_, err := c.Exec(ctx, "insert into t values ($1)", n)
			must(t, err)
			for _, s := range []*Session{session, received(t, session.Token())} {
				begun := time.Now()
				limited, cancel := context.WithTimeout(WithSession(t.Context(), s), 5*time.Second)
				var got int
				err := c.QueryRow(providers.WithReadOnly(limited), "select max(n) from t").Scan(&got)
				cancel()
				if err != nil || got != n {
					t.Fatalf("cluster %d: %d instead of %d after %s: %v", i, got, n, time.Since(begun), err)
				}
			}
		}
	}
	if strings.Count(session.Token(), ".") != 6 || strings.HasSuffix(session.Token(), tokenDoubt) {
		t.Errorf("%q", session.Token())
	}
	// Its reads of the second are on the standby there.
	until(t, clusters[1], "a read on the standby", func() bool {
		at, err := port(providers.WithReadOnly(ctx), clusters[1])
		must(t, err)
		return at == nodes[1].Standbys()[0].Port()
	})
}

func received(t *testing.T, token string) *Session {
	t.Helper()
	s := NewSession()
	must(t, s.Merge(token))
	return s
}

// Tokens that somebody made up have his own reads wait or go to the primary. They put
// nobody in doubt, so that nobody else's work waits.
func TestForgedTokens(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 1})
	c := openNodes(t, providers.Config{}, quick, nodes.Primary().DSN(""), nodes.Standbys()[0].DSN(""))
	until(t, c, "the standby", c.isFit(1))
	_, err := c.Exec(t.Context(), "select 1")
	must(t, err)
	real := WithSession(t.Context(), NewSession())
	_, err = c.Exec(real, "create table t (n int)")
	must(t, err)
	system, _, _ := strings.Cut(SessionOf(real).Token()[len("1."):], ".")
	before := c.monitor.view()

	done := make(chan error, 20)
	for range cap(done) {
		go func() {
			ctx, cancel := context.WithTimeout(WithSession(t.Context(), received(t, "1."+system+".ffffffff.1")), time.Second)
			defer cancel()
			_, err := c.Exec(providers.WithReadOnly(ctx), "select 1")
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; !errors.Is(err, errOldPrimary) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Error(err)
		}
	}
	if now := c.monitor.view(); now != before {
		t.Errorf("the servers were in doubt: %+v", now)
	}
	far := providers.WithReadOnly(WithSession(t.Context(), received(t, "1."+system+".1.ffffffffffffffff")))
	if at, err := port(far, c); err != nil || at != nodes.Primary().Port() {
		t.Errorf("read at %d: %v", at, err)
	}
}
