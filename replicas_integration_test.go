package pgkeel_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/cluster"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/tenancy"
)

// soon notices changes soon, and takes a slow machine's pause for none.
var soon = cluster.Options{Heartbeat: time.Second, ProbeTimeout: 3 * time.Second, Fallback: cluster.FallbackError}

const portSQL = "select current_setting('port')::int"

func portOf(t *testing.T, q pgkeel.Querier, ctx context.Context) int {
	t.Helper()
	port, err := pgkeel.One[int](ctx, q, portSQL)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// openCluster opens a handle on a primary and its standbys, and waits until all are
// read from.
func openCluster(t *testing.T, nodes *pgtest.Cluster, options ...pgkeel.Option) *pgkeel.DB {
	t.Helper()
	var replicas []string
	for _, n := range nodes.Standbys() {
		replicas = append(replicas, n.DSN(""))
	}
	options = append([]pgkeel.Option{pgkeel.WithReplicas(replicas...), pgkeel.WithCluster(soon)}, options...)
	db := openOn(t, nodes.Primary().DSN(""), options...)
	awaitReplica(t, db, true)
	return db
}

func openOn(t *testing.T, dsn string, options ...pgkeel.Option) *pgkeel.DB {
	t.Helper()
	db, err := pgkeel.Open(t.Context(), dsn, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := db.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return db
}

// awaitReads waits until reads go to a node. A slow one is not looked at yet when
// Open returns.
func awaitReads(t *testing.T, db *pgkeel.DB, at *pgtest.Node) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for {
		port, err := pgkeel.One[int](t.Context(), db.Reader(), portSQL)
		if port == at.Port() {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("reads go to %d instead of %d after a minute: %v", port, at.Port(), err)
		case <-tick.C:
		}
	}
}

// awaitReplica waits until there is a replica to read from, or none.
func awaitReplica(t *testing.T, db *pgkeel.DB, there bool) {
	t.Helper()
	ctx := pgkeel.WithTenantID(t.Context(), "a")
	deadline, tick := time.After(time.Minute), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for {
		_, err := db.Reader().Exec(ctx, "select 1")
		if (err == nil) == there {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("replica there: %v, after a minute: %v", !there, err)
		case <-tick.C:
		}
	}
}

// Everything on the handle goes to the primary but what is declared to only read.
func TestReaderAndWriter(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 1})
	db := openCluster(t, nodes)
	ctx := t.Context()
	primary, replica := nodes.Primary().Port(), nodes.Standbys()[0].Port()
	inTx := func(options ...pgkeel.TxOptions) func() int {
		return func() (port int) {
			err := db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
				port = portOf(t, tx, ctx)
				return nil
			}, options...)
			if err != nil {
				t.Error(err)
			}
			return port
		}
	}
	for name, tc := range map[string]struct {
		port func() int
		want int
	}{
		"the handle":              {func() int { return portOf(t, db, ctx) }, primary},
		"its reader":              {func() int { return portOf(t, db.Reader(), ctx) }, replica},
		"its writer":              {func() int { return portOf(t, db.Writer(), ctx) }, primary},
		"its writer, for reading": {func() int { return portOf(t, db.Writer(), pgkeel.PreferReplica(ctx)) }, primary},
		"declared":                {func() int { return portOf(t, db, pgkeel.WithReadOnly(ctx)) }, replica},
		"preferred":               {func() int { return portOf(t, db, pgkeel.PreferReplica(ctx)) }, replica},
		"preferred otherwise":     {func() int { return portOf(t, db.Reader(), pgkeel.PreferPrimary(ctx)) }, primary},
		"a transaction":           {inTx(), primary},
		"a read-only one":         {inTx(pgkeel.TxOptions{Access: pgkeel.ReadOnly}), replica},
		"the pool underneath": {func() (port int) {
			if err := db.Unwrap().QueryRow(ctx, portSQL).Scan(&port); err != nil {
				t.Error(err)
			}
			return port
		}, primary},
		"database/sql": {func() (port int) {
			if err := db.SQL().QueryRowContext(ctx, portSQL).Scan(&port); err != nil {
				t.Error(err)
			}
			return port
		}, primary},
	} {
		if got := tc.port(); got != tc.want {
			t.Errorf("%s: %d, not %d", name, got, tc.want)
		}
	}
	var pg *pgkeel.PGError
	if _, err := db.Reader().Exec(ctx, "create table t (n int)"); !errors.As(err, &pg) || !pg.IsReadOnly() {
		t.Error(err)
	}
	if stats := db.Cluster().ClusterStats(); len(stats.Servers) != 2 || stats.Timeline != 1 {
		t.Errorf("%+v", stats)
	}
	if err := nodes.Standbys()[0].Kill(); err != nil {
		t.Fatal(err)
	}
	awaitReplica(t, db, false)
	if _, err := pgkeel.One[int](ctx, db.Reader(), portSQL); !errors.Is(err, pgkeel.ErrNoReplica) {
		t.Error(err)
	}
}

