package pgkeel_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/outcome"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
)

// The server dies in the middle of COMMIT, before or after it is done, and comes
// back.
func TestTrap21ExactlyOnceAcrossACrash(t *testing.T) {
	for name, tc := range map[string]struct {
		action fault.Action
		ran    int
	}{"before": {fault.Cut, 2}, "after": {fault.CutReply, 1}} {
		t.Run(name, func(t *testing.T) {
			c := pgtest.New(t, pgtest.Options{})
			rule := fault.On(fault.Commit(), tc.action)
			p := fault.New(t, c.NewDB(t), rule)
			db := openDSN(t, p.DSN())
			mustExec(t, db, "create table t (n int); "+outcome.DDL)
			back := crash(t, c.Primary(), rule)
			ran, err := insertOnce(t.Context(), db, pgkeel.TxOptions{RetryBudget: patience, MaxAttempts: 1000})
			<-back
			if err != nil || ran < tc.ran || tc.ran == 1 && ran > 1 {
				t.Errorf("ran %d times: %v", ran, err)
			}
			db.Reset() // an idle connection may have died with the server
			mustHave(t, db, 1)
		})
	}
}

// crash kills the server when the rule has fired, and starts it again.
func crash(t testing.TB, n *pgtest.Node, rule *fault.Rule) (back <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-rule.Fired()
		if err := n.Kill(); err != nil {
			t.Error(err)
		}
		if err := n.Start(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	return done
}

// The primary dies in the middle of COMMIT, and its synchronous standby takes over.
// What was committed and acknowledged is there, once, also where the primary had
// committed and nobody knew.
func TestTrap21ExactlyOnceAcrossAFailover(t *testing.T) {
	for name, action := range map[string]fault.Action{"before": fault.BlackHole, "after": fault.SwallowReply} {
		t.Run(name, func(t *testing.T) {
			c := pgtest.New(t, pgtest.Options{Standbys: 1, SynchronousStandbys: 1})
			primary, standby := c.Primary(), c.Standbys()[0]
			var warm atomic.Bool
			rule := fault.On(fault.Commit().Where(func(fault.Message) bool { return warm.Load() }), action)
			p := fault.New(t, primary.DSN(""), rule)
			db := openDSN(t, both(t, p.DSN(), standby), pgkeel.WithConnectTimeout(patience))
			mustExec(t, db, "create table t (n int); "+outcome.DDL)
			mustExec(t, db, oldMarkerSQL)
			for range 2 {
				if _, err := insertOnce(t.Context(), db, pgkeel.TxOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			direct := openDSN(t, primary.DSN(""), one())
			eventually(t, "the sweep, which commits as well, is over", func() bool {
				n, err := direct.QueryCount(t.Context(), "select count(*) from pgkeel_markers")
				return n == 2 && err == nil
			})
			warm.Store(true)
			if err := c.WaitCaughtUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			over := make(chan struct{})
			go func() {
				defer close(over)
				<-rule.Fired()
				failover(t, primary, standby, p)
			}()
			_, err := insertOnce(t.Context(), db, pgkeel.TxOptions{RetryBudget: 2 * patience, MaxAttempts: 1000})
			<-over
			if err != nil {
				t.Error(err)
			}
			mustHave(t, openDSN(t, standby.DSN(""), one()), 1, 1, 1)
		})
	}
}

// both is a DSN with two servers, of which the one that takes writes is used.
func both(t testing.TB, first string, second *pgtest.Node) string {
	t.Helper()
	var port int
	if _, err := fmt.Sscanf(first, "postgres://postgres@127.0.0.1:%d/", &port); err != nil {
		t.Fatalf("%s: %v", first, err)
	}
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode=disable&target_session_attrs=read-write&connect_timeout=2",
		port, second.Port())
}

// failover kills the primary and promotes the standby, which then waits for nobody.
func failover(t testing.TB, primary, standby *pgtest.Node, p *fault.Proxy) {
	if err := primary.Kill(); err != nil {
		t.Error(err)
	}
	if err := standby.Promote(context.Background()); err != nil {
		t.Error(err)
	}
	direct, err := pgkeel.Open(context.Background(), standby.DSN(""), one())
	if err != nil {
		t.Error(err)
		return
	}
	for _, sql := range []string{"alter system set synchronous_standby_names = ''", "select pg_reload_conf()"} {
		if _, err := direct.Exec(context.Background(), sql); err != nil {
			t.Error(err)
		}
	}
	_ = direct.Close(context.Background())
	_ = p.Close()
}
