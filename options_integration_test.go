package pgkeel_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
)

// optionEffects shows for each option what it changes.
var optionEffects = map[string]func(t *testing.T){
	"WithConfig": func(t *testing.T) {
		db := openDB(t, pgkeel.WithConfig(pgkeel.Config{StatementTimeout: time.Minute, Pool: pgkeel.PoolStrategy{MaxSize: 3}}))
		if limit := value[string](t, db, "show statement_timeout"); limit != "1min" || db.Stats().MaxSize != 3 {
			t.Errorf("%s, %d", limit, db.Stats().MaxSize)
		}
	},
	"WithProvider": func(t *testing.T) {
		if got := configOf(t, "host=there"); got.DSN != "host=there" {
			t.Error(got.DSN)
		}
	},
	"WithPool": func(t *testing.T) {
		db := openDB(t, pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 3, InitialSize: 2, WarmupQueries: []string{"set my.warmth = 'warm'"}}))
		if s := db.Stats(); s.MaxSize != 3 || s.Open != 2 {
			t.Errorf("%+v", s)
		}
		if warmth := value[string](t, db, "show my.warmth"); warmth != "warm" {
			t.Error(warmth)
		}
	},
	"WithProfile": func(t *testing.T) {
		for profile, prepared := range map[pgkeel.Profile]int64{pgkeel.ProfileDirect: 2, pgkeel.ProfilePgBouncer: 0} {
			db := openDB(t, one(), pgkeel.WithProfile(profile))
			_ = value[int](t, db, "select $1::int", 1)
			if n, err := db.QueryCount(t.Context(), "select count(*) from pg_prepared_statements"); n != prepared || err != nil {
				t.Errorf("%s: %d statements, %v", profile, n, err)
			}
		}
	},
	"WithAcquireTimeout": func(t *testing.T) {
		db := openDB(t, one(), pgkeel.WithAcquireTimeout(20*time.Millisecond))
		conn := acquire(t, db)
		defer conn.Release()
		_, err := db.Acquire(t.Context())
		mustSay(t, err, pgkeel.ErrPoolExhausted, "acquire timeout")
		mustBe(t, err, pgkeel.OutcomeNotSent)
		if held := as[*pgkeel.ExhaustedError](t, err); held.Waited > 5*time.Second || len(held.Holders) != 1 {
			t.Errorf("%+v", held)
		}
	},
	"WithConnectTimeout": func(t *testing.T) {
		start := time.Now()
		_, err := pgkeel.Open(t.Context(), "postgres://u@"+silent(t, new(atomic.Int32)), one(), pgkeel.WithConnectTimeout(50*time.Millisecond))
		mustSay(t, err, pgkeel.ErrUnreachable)
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("it took %s", took)
		}
	},
	"WithPingTimeout": func(t *testing.T) {
		db := openDB(t, pgkeel.WithPingTimeout(123*time.Millisecond))
		if got := db.Unwrap().Config().PingTimeout; got != 123*time.Millisecond {
			t.Error(got)
		}
	},
	"WithStatementTimeout": func(t *testing.T) {
		db := openDB(t, pgkeel.WithStatementTimeout(20*time.Millisecond))
		_, err := db.Exec(t.Context(), "select pg_sleep(60)")
		mustSay(t, err, context.DeadlineExceeded, "statement_timeout")
	},
	"WithDeadlinePropagation": func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for with, options := range map[bool][]pgkeel.Option{false: nil, true: {pgkeel.WithDeadlinePropagation(), pgkeel.WithDeadlinePropagation()}} {
			limit, err := pgkeel.One[string](ctx, openDB(t, options...), "show statement_timeout")
			if err != nil || with != (limit != "0") {
				t.Errorf("with it %v: %s, %v", with, limit, err)
			}
		}
	},
	"WithMaxDials": func(t *testing.T) {
		for limit, want := range map[int32]int32{2: 2, 5: 5} {
			var dials atomic.Int32
			_, err := pgkeel.Open(t.Context(), "postgres://u@"+silent(t, &dials)+"?sslmode=disable",
				pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 6, InitialSize: 6}), pgkeel.WithMaxDials(limit), pgkeel.WithConnectTimeout(200*time.Millisecond))
			mustSay(t, err, pgkeel.ErrUnreachable)
			// The first attempts end together, and the first error ends the rest.
			if got := dials.Load(); got < want || got > 2*want {
				t.Errorf("%d dials of %d at a time", got, limit)
			}
		}
	},
	"WithSessionReset": func(t *testing.T) {
		const hidden = "create function hide() returns text language sql as $$ select set_config('my.mark', 'left', false) $$"
		for policy, want := range map[pgkeel.SessionReset][2]string{
			pgkeel.ResetDirty: {"", "left"}, pgkeel.ResetAlways: {"", ""}, pgkeel.ResetNever: {"left", "left"},
		} {
			db := openDB(t, one(), pgkeel.WithSessionReset(policy))
			mustExec(t, db, hidden)
			for i, sql := range []string{"set my.mark = 'left'", "select hide()"} {
				mustExec(t, db, sql)
				if got := value[string](t, db, "select coalesce(current_setting('my.mark', true), '')"); got != want[i] {
					t.Errorf("policy %d after %s: %q", policy, sql, got)
				}
			}
		}
	},
	"WithLeakDetection": func(t *testing.T) {
		var log journal
		db := openDB(t, pgkeel.WithLeakDetection(time.Millisecond), pgkeel.WithLogger(log.logger()))
		conn := acquire(t, db)
		defer conn.Release()
		eventually(t, "the leak is counted", func() bool { return db.Stats().Leaks == 1 })
		eventually(t, "and logged with its stack", func() bool { return strings.Contains(log.String(), "helpers_test.go") })
	},
	"WithAfterConnect": func(t *testing.T) {
		db := openDB(t, pgkeel.WithAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "set my.own = 'set'")
			return err
		}))
		if got := value[string](t, db, "show my.own"); got != "set" {
			t.Error(got)
		}
		_, err := pgkeel.Open(t.Context(), pgtest.NewDB(t), one(), pgkeel.WithAfterConnect(func(context.Context, *pgx.Conn) error { return errMine }))
		mustSay(t, err, errMine)
	},
	"WithTracer": func(t *testing.T) {
		var seen journal
		db := openDB(t, pgkeel.WithTracer(tracer{&seen}))
		_ = value[int](t, db, "select 42")
		if !strings.Contains(seen.String(), "select 42") {
			t.Error(seen.String())
		}
	},
	"WithHooks": func(t *testing.T) {
		var seen journal
		db := openDB(t, pgkeel.WithHooks(noting(&seen, "a"), noting(&seen, "b")))
		_ = value[int](t, db, "select 42")
		if got := seen.String(); got != "before a\nbefore b\nafter b\nafter a\n" {
			t.Error(got)
		}
	},
	"WithHookPanics": func(t *testing.T) {
		db := openDB(t, one(), pgkeel.WithHookPanics(pgkeel.PropagatePanics), pgkeel.WithHooks(panics()))
		defer func() {
			if r := recover(); r != "hook" {
				t.Errorf("recovered %v", r)
			}
		}()
		_, _ = db.Exec(t.Context(), "select 1")
		t.Error("the panic was kept")
	},
	"WithLogger": func(t *testing.T) {
		for _, order := range [][]pgkeel.Option{nil, {pgkeel.WithHookPanics(pgkeel.RecoverPanics)}} {
			var log journal
			db := openDB(t, append(order, pgkeel.WithLogger(log.logger()), pgkeel.WithHooks(panics()))...)
			mustExec(t, db, "select 1")
			if !strings.Contains(log.String(), "a hook panicked") || db.Stats().HookPanics != 1 {
				t.Errorf("%d panics, and the log has %q", db.Stats().HookPanics, &log)
			}
		}
	},
}

