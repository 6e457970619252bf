package pgx

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// troubled collects what OnTrouble hears.
type troubled struct {
	mu  sync.Mutex
	all []error
}

func (h *troubled) hear(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, err)
}

// take returns what was heard since the last time.
func (h *troubled) take() []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.all
	h.all = nil
	return all
}

// heard waits for trouble.
func (h *troubled) heard(t testing.TB, what string) {
	t.Helper()
	eventually(t, what+": trouble", func() bool { return len(h.take()) > 0 })
}

// ways are those to meet a connection that is lost.
var ways = map[string]func(ctx context.Context, p *Pool) error{
	"exec":  func(ctx context.Context, p *Pool) error { _, err := p.Exec(ctx, "select 'marker'"); return err },
	"query": func(ctx context.Context, p *Pool) error { return p.QueryRow(ctx, "select 'marker'").Scan(new(string)) },
	"scope": func(ctx context.Context, p *Pool) error {
		return p.Run(ctx, scoped(providers.CallExec, "select 'marker'", nil, "app.x", "1"))
	},
	"batch": func(ctx context.Context, p *Pool) error {
		b := &pgx.Batch{}
		b.Queue("select 'marker'")
		return p.SendBatch(ctx, b).Close()
	},
	"stream": func(ctx context.Context, p *Pool) error {
		return p.RunBatch(ctx, callOf(1, (&pgx.Batch{}).Queue("select 'marker'")))
	},
	"copy from": func(ctx context.Context, p *Pool) error {
		_, err := p.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"s"}, pgx.CopyFromRows([][]any{{"marker"}}))
		return err
	},
	"copy in": func(ctx context.Context, p *Pool) error {
		_, err := p.CopyFromReader(ctx, bytes.NewBufferString("marker\n"), "copy t from stdin")
		return err
	},
	"copy out": func(ctx context.Context, p *Pool) error {
		_, err := p.CopyToWriter(ctx, &bytes.Buffer{}, "copy (select 'marker') to stdout")
		return err
	},
	"commit": func(ctx context.Context, p *Pool) error {
		tx, err := p.Begin(ctx, providers.TxOptions{})
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "insert into d values ('marker')")
		return errors.Join(err, tx.Commit(ctx))
	},
	"unwrapped": func(ctx context.Context, p *Pool) error {
		_, err := p.Unwrap().Exec(ctx, "select 'marker'")
		return err
	},
	"ping": func(ctx context.Context, p *Pool) error { return p.Ping(ctx) },
}

// A connection that is lost is told of, by whichever way it was met.
func TestTroubleOfLostConnections(t *testing.T) {
	for name, way := range ways {
		for _, v := range []verdict{cutBefore, cutAfter} {
			t.Run(name, func(t *testing.T) {
				dsn := pgtest.NewDB(t)
				w, wired := newWire(t, dsn)
				heard := &troubled{}
				p := openPool(t, providers.Config{DSN: wired, Pool: providers.PoolStrategy{MaxSize: 1}, OnTrouble: heard.hear})
				mustExec(t, p, "create table t (s text); create table d (s text)")
				w.mu.Lock()
				w.rule = func(_ byte, body []byte) verdict {
					lost := bytes.Contains(body, []byte("marker")) || name == "ping"
					if lost && (name != "commit" || v == cutAfter) || bytes.HasPrefix(body, []byte("commit")) {
						return v
					}
					return forward
				}
				w.mu.Unlock()
				if n := len(heard.take()); n > 0 {
					t.Errorf("%d troubles before there was one", n)
				}
				if err := way(t.Context(), p); err == nil {
					t.Error("nothing was lost")
				}
				heard.heard(t, name)
			})
		}
	}
}

// An error of the server's that says that it is no longer what it was.
func TestTroubleOfTheServer(t *testing.T) {
	heard := &troubled{}
	p := openPool(t, providers.Config{OnTrouble: heard.hear, Pool: providers.PoolStrategy{MaxSize: 1}})
	for name, sql := range map[string]string{
		"57P01": "select pg_terminate_backend(pg_backend_pid())",
		"57P03": "do $$ begin raise exception using errcode = '57P03'; end $$",
		"25006": "set transaction_read_only = on; create table t (n int)",
	} {
		if _, err := p.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s: no error", name)
		}
		heard.heard(t, name)
	}
	openPool(t, providers.Config{DSN: p.cfg.DSN, OnTrouble: heard.hear, Pool: providers.PoolStrategy{MinSize: 1}})
	mustExec(t, p, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
	heard.heard(t, "an idle connection")
}

