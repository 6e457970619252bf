package pgx

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// Of the session's own limit and a deadline the shorter one counts.
func TestPipelinedSessionLimit(t *testing.T) {
	p := pipelinedPool(t, providers.Config{StatementTimeout: 90 * time.Second})
	for _, tc := range []struct {
		left time.Duration
		want string
	}{
		{time.Hour, "90s"}, {15 * time.Second, "15s"}, {time.Hour, "90s"}, {0, "90s"},
	} {
		ctx := t.Context()
		if tc.left > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, tc.left)
			defer cancel()
		}
		for range 2 {
			if n := sent(p, func() { wantLimit(ctx, t, p, nil, tc.want, tc.want) }); n == 0 {
				t.Error("it was not pipelined")
			}
		}
	}
}

// wantLimit runs a statement in a scope that has a limit, and checks under which it
// ran.
func wantLimit(ctx context.Context, t *testing.T, p *Pool, settings []string, least, most string) {
	t.Helper()
	const sql = "select current_setting('statement_timeout'), extract(epoch from current_setting('statement_timeout')::interval)::float8"
	call := scoped(providers.CallQuery, sql, nil, settings...)
	if err := p.Run(ctx, call); err != nil {
		t.Fatal(err)
	}
	var text string
	var got float64
	if err := providers.FirstRow(call.Rows).Scan(&text, &got); err != nil {
		t.Fatal(err)
	}
	from, _ := time.ParseDuration(least)
	to, _ := time.ParseDuration(most)
	if got < from.Seconds() || got > 1.15*to.Seconds() { // rounded up by up to an eighth
		t.Errorf("it ran under a limit of %s, want %s to %s", text, least, most)
	}
}

func TestPipelinedScopesLimit(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, tc := range map[string]struct {
		settings    []string
		least, most string
	}{
		"shorter than the deadline":         {[]string{"statement_timeout", "5000"}, "5s", "5s"},
		"longer":                            {[]string{"statement_timeout", "3600000"}, "50s", "60s"},
		"none":                              {[]string{"statement_timeout", "0"}, "50s", "60s"},
		"with a unit":                       {[]string{"statement_timeout", "7s"}, "7s", "7s"},
		"shorter, among others":             {[]string{"app.tenant", "a", "statement_timeout", "5000"}, "5s", "5s"},
		"longer, among others":              {[]string{"app.tenant", "a", "statement_timeout", "3600000"}, "50s", "60s"},
		"none, among others":                {[]string{"statement_timeout", "0", "app.tenant", "a"}, "50s", "60s"},
		"others only, as they say nothing":  {[]string{"app.tenant", "a"}, "50s", "60s"},
		"nothing":                           {nil, "50s", "60s"},
		"shorter, in front of the same one": {[]string{"statement_timeout", "5000", "app.tenant", "a"}, "5s", "5s"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, ctx := range []context.Context{ctx, providers.WithReadOnly(ctx)} {
				if n := sent(p, func() { wantLimit(ctx, t, p, tc.settings, tc.least, tc.most) }); n == 0 {
					t.Error("it was not pipelined")
				}
			}
		})
	}
}

func TestPipelinedExtremeOptions(t *testing.T) {
	for name, o := range map[string]providers.Pipelining{
		"all at their least": {
			Connections: 1, ReadConnections: 1, MaxInFlight: 1, MaxGroup: 1, MaxResultBytes: 1, SlowAfter: time.Hour,
		},
		"nothing is ever slow": {SlowAfter: math.MaxInt64},
		"all at their most": {
			Connections: 2, ReadConnections: 2, MaxInFlight: 1 << 16, MaxGroup: 1 << 16, MaxResultBytes: 16 << 20, SlowAfter: time.Hour,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := pipelinedPool(t, providers.Config{Pipelining: &o})
			mustExec(t, p, "create table t (n int)")
			n := sent(p, func() {
				var all sync.WaitGroup
				for w := range 8 {
					all.Go(func() {
						for i := range 20 {
							mustExec(t, p, "insert into t values ($1)", w*100+i)
							ctx := providers.WithReadOnly(t.Context())
							var s string
							if err := p.QueryRow(ctx, "select repeat('x', $1)", i).Scan(&s); err != nil || len(s) != i {
								t.Errorf("%q, %v", s, err)
							}
						}
					})
				}
				all.Wait()
			})
			if got := value[int](t, p, "select count(*)::int from t"); got != 8*20 || n == 0 {
				t.Errorf("%d rows, %d statements pipelined", got, n)
			}
		})
	}
}

// What a DSN says against prepared statements is not passed over.
func TestPipelinedWithoutPreparedStatements(t *testing.T) {
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		cfg := providers.Config{DSN: "postgres://localhost/d?default_query_exec_mode=" + mode, Pipelining: &providers.Pipelining{}}
		p, err := Open(t.Context(), cfg)
		if mode == "cache_statement" {
			if err != nil {
				t.Fatal(err)
			}
			closeAtEnd(t, p)
			continue
		}
		var fault *providers.ConfigError
		if !errors.As(err, &fault) || fault.Field != "Pipelining" || !strings.Contains(fault.Problem, "default_query_exec_mode") {
			t.Errorf("%s: %v", mode, err)
		}
	}
}