// An option without an effect is worse than none.
func TestEveryOptionHasAnEffect(t *testing.T) {
	options := optionNames(t)
	for _, name := range options {
		effect, ok := optionEffects[name]
		if !ok && !slices.Contains(shownElsewhere, name) {
			t.Errorf("%s: say in optionEffects what it changes", name)
			continue
		}
		if ok {
			t.Run(name, effect)
		}
	}
	for name := range optionEffects {
		if !slices.Contains(options, name) {
			t.Errorf("%s is no option", name)
		}
	}
}

// shownElsewhere are the options whose effect a file of their own shows.
var shownElsewhere = []string{"WithCluster", "WithOpener", "WithPipelining", "WithReplicas", "WithTenancy"}

// optionNames reads the options from the source.
func optionNames(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || fn.Type.Results == nil {
				continue
			}
			if result, ok := fn.Type.Results.List[0].Type.(*ast.Ident); ok && result.Name == "Option" && fn.Name.IsExported() {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names
}

// silent is a server that never answers, and counts who connects.
func silent(t testing.TB, dials *atomic.Int32) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			dials.Add(1)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		accepting.Wait()
	})
	return l.Addr().String()
}

type tracer struct{ seen *journal }

func (tr tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	tr.seen.note(data.SQL)
	return ctx
}
func (tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func noting(seen *journal, name string) pgkeel.Hook {
	return pgkeel.Hook{
		Name: name, Events: []pgkeel.HookEvent{pgkeel.EventQuery},
		Before: func(context.Context, *pgkeel.HookInfo) context.Context {
			seen.note("before", name)
			return nil
		},
		After: func(context.Context, *pgkeel.HookInfo) { seen.note("after", name) },
	}
}

func panics() pgkeel.Hook {
	return pgkeel.Hook{
		Name: "panics", Events: []pgkeel.HookEvent{pgkeel.EventExec},
		After: func(context.Context, *pgkeel.HookInfo) { panic("hook") },
	}
}