// A read-only transaction that loses its server is run again, on another.
func TestReadOnlyTxLosesItsServer(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 1})
	replica := nodes.Standbys()[0]
	db := openOn(t, nodes.Primary().DSN(""), pgkeel.WithReplicas(replica.DSN("")))
	awaitReads(t, db, replica)
	var ports []int
	read := func(ctx context.Context, tx pgkeel.Tx) error {
		port, err := pgkeel.One[int](ctx, tx, portSQL)
		if err != nil {
			return err
		}
		if ports = append(ports, port); port == replica.Port() {
			if err := replica.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		_, err = pgkeel.One[int](ctx, tx, portSQL)
		return err
	}
	err := db.RunTx(t.Context(), read, pgkeel.TxOptions{Access: pgkeel.ReadOnly})
	if err != nil || len(ports) != 2 || ports[0] != replica.Port() || ports[1] != nodes.Primary().Port() {
		t.Errorf("read at %d: %v", ports, err)
	}
}

// Rows that were read already are read again when their server is lost.
func TestRowsLoseTheirServer(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 1})
	line := fault.New(t, nodes.Standbys()[0].DSN(""))
	db := openOn(t, nodes.Primary().DSN(""), pgkeel.WithReplicas(line.DSN()))
	awaitReads(t, db, nodes.Standbys()[0])
	if err := line.Add(fault.On(fault.Backend('D').Matching("needle").Nth(3), fault.Cut)); err != nil {
		t.Fatal(err)
	}
	all, err := pgkeel.All[string](t.Context(), db.Reader(), "select 'needle ' || current_setting('port') from generate_series(1, 5000)")
	if err != nil || len(all) != 5000 || len(line.Fired()) != 1 {
		t.Errorf("%d rows, %d cuts: %v", len(all), len(line.Fired()), err)
	}
	for _, port := range all {
		if port != all[0] {
			t.Fatal("rows of two servers are mixed")
		}
	}
}

// A session sees what it wrote, at whichever server.
func TestSession(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 1})
	often := soon
	often.Heartbeat = 100 * time.Millisecond // it may miss the replica
	db := openCluster(t, nodes, pgkeel.WithCluster(often))
	ctx := pgkeel.WithSession(t.Context(), pgkeel.NewSession())
	if _, err := db.Exec(ctx, "create table t (n int)"); err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		if err := db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			_, err := tx.Exec(ctx, "insert into t values ($1)", n)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		got, err := pgkeel.One[int](ctx, db.Reader(), "select max(n) from t")
		if errors.Is(err, pgkeel.ErrNoReplica) {
			continue // it was too slow, and the primary is not asked here
		}
		if err != nil || got != n {
			t.Fatalf("%d instead of %d: %v", got, n, err)
		}
	}
}

