package tenancy

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// A tenant has its places whichever database it is at, and by every way in.
func TestTenantConcurrencyOfDatabases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		d := fakeTowns(2, 1)
		cfg := sized(4)
		cfg.AcquireTimeout = time.Second
		r := openRouterWith(t, d, cfg, w.Open, TenantConcurrency(2), AdminDSN(dsnOf(0)), DirectoryTTL(time.Minute))
		release := hold(t, r, "t0", 1)
		_, leave, err := r.PoolFor(as(t.Context(), "t0"))
		if err != nil {
			t.Fatal(err)
		}
		busy := func(when string) {
			ctx, cancel := context.WithTimeout(as(t.Context(), "t0"), time.Second)
			defer cancel()
			_, err := r.Exec(ctx, "")
			_, _, poolErr := r.PoolFor(ctx)
			for _, err := range []error{err, poolErr} {
				if !errors.Is(err, ErrTenantBusy) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
					t.Errorf("%s: %v", when, err)
				}
			}
		}
		busy("two hold a connection")
		for _, ctx := range []context.Context{as(t.Context(), "t1"), Bypass(t.Context(), "test")} {
			if _, err := r.Exec(ctx, ""); err != nil {
				t.Errorf("somebody else: %v", err)
			}
		}
		if err := r.Ping(t.Context()); err != nil {
			t.Errorf("a busy tenant does not make its database sick: %v", err)
		}
		d.set("t0", dsnOf(1))
		<-time.After(2 * time.Minute)
		busy("they hold it at the database that the tenant moved away from")
		leave()
		if tag, err := r.Exec(as(t.Context(), "t0"), ""); tag.String() != dsnOf(1) || err != nil {
			t.Errorf("%s, %v", tag, err)
		}
		release()
		if n := r.limits.gates.tenants(); n != 0 {
			t.Errorf("%d tenants have places", n)
		}
	})
}

// Who waited for a place goes to where the tenant is by then.
func TestATenantMovesWhileItWaitsForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fakeTowns(1, 1)
		r := openRouterWith(t, d, sized(4), newWorld().Open, TenantConcurrency(1), DirectoryTTL(time.Second))
		release := hold(t, r, "t0", 1)
		waited := make(chan string)
		go func() {
			tag, err := r.Exec(as(t.Context(), "t0"), "")
			waited <- fmt.Sprintln(tag, err)
		}()
		synctest.Wait()
		d.set("t0", dsnOf(1))
		<-time.After(time.Second)
		if _, err := r.lookup.find(t.Context(), "t0"); err != nil {
			t.Fatal(err)
		}
		release()
		if got := <-waited; got != fmt.Sprintln(dsnOf(1), nil) {
			t.Error(got)
		}
	})
}

// A place is given back if there is no connection for it.
func TestAPlaceWithoutAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		cfg := sized(1)
		cfg.AcquireTimeout = time.Second
		r := openRouterWith(t, fakeTowns(2, 1), cfg, w.Open, TenantConcurrency(1))
		release := hold(t, r, "t0", 1)
		ctx, cancel := context.WithTimeout(as(t.Context(), "t1"), time.Second)
		defer cancel()
		if _, err := r.Exec(ctx, ""); !errors.Is(err, providers.ErrPoolExhausted) {
			t.Error(err)
		}
		release()
		if _, err := r.Exec(as(t.Context(), "t1"), ""); err != nil {
			t.Error(err)
		}
	})
}

func TestLimitsAreInTheScopesOfADatabase(t *testing.T) {
	w := newWorld()
	usage := NewUsage(2)
	r := openRouterWith(t, fakeTowns(4, 2), providers.Config{}, w.Open,
		AdminDSN(dsnOf(0)), TenantStatementTimeout(1500*time.Microsecond), TenantUsage(usage))
	for i := range 4 {
		for range i + 1 {
			hold(t, r, fmt.Sprint("t", i), 1)()
		}
	}
	if _, err := r.Exec(Bypass(t.Context(), "test"), ""); err != nil {
		t.Fatal(err)
	}
	top, others := usage.Top()
	if fmt.Sprint(top) != "[{t3 4} {t2 3}]" || others != 3 {
		t.Errorf("%v, %d", top, others)
	}
	scope := w.pool(dsnOf(0)).cfg.Scope
	for ctx, want := range map[context.Context]string{
		as(t.Context(), "t0"): "[{statement_timeout 2}]", as(t.Context(), "t2"): "[{pgkeel.tenant t2} {statement_timeout 2}]",
		Bypass(t.Context(), "test"): "[{pgkeel.tenant }]",
	} {
		if got, err := scope(ctx); fmt.Sprint(got.Settings) != want || err != nil {
			t.Errorf("%v, want %s: %v", got, want, err)
		}
	}
}
