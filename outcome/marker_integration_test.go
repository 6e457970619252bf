package outcome

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

const countSQL = "select count(*)::int from public.pgkeel_markers"

func TestAMarkerIsPartOfItsTransaction(t *testing.T) {
	for name, wrap := range map[string]func(providers.Pool) providers.Pool{
		"as the pool does it": func(p providers.Pool) providers.Pool { return p },
		"begin, then insert":  func(p providers.Pool) providers.Pool { return plain{p} },
	} {
		t.Run(name, func(t *testing.T) {
			pool := openPool(t, pgtest.NewDB(t))
			m := markersOf(t, wrap(pool), nil)
			undone := mustBegin(t, m.New()) // makes the table
			if n := value[int](t, undone, countSQL); n != 1 {
				t.Errorf("%d rows inside", n)
			}
			if err := undone.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := value[int](t, pool, countSQL); n != 0 {
				t.Errorf("%d rows after a rollback", n)
			}
			k := m.New()
			mustCommit(t, mustBegin(t, k))
			row := value[string](t, pool, "select format('%s %s %s', key, fenced, checked_at) from public.pgkeel_markers")
			if row != k.key.String()+" f " {
				t.Errorf("%q", row)
			}
			// The options count, and the one that is done here is no provider's.
			tx, err := m.New().Begin(t.Context(), providers.TxOptions{Isolation: providers.Serializable, ExactlyOnce: true})
			if err != nil {
				t.Fatal(err)
			}
			if got := value[string](t, tx, "select current_setting('transaction_isolation')"); got != "serializable" {
				t.Error(got)
			}
			mustCommit(t, tx)
		})
	}
}

func TestManyMakeTheTableAtOnce(t *testing.T) {
	dsn := pgtest.NewDB(t)
	var pools []*Markers
	for range 4 {
		pools = append(pools, markersOf(t, openPool(t, dsn), nil))
	}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			tx, err := pools[i%4].New().Begin(t.Context(), providers.TxOptions{})
			if err == nil {
				err = tx.Commit(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := value[int](t, pools[0].pool, countSQL); n != 16 {
		t.Errorf("%d rows", n)
	}
}

// What an administrator has to do is in the error.
func TestARoleThatMayNot(t *testing.T) {
	dsn := pgtest.NewDB(t)
	admin := openPool(t, dsn)
	role := "clerk_" + strings.ReplaceAll(newKey().String(), "-", "")
	mustExec(t, admin, "create role "+role+" login; revoke create on schema public from public")
	t.Cleanup(func() {
		_, _ = admin.Exec(t.Context(), "select 1")
	})
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	m := markersOf(t, openPool(t, fmt.Sprintf("postgres://%s@%s:%d/%s", role, config.Host, config.Port, config.Database)), nil)
	refused := func() {
		t.Helper()
		_, err := m.New().Begin(t.Context(), providers.TxOptions{})
		var told *TableError
		if !errors.As(err, &told) || providers.OutcomeOf(err) != providers.OutcomeNotSent || pgError(t, err).Code != codeNoPrivilege {
			t.Fatalf("%v", err)
		}
		for _, part := range []string{"nothing was sent", "outcome.DDL", "grant select, insert, update, delete on public.pgkeel_markers", "permission denied"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("it does not say %q: %v", part, err)
			}
		}
	}
	refused() // it may not make the table
	mustExec(t, admin, DDL)
	refused() // it may not write to it
	mustExec(t, admin, "grant select, insert, update, delete on public.pgkeel_markers to "+role)
	k := m.New()
	mustCommit(t, mustBegin(t, k))
	mustSettle(t, k, Committed)
	mustSettle(t, m.New(), Fenced)
	mustExec(t, admin, "drop owned by "+role)
	mustExec(t, admin, "drop role "+role)
}

// An original that comes when it is fenced already can never commit.
func TestTrap21AZombieIsFenced(t *testing.T) {
	m, pool := withTable(t)
	k := m.New()
	mustSettle(t, k, Fenced)
	_, err := k.Begin(t.Context(), providers.TxOptions{})
	if !errors.Is(err, ErrFenced) || pgError(t, err).Constraint != constraint || providers.OutcomeOf(err) == providers.OutcomeUnknown {
		t.Errorf("%v", err)
	}
	mustSettle(t, k, Fenced) // and it stays so
	if n := value[int](t, pool, countSQL); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// The error of a pool that cannot begin is the pool's own.
func TestAPoolThatIsClosed(t *testing.T) {
	m, pool := withTable(t)
	if err := pool.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.New().Begin(t.Context(), providers.TxOptions{}); !errors.Is(err, providers.ErrPoolClosed) {
		t.Errorf("%v", err)
	}
}
