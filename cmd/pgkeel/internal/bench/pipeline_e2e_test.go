package bench

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/pgtest"
)

// sessions looks at the server from outside.
type sessions struct {
	t    *testing.T
	conn *pgx.Conn
}

func (s sessions) of(app string) (n int) {
	s.t.Helper()
	err := s.conn.QueryRow(s.t.Context(), `select count(*) from pg_stat_activity where application_name = $1`, app).Scan(&n)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// named is the DSN with an application's name.
func named(t *testing.T, dsn, app string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("application_name", app)
	u.RawQuery = q.Encode()
	return u.String()
}

func scenarioNamed(t *testing.T, name string) Scenario {
	t.Helper()
	for _, sc := range Scenarios() {
		if sc.Name == name {
			return sc
		}
	}
	t.Fatalf("no scenario %s", name)
	return Scenario{}
}

// withItems makes a database with the table, and looks at it from outside.
func withItems(t *testing.T) (sessions, Site) {
	t.Helper()
	dsn := pgtest.NewDB(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if err := setupItems(t.Context(), conn, "public"); err != nil {
		t.Fatal(err)
	}
	return sessions{t, conn}, Site{DSN: dsn, Schema: "public", Callers: 32, Duration: time.Millisecond}
}

func TestWhereConnectionsAreRationedBothSidesHaveExactlyFour(t *testing.T) {
	outside, site := withItems(t)
	sc := scenarioNamed(t, "pipeline.rtt2ms")
	for i, open := range [2]Opener{ours: sc.Ours, baseline: sc.Baseline} {
		app := t.Name() + sideNames[i]
		at := site
		at.DSN = named(t, site.DSN, app)
		side, err := open(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		c := newCrew(t.Context(), site.Callers, side.Op, nil)
		most := 0
		for begun := time.Now(); most < farConnections && time.Since(begun) < time.Minute; {
			if _, err := c.work(5 * time.Millisecond); err != nil {
				t.Error(err)
				break
			}
			most = max(most, outside.of(app))
		}
		for range 10 {
			if _, err := c.work(5 * time.Millisecond); err != nil {
				t.Error(err)
			}
			most = max(most, outside.of(app))
		}
		c.dismiss()
		if most != farConnections {
			t.Errorf("%s had %d sessions", sideNames[i], most)
		}
		if i == ours && strings.Contains(side.Note(), ": 0 statements") {
			t.Errorf("nothing was pipelined: %s", side.Note())
		}
		if err := side.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestFarAwayAStatementTakesTheWayThereAndBack(t *testing.T) {
	_, site := withItems(t)
	side, err := faraway(sized(1, onPool(readOnPool)))(t.Context(), site)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		begun := time.Now()
		if err := side.Op(t.Context(), 0, n); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took < 2*oneWay {
			t.Errorf("only %v", took)
		}
	}
	if err := side.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTheBestSizeIsTold(t *testing.T) {
	_, site := withItems(t)
	side, err := onBestPool(func(pool *pgxpool.Pool, site Site) Op {
		if int(pool.Config().MaxConns) != site.PoolSize {
			t.Errorf("the pool is %d instead of %d", pool.Config().MaxConns, site.PoolSize)
		}
		return readOnPool(pool, site)
	})(t.Context(), site)
	if err != nil {
		t.Fatal(err)
	}
	if note := side.Note(); !strings.Contains(note, "best size, ") || !strings.Contains(note, ", 64: ") {
		t.Error(note)
	}
	if err := side.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestARowThatIsMissingOrWrongEndsTheScenario(t *testing.T) {
	outside, site := withItems(t)
	if _, err := outside.conn.Exec(t.Context(), `update items set price = price + 1`); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pipeline.one", "pipeline.slow"} {
		sc := scenarioNamed(t, name)
		for i, open := range [2]Opener{ours: sc.Ours, baseline: sc.Baseline} {
			side, err := open(t.Context(), site)
			if err != nil {
				t.Fatal(err)
			}
			if err := side.Op(t.Context(), 1, 1); err == nil || !strings.Contains(err.Error(), "came as") {
				t.Errorf("%s, %s: %v", name, sideNames[i], err)
			}
			if err := side.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
}