// Writes go on at the new primary, whichever way they take.
func TestFailover(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 1})
	db := openCluster(t, nodes)
	if _, err := db.Exec(t.Context(), "create table t (n int)"); err != nil {
		t.Fatal(err)
	}
	if err := nodes.WaitCaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	ways := map[string]func(ctx context.Context) error{
		"handle": func(ctx context.Context) error {
			_, err := db.Exec(ctx, "insert into t values (1)")
			return err
		},
		"transaction": func(ctx context.Context) error {
			return db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
				_, err := tx.Exec(ctx, "insert into t values (1)")
				return err
			})
		},
		"pool underneath": func(ctx context.Context) error {
			_, err := db.Unwrap().Exec(ctx, "insert into t values (1)")
			return err
		},
		"database/sql": func(ctx context.Context) error {
			_, err := db.SQL().ExecContext(ctx, "insert into t values (1)")
			return err
		},
	}
	if err := nodes.Primary().Kill(); err != nil {
		t.Fatal(err)
	}
	for !lost(t, db) { // connections that are open already tell of the loss
		continue
	}
	results := make(chan error)
	for name, write := range ways {
		go func() {
			err := write(t.Context())
			if err != nil {
				err = errors.New(name + ": " + err.Error())
			}
			results <- err
		}()
	}
	if err := nodes.Standbys()[0].Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range ways {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// lost reports whether the handle knows that its primary is lost.
func lost(t *testing.T, db *pgkeel.DB) bool {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := db.Ping(ctx)
	return errors.Is(err, pgkeel.ErrNoPrimary) || errors.Is(err, pgkeel.ErrUnreachable)
}

// Tenants by rows and by schema are confined on replicas as well, whose DSNs say
// nothing of that.
func TestTenantsOnReplicas(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 1})
	admin := openOn(t, nodes.Primary().DSN(""))
	for _, sql := range []string{
		"create role app login", "create schema tenant_a authorization app", "create schema tenant_b authorization app",
		"create table tenant_a.t as select 'a' as tenant_id", "create table tenant_b.t as select 'b' as tenant_id",
		"create table public.notes as select unnest(array['a', 'b']) as tenant_id",
		"grant select on all tables in schema tenant_a, tenant_b, public to app",
		"alter table public.notes enable row level security",
		"create policy p on public.notes using (tenant_id = nullif(current_setting('app.tenant_id', true), ''))",
	} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(sql, err)
		}
	}
	if err := nodes.WaitCaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	asApp := func(dsn string) string {
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.User("app")
		return u.String()
	}
	for name, tc := range map[string]struct {
		mode tenancy.Mode
		sql  string
	}{
		"rows":    {tenancy.RLS("app.tenant_id", tenancy.SkipTables("t")), "select tenant_id || current_setting('port') from notes"},
		"schemas": {tenancy.Schema(), "select tenant_id || current_setting('port') from t"},
	} {
		t.Run(name, func(t *testing.T) {
			db := openOn(t, asApp(nodes.Primary().DSN("")), pgkeel.WithTenancy(tc.mode),
				pgkeel.WithReplicas(asApp(nodes.Standbys()[0].DSN(""))), pgkeel.WithCluster(soon))
			awaitReplica(t, db, true)
			for _, tenant := range []string{"a", "b"} {
				ctx := pgkeel.WithTenantID(t.Context(), tenant)
				got, err := pgkeel.All[string](ctx, db.Reader(), tc.sql)
				if err != nil || len(got) != 1 || !strings.HasPrefix(got[0], tenant) {
					t.Errorf("%s sees %q: %v", tenant, got, err)
				}
				if port := portOf(t, db.Reader(), ctx); port != nodes.Standbys()[0].Port() {
					t.Errorf("read from %d", port)
				}
			}
			if _, err := pgkeel.One[int](t.Context(), db.Reader(), portSQL); !errors.Is(err, tenancy.ErrNoTenant) {
				t.Error(err)
			}
		})
	}
}

// A fault of the options is an error that names it.
func TestOptionsOfReplicas(t *testing.T) {
	nodes := pgtest.Shared(t)
	dsn := nodes.Primary().DSN("")
	tenants := tenancy.Database(tenancy.DirectoryFunc(func(context.Context, string) (string, error) { return dsn, nil }))
	for name, tc := range map[string]struct {
		dsn     string
		options []pgkeel.Option
		field   string
	}{
		"none":                  {dsn, []pgkeel.Option{pgkeel.WithReplicas()}, "Replicas"},
		"an empty one":          {dsn, []pgkeel.Option{pgkeel.WithReplicas(dsn, "")}, "Replicas[1]"},
		"nonsense":              {dsn, []pgkeel.Option{pgkeel.WithReplicas("nonsense")}, "Cluster.Discovery"},
		"options":               {dsn, []pgkeel.Option{pgkeel.WithCluster(cluster.Options{MaxLag: -1})}, "Cluster.MaxLag"},
		"a database per tenant": {"", []pgkeel.Option{pgkeel.WithTenancy(tenants), pgkeel.WithReplicas(dsn)}, "Cluster"},
		"preference alone":      {dsn, []pgkeel.Option{pgkeel.WithPool(pgkeel.PoolStrategy{PreferPrimary: true})}, "Pool.PreferPrimary"},
		"a route of one's own": {dsn, []pgkeel.Option{pgkeel.WithConfig(pgkeel.Config{
			Route: func(context.Context) (string, error) { return dsn, nil },
		}), pgkeel.WithReplicas(dsn)}, "Route"},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := pgkeel.Open(t.Context(), tc.dsn, tc.options...)
			if db != nil {
				t.Error("it opened", db.Close(t.Context()))
			}
			var fault *providers.ConfigError
			if !errors.As(err, &fault) || fault.Field != tc.field {
				t.Errorf("%v", err)
			}
		})
	}
	db := openOn(t, dsn, pgkeel.WithCluster(cluster.Options{}), pgkeel.WithPool(pgkeel.PoolStrategy{PreferPrimary: true}))
	if port := portOf(t, db.Reader(), t.Context()); port != nodes.Primary().Port() {
		t.Errorf("%d", port)
	}
	db = openOn(t, dsn)
	if db.Cluster() != nil || portOf(t, db.Writer(), t.Context()) != nodes.Primary().Port() {
		t.Error("a handle without replicas has a cluster, or no writer")
	}
}