func TestTroubleOfABlackHole(t *testing.T) {
	heard := &troubled{}
	network := newNetwork(t)
	p := openPool(t, providers.Config{
		DSN: network.DSN(), Route: network.route, OnTrouble: heard.hear, PingTimeout: 300 * time.Millisecond, Pool: providers.PoolStrategy{MaxSize: 1},
	})
	mustExec(t, p, "select 1")
	p.pingAfter = 0
	network.freeze()
	mustExec(t, p, "select 1") // by another connection
	heard.heard(t, "a ping that is not answered")
}

func TestTroubleOfAttemptsToConnect(t *testing.T) {
	heard := &troubled{}
	cfg := providers.Config{
		DSN: withAddress(t, "postgres://app:hunter2@h/d?sslmode=disable", closedPort(t)), OnTrouble: heard.hear,
		Pipelining: &providers.Pipelining{Traffic: providers.PipelineAll},
	}
	p := openPool(t, cfg)
	_, _ = p.Exec(t.Context(), "select 1")
	heard.heard(t, "statement")
	_, _ = p.Listen(t.Context(), providers.ListenOptions{})
	heard.heard(t, "LISTEN")
	cfg.DSN, cfg.ConnectTimeout = withAddress(t, cfg.DSN, silent(t)), 10*time.Millisecond
	_, _ = openPool(t, cfg).Exec(t.Context(), "select 1")
	heard.heard(t, "no answer in time")
}

// What is the caller's doing, or the pool's own, says nothing of the server.
func TestNoTrouble(t *testing.T) {
	heard := &troubled{}
	p := openPool(t, providers.Config{OnTrouble: heard.hear, Pool: providers.PoolStrategy{MaxSize: 2}})
	mustExec(t, p, "create table t (n int)")
	for name, do := range map[string]func(ctx context.Context) error{
		"of a third server": func(ctx context.Context) error {
			_, err := p.Exec(ctx, "do $$ begin raise exception using errcode = '08006'; end $$")
			return err
		},
		"text that cannot be read": func(ctx context.Context) error { _, err := p.Exec(ctx, "select '\x00'"); return err },
		"a fault":                  func(ctx context.Context) error { _, err := p.Exec(ctx, "select 1/0"); return err },
		"no syntax":                func(ctx context.Context) error { _, err := p.Exec(ctx, "selec"); return err },
		"cancelled":                func(context.Context) error { _, err := p.Exec(ended(), "select 1"); return err },
		"LISTEN called off":        func(context.Context) error { _, err := p.Listen(ended(), providers.ListenOptions{}); return err },
		"a deadline": func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
			defer cancel()
			_, err := p.Exec(ctx, "select pg_sleep(60)")
			return err
		},
		"a write that was declared a read": func(ctx context.Context) error {
			_, err := p.Exec(providers.WithReadOnly(ctx), "insert into t values (1)")
			return err
		},
		"a write in a transaction that was": func(ctx context.Context) error {
			tx := begin(t, p, providers.TxOptions{Access: providers.ReadOnly})
			_, err := tx.Exec(ctx, "insert into t values (1)")
			return errors.Join(err, tx.Rollback(ctx))
		},
		"the caller's own reader": func(ctx context.Context) error {
			_, err := p.CopyFromReader(ctx, failingReader{}, "copy t from stdin")
			return err
		},
		"a connection closed under its borrower": func(ctx context.Context) error {
			tx := begin(t, p, providers.TxOptions{})
			rows, err := tx.Query(ctx, "select generate_series(1, 100000)")
			if err != nil {
				t.Fatal(err)
			}
			_ = tx.Rollback(ctx)
			for rows.Next() {
			}
			return rows.Err()
		},
	} {
		if err := do(t.Context()); err == nil {
			t.Errorf("%s: no error", name)
		}
		if all := heard.take(); len(all) > 0 {
			t.Errorf("%s is no trouble: %v", name, all)
		}
	}
	reader := openPool(t, providers.Config{DSN: p.cfg.DSN, OnTrouble: heard.hear, ReadOnly: true})
	if _, err := reader.Exec(t.Context(), "insert into t values (1)"); err == nil {
		t.Error("a session that only reads wrote")
	}
	c := acquireN(t, p, 1)[0]
	slow := make(chan error, 1)
	go func() {
		_, err := c.Exec(context.Background(), "select pg_sleep(60)")
		slow <- err
	}()
	eventually(t, "it runs", func() bool {
		return value[int](t, reader, "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()") > 0
	})
	_ = p.Close(ended())
	<-slow
	if all := heard.take(); len(all) > 0 {
		t.Errorf("the end of the pool is no trouble: %v", all)
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("mine") }
