package pgx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
)

// built is what a configuration becomes.
type built struct {
	pc *pgxpool.Config
	p  *Pool
}

func build(t *testing.T, cfg providers.Config) built {
	t.Helper()
	pc, err := newPoolConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return built{pc, newPool(cfg, pc)}
}

type nopTracer struct{}

func (nopTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (nopTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// troubles counts what OnTrouble heard.
var troubles int

// carried says for each field of Config where it arrives. A field without a
// line here fails the test.
var carried = map[string]struct {
	set func(*providers.Config)
	got func(built) any
}{
	"DSN":                      {func(c *providers.Config) { c.DSN = "host=h.example dbname=d" }, func(b built) any { return b.pc.ConnConfig.Host }},
	"Pool.InitialSize":         {func(c *providers.Config) { c.Pool.InitialSize = 3 }, func(b built) any { return b.p.initialSize() }},
	"Pool.MaxSize":             {func(c *providers.Config) { c.Pool.MaxSize = 77 }, func(b built) any { return []int32{b.pc.MaxConns, b.p.maxConns} }},
	"Pool.MinSize":             {func(c *providers.Config) { c.Pool.MinSize = 2 }, func(b built) any { return []int32{b.pc.MinConns, b.p.minConns} }},
	"Pool.MaxLifetime":         {func(c *providers.Config) { c.Pool.MaxLifetime = 7 * time.Minute }, func(b built) any { return b.pc.MaxConnLifetime }},
	"Pool.MaxIdleTime":         {func(c *providers.Config) { c.Pool.MaxIdleTime = 7 * time.Minute }, func(b built) any { return b.pc.MaxConnIdleTime }},
	"Pool.HealthCheckInterval": {func(c *providers.Config) { c.Pool.HealthCheckInterval = 7 * time.Minute }, func(b built) any { return b.pc.HealthCheckPeriod }},
	"Pool.WarmupQueries":       {func(c *providers.Config) { c.Pool.WarmupQueries = []string{"select 1"} }, func(b built) any { return b.p.cfg.Pool.WarmupQueries }},
	// Only a pool with replicas may have it: Validate refuses it here.
	"Pool.PreferPrimary": {func(c *providers.Config) { c.Pool.PreferPrimary = true }, func(b built) any { return b.p.cfg.Validate() != nil }},
	"Profile":            {func(c *providers.Config) { c.Profile = providers.ProfilePgBouncer }, func(b built) any { return b.pc.ConnConfig.DefaultQueryExecMode }},
	"AcquireTimeout":     {func(c *providers.Config) { c.AcquireTimeout = 7 * time.Minute }, func(b built) any { return b.p.acquireTimeout }},
	"ConnectTimeout":     {func(c *providers.Config) { c.ConnectTimeout = 7 * time.Minute }, func(b built) any { return []time.Duration{b.pc.ConnConfig.ConnectTimeout, b.p.connectTimeout} }},
	"PingTimeout":        {func(c *providers.Config) { c.PingTimeout = 7 * time.Minute }, func(b built) any { return []time.Duration{b.pc.PingTimeout, b.p.pingTimeout} }},
	"StatementTimeout":   {func(c *providers.Config) { c.StatementTimeout = 1500 * time.Microsecond }, func(b built) any { return b.pc.ConnConfig.RuntimeParams["statement_timeout"] }},
	// These two end in the socket: TestSocketOptions.
	"KeepAlive":      {func(c *providers.Config) { c.KeepAlive = 7 * time.Second }, func(b built) any { return b.p.cfg.KeepAlive }},
	"TCPUserTimeout": {func(c *providers.Config) { c.TCPUserTimeout = 7 * time.Second }, func(b built) any { return b.p.cfg.TCPUserTimeout }},
	"MaxDials":       {func(c *providers.Config) { c.MaxDials = 3 }, func(b built) any { return cap(b.p.dials) }},
	"SessionReset":   {func(c *providers.Config) { c.SessionReset = providers.ResetNever }, func(b built) any { return b.p.resets }},
	"LeakAfter":      {func(c *providers.Config) { c.LeakAfter = time.Second }, func(b built) any { return b.p.cfg.LeakAfter }},
	"Pipelining": {
		func(c *providers.Config) { c.Pipelining = &providers.Pipelining{MaxGroup: 7} },
		func(b built) any {
			if b.p.cfg.Pipelining == nil {
				return nil
			}
			return pipelineOptions(*b.p.cfg.Pipelining, b.pc).MaxGroup
		},
	},
	"Scope": {
		func(c *providers.Config) {
			c.Scope = func(context.Context) (providers.Scope, error) { return providers.Scope{}, errors.New("mine") }
		},
		func(b built) any {
			_, err := b.p.confined(context.Background())
			return err
		},
	},
	"Route": {
		func(c *providers.Config) {
			c.Route = func(context.Context) (string, error) { return "host=elsewhere.example", nil }
		},
		func(b built) any {
			cc := b.pc.ConnConfig.Copy()
			return fmt.Sprint(b.pc.BeforeConnect(context.Background(), cc), cc.Host)
		},
	},
	"OnTrouble": {
		func(c *providers.Config) { c.OnTrouble = func(error) { troubles++ } },
		func(b built) any {
			before := troubles
			_ = b.p.dialed(errors.New("refused"), 0)
			return troubles - before
		},
	},
	"ReadOnly": {func(c *providers.Config) { c.ReadOnly = true }, func(b built) any { return b.pc.ConnConfig.RuntimeParams["default_transaction_read_only"] }},
	"AfterConnect": {
		func(c *providers.Config) {
			c.AfterConnect = func(context.Context, *pgx.Conn) error { return errors.New("mine") }
		},
		func(b built) any {
			if b.p.cfg.AfterConnect == nil {
				return nil
			}
			return b.p.prepareSession(context.Background(), nil).Error()
		},
	},
	"Tracer": {func(c *providers.Config) { c.Tracer = nopTracer{} }, func(b built) any { return b.pc.ConnConfig.Tracer.(*tracer).query }},
	"Hooks":  {func(c *providers.Config) { c.Hooks = &providers.HookManager{} }, func(b built) any { return b.p.hooks }},
	"Logger": {func(c *providers.Config) { c.Logger = slog.New(slog.DiscardHandler) }, func(b built) any { return b.p.logger() }},
}

func fieldsOf(typ reflect.Type, prefix string) (names []string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Type == reflect.TypeFor[providers.PoolStrategy]() {
			names = append(names, fieldsOf(f.Type, f.Name+".")...)
			continue
		}
		names = append(names, prefix+f.Name)
	}
	return names
}

func fieldByPath(c *providers.Config, path string) reflect.Value {
	v := reflect.ValueOf(c).Elem()
	for part := range strings.SplitSeq(path, ".") {
		v = v.FieldByName(part)
	}
	return v
}

func TestNoFieldIsLost(t *testing.T) {
	fields := fieldsOf(reflect.TypeFor[providers.Config](), "")
	for _, name := range fields {
		entry, ok := carried[name]
		if !ok {
			t.Errorf("Config.%s: say in carried where it arrives", name)
			continue
		}
		var cfg providers.Config
		entry.set(&cfg)
		if fieldByPath(&cfg, name).IsZero() {
			t.Errorf("%s: its entry does not set it", name)
		}
		if got, def := entry.got(build(t, cfg)), entry.got(build(t, providers.Config{})); reflect.DeepEqual(got, def) {
			t.Errorf("%s is lost: %v either way", name, got)
		}
	}
	if len(carried) != len(fields) {
		t.Errorf("%d entries for %d fields", len(carried), len(fields))
	}
}

func TestDefaults(t *testing.T) {
	b := build(t, providers.Config{})
	for name, pair := range map[string][2]any{
		"MaxLifetime":         {b.pc.MaxConnLifetime, providers.DefaultMaxLifetime},
		"jitter":              {b.pc.MaxConnLifetimeJitter, providers.DefaultMaxLifetime / 10},
		"MaxIdleTime":         {b.pc.MaxConnIdleTime, providers.DefaultMaxIdleTime},
		"HealthCheckInterval": {b.pc.HealthCheckPeriod, providers.DefaultHealthCheckInterval},
		"AcquireTimeout":      {b.p.acquireTimeout, providers.DefaultAcquireTimeout},
		"ConnectTimeout":      {b.pc.ConnConfig.ConnectTimeout, providers.DefaultConnectTimeout},
		"PingTimeout":         {b.pc.PingTimeout, providers.DefaultPingTimeout},
		"MaxDials":            {cap(b.p.dials), providers.DefaultMaxDials},
		"SessionReset":        {b.p.resets, true},
		"MinSize":             {b.pc.MinConns, int32(0)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %v, want %v", name, pair[0], pair[1])
		}
	}
	if _, set := b.pc.ConnConfig.RuntimeParams["statement_timeout"]; set {
		t.Error("the server's own statement_timeout is overridden")
	}
	if b.p.logger() != slog.Default() {
		t.Error("no default logger")
	}
}

func TestTrap01NoLifetimeOfZero(t *testing.T) {
	for name, cfg := range map[string]providers.Config{
		"off":           {Pool: providers.PoolStrategy{MaxLifetime: providers.Off, MaxIdleTime: providers.Off}},
		"0 in the DSN":  {DSN: "pool_max_conn_lifetime=0 pool_max_conn_idle_time=0 pool_ping_timeout=0"},
		"negative idle": {DSN: "pool_max_conn_lifetime=-1s pool_max_conn_idle_time=-1s"},
	} {
		b := build(t, cfg)
		if b.pc.MaxConnLifetime < 50*365*24*time.Hour || b.pc.MaxConnIdleTime < 50*365*24*time.Hour {
			t.Errorf("%s: %s, %s", name, b.pc.MaxConnLifetime, b.pc.MaxConnIdleTime)
		}
		if at := time.Now().Add(b.pc.MaxConnLifetime).Add(b.pc.MaxConnLifetimeJitter); at.Before(time.Now()) {
			t.Errorf("%s: the lifetime overflows", name)
		}
		if b.pc.MaxConnLifetimeJitter > time.Hour {
			t.Errorf("%s: jitter %s", name, b.pc.MaxConnLifetimeJitter)
		}
	}
}

func TestDSN(t *testing.T) {
	for _, dsn := range []string{
		"postgres://me:secret@db.example:6543/shop?connect_timeout=9&pool_max_conns=11&pool_min_conns=2&application_name=a",
		"host=db.example port=6543 user=me password=secret dbname=shop connect_timeout=9 pool_max_conns=11 pool_min_conns=2 application_name=a",
	} {
		b := build(t, providers.Config{DSN: dsn})
		cc := b.pc.ConnConfig
		if cc.Host != "db.example" || cc.Port != 6543 || cc.User != "me" || cc.Password != "secret" || cc.Database != "shop" ||
			cc.ConnectTimeout != 9*time.Second || b.p.maxConns != 11 || b.p.minConns != 2 || cc.RuntimeParams["application_name"] != "a" {
			t.Errorf("%s: %+v", dsn, cc)
		}
		// The strategy goes before the DSN.
		b = build(t, providers.Config{DSN: dsn, ConnectTimeout: time.Second, Pool: providers.PoolStrategy{MaxSize: 5, MinSize: 1}})
		if b.pc.ConnConfig.ConnectTimeout != time.Second || b.p.maxConns != 5 || b.p.minConns != 1 {
			t.Errorf("the DSN wins over the fields: %d %d", b.p.maxConns, b.p.minConns)
		}
	}
}

func TestDSNNamesLifetimes(t *testing.T) {
	const dsn = "pool_max_conn_lifetime=7m pool_max_conn_idle_time=6m pool_health_check_period=5s " +
		"pool_max_conn_lifetime_jitter=3m pool_ping_timeout=4s pool_min_idle_conns=1"
	pc := build(t, providers.Config{DSN: dsn}).pc
	if pc.MaxConnLifetime != 7*time.Minute || pc.MaxConnIdleTime != 6*time.Minute || pc.HealthCheckPeriod != 5*time.Second ||
		pc.MaxConnLifetimeJitter != 3*time.Minute || pc.PingTimeout != 4*time.Second || pc.MinIdleConns != 1 {
		t.Errorf("what the DSN names is dropped: %+v", pc)
	}
	pc = build(t, providers.Config{DSN: dsn, PingTimeout: time.Second, Pool: providers.PoolStrategy{
		MaxLifetime: time.Minute, MaxIdleTime: time.Minute, HealthCheckInterval: time.Second,
	}}).pc
	if pc.MaxConnLifetime != time.Minute || pc.MaxConnIdleTime != time.Minute || pc.HealthCheckPeriod != time.Second || pc.PingTimeout != time.Second {
		t.Errorf("the fields must go before the DSN: %+v", pc)
	}
}

func TestEnvironment(t *testing.T) {
	for k, v := range map[string]string{
		"PGHOST": "env.example", "PGPORT": "7000", "PGUSER": "envuser", "PGDATABASE": "envdb", "PGPASSWORD": "envpw",
		"PGAPPNAME": "envapp", "PGCONNECT_TIMEOUT": "4",
	} {
		t.Setenv(k, v)
	}
	cc := build(t, providers.Config{}).pc.ConnConfig
	if cc.Host != "env.example" || cc.Port != 7000 || cc.User != "envuser" || cc.Database != "envdb" || cc.Password != "envpw" ||
		cc.RuntimeParams["application_name"] != "envapp" || cc.ConnectTimeout != 4*time.Second {
		t.Errorf("%+v", cc)
	}
	if cc := build(t, providers.Config{DSN: "host=dsn.example"}).pc.ConnConfig; cc.Host != "dsn.example" || cc.Port != 7000 {
		t.Errorf("the DSN goes first, the environment fills the rest: %s:%d", cc.Host, cc.Port)
	}
}

func TestProfiles(t *testing.T) {
	conn := &pgconn.PgConn{}
	direct := build(t, providers.Config{}).pc.ConnConfig
	if _, ok := direct.BuildContextWatcherHandler(conn).(*pingWatcher).Handler.(*canceller); !ok {
		t.Error("direct: a context that ends must cancel the statement, not close the connection")
	}
	if direct.DefaultQueryExecMode != pgx.QueryExecModeCacheStatement || direct.StatementCacheCapacity == 0 {
		t.Error("direct: statements must be cached")
	}
	bouncer := build(t, providers.Config{Profile: providers.ProfilePgBouncer})
	cc := bouncer.pc.ConnConfig
	if _, ok := cc.BuildContextWatcherHandler(conn).(*pingWatcher).Handler.(*pgconn.DeadlineContextWatcherHandler); !ok {
		t.Error("pgbouncer: no cancel request may be sent")
	}
	if cc.DefaultQueryExecMode != pgx.QueryExecModeExec || cc.StatementCacheCapacity+cc.DescriptionCacheCapacity != 0 || bouncer.p.resets {
		t.Errorf("pgbouncer: %v, caches %d and %d, reset %v", cc.DefaultQueryExecMode, cc.StatementCacheCapacity, cc.DescriptionCacheCapacity, bouncer.p.resets)
	}
	simple := build(t, providers.Config{Profile: providers.ProfilePgBouncer, DSN: "default_query_exec_mode=simple_protocol"}).pc.ConnConfig
	if simple.DefaultQueryExecMode != pgx.QueryExecModeSimpleProtocol {
		t.Error("pgbouncer: the simple protocol that the DSN asks for is as safe")
	}
	if cached := build(t, providers.Config{Profile: providers.ProfilePgBouncer, DSN: "default_query_exec_mode=cache_statement"}); cached.pc.ConnConfig.DefaultQueryExecMode != pgx.QueryExecModeExec {
		t.Error("pgbouncer: named statements would break")
	}
	serverless := build(t, providers.Config{Profile: providers.ProfileServerless}).pc
	if serverless.MaxConnIdleTime != serverlessMaxIdleTime || serverless.ConnConfig.ConnectTimeout != serverlessConnectTimeout || serverless.MinConns != 0 {
		t.Errorf("serverless: %s, %s", serverless.MaxConnIdleTime, serverless.ConnConfig.ConnectTimeout)
	}
}

func TestTrap12DSNErrorsHideSecrets(t *testing.T) {
	for _, dsn := range []string{
		"postgres://u:hunter2@h:notaport/d", "host=h password=hunter2 port=notaport", "postgres://u:hunter2@h/d?pool_max_conns=x",
	} {
		for _, open := range []func() error{
			func() error { _, err := Open(t.Context(), providers.Config{DSN: dsn}); return err },
			func() error { _, err := newPoolConfig(providers.Config{DSN: dsn}); return err },
		} {
			err := open()
			var fault *providers.ConfigError
			if !errors.As(err, &fault) || fault.Field != "DSN" {
				t.Errorf("%s: %v", dsn, err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in %q", err)
			}
		}
	}
}
