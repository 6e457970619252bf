package pgx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// rawCopier is what moves data as they are.
type rawCopier interface {
	runner
	providers.RawCopier
}

func TestRawCopyThereAndBack(t *testing.T) {
	hooks, seen := watched(t)
	onEach(t, providers.Config{Hooks: hooks}, `create table t (n int, v text)`, func(t *testing.T, p *Pool, q runner) {
		seen.forget()
		var data strings.Builder
		for i := range 50_000 {
			fmt.Fprintf(&data, "%d,a value of some length\n", i)
		}
		const in = `copy t from stdin (format csv)`
		tag, err := q.(rawCopier).CopyFromReader(t.Context(), iotest.OneByteReader(io.LimitReader(strings.NewReader(data.String()), 20)), in)
		if err != nil || tag.RowsAffected() != 1 {
			t.Fatal(tag, err)
		}
		mustExec(t, q, `truncate t`)
		tag, err = q.(rawCopier).CopyFromReader(t.Context(), strings.NewReader(data.String()), in)
		if err != nil || tag.RowsAffected() != 50_000 {
			t.Fatal(tag, err)
		}
		var back bytes.Buffer
		const out = `copy (select * from t order by n) to stdout (format csv)`
		tag, err = q.(rawCopier).CopyToWriter(t.Context(), &back, out)
		if err != nil || tag.RowsAffected() != 50_000 || back.String() != data.String() {
			t.Errorf("%v %v, %d bytes of %d", tag, err, back.Len(), data.Len())
		}
		got := seen.of(providers.EventCopy)
		if len(got) != 3 || got[2].Rows != 50_000 || got[2].SQL != out || got[1].SQL != in || got[1].PID == 0 {
			t.Errorf("%+v", got)
		}
		if q == runner(p) && (p.Stats().InUse != 0 || p.Stats().Connects != 1) {
			t.Errorf("%+v", p.Stats())
		}
	})
}

func TestRawCopyRefusesWhatCannotWork(t *testing.T) {
	onEach(t, providers.Config{}, `create table t (n int)`, func(t *testing.T, _ *Pool, q runner) {
		c := q.(rawCopier)
		refused := func(what string, err error) {
			t.Helper()
			if err == nil || providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Errorf("%s: %v", what, err)
			}
		}
		for _, sql := range []string{
			"", "select 1", "copy t to stdout", "copy t from '/etc/passwd'", "copy t from stdin\x00", "copy t from stdin; drop table t",
			"explain copy t from stdin", `copy "from stdin" to stdout`, "copy t /* from stdin */ to stdout", "copy t from program 'cat stdin'",
		} {
			_, err := c.CopyFromReader(t.Context(), strings.NewReader("1\n"), sql)
			refused(sql, err)
		}
		for _, sql := range []string{"copy t from stdin", "copy t from stdin; copy t to stdout", "table t", "copy t to '/tmp/x'"} {
			_, err := c.CopyToWriter(t.Context(), io.Discard, sql)
			refused(sql, err)
		}
		_, err := c.CopyFromReader(t.Context(), nil, "copy t from stdin")
		refused("a nil reader", err)
		_, err = c.CopyToWriter(t.Context(), nil, "copy t to stdout")
		refused("a nil writer", err)
		for sql, way := range map[string]copyWay{
			"-- the table\nCOPY t (a, b) FROM stdin;": copyIn, "copy (select 'from stdin') to stdout ;": copyOut,
		} {
			if !way.matches(sql) {
				t.Errorf("%s was refused", sql)
			}
		}
		untouched := false
		reader := readerFunc(func([]byte) (int, error) { untouched = true; return 0, io.EOF })
		_, err = c.CopyFromReader(ended(), reader, "copy t from stdin")
		refused("a context that has ended", err)
		if untouched {
			t.Error("the reader was read, though nothing was to be sent")
		}
		_, err = c.CopyToWriter(ended(), io.Discard, "copy t to stdout")
		refused("a context that has ended", err)
	})
}

func TestRawCopyOnWhatIsOver(t *testing.T) {
	p := balanced(t, providers.Config{})
	c := acquireN(t, p, 1)[0].(*Conn)
	c.Release()
	tx := begin(t, p, providers.TxOptions{})
	mustCommit(t, tx)
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]providers.RawCopier{"pool": p, "conn": c, "tx": tx} {
		_, in := q.CopyFromReader(t.Context(), strings.NewReader(""), "copy t from stdin")
		_, out := q.CopyToWriter(t.Context(), io.Discard, "copy t to stdout")
		if in == nil || out == nil {
			t.Errorf("%s: %v, %v", name, in, out)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// after yields some rows and then what fn does.
func after(fn func() (int, error)) io.Reader {
	return io.MultiReader(strings.NewReader("1\n2\n"), readerFunc(func([]byte) (int, error) { return fn() }))
}

var errOfCaller = errors.New("the caller's own")

// inEach runs an attempt that must fail on a pool, a connection and a
// savepoint, whose connection must survive it, and nothing be copied.
func inEach(t *testing.T, attempt func(t *testing.T, q rawCopier)) {
	onEach(t, providers.Config{}, `create table t (n int)`, func(t *testing.T, p *Pool, q runner) {
		if tx, ok := q.(*Tx); ok {
			sp := savepoint(t, tx, "")
			attempt(t, sp)
			if err := sp.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else {
			attempt(t, q.(rawCopier))
		}
		if n := value[int](t, q, `select count(*) from t`); n != 0 || p.Stats().Connects != 1 {
			t.Errorf("%d rows, %d connections made", n, p.Stats().Connects)
		}
	})
}

func TestRawCopyReaderFails(t *testing.T) {
	for name, tc := range map[string]struct {
		fn    func() (int, error)
		is    error
		panic any
	}{
		"error":    {fn: func() (int, error) { return 0, errOfCaller }, is: errOfCaller},
		"deadline": {fn: func() (int, error) { return 0, context.DeadlineExceeded }, is: context.DeadlineExceeded},
		"nothing":  {fn: func() (int, error) { return 0, nil }, is: io.ErrNoProgress},
		"panic":    {fn: func() (int, error) { panic("boom") }, panic: "boom"},
		"exit":     {fn: func() (int, error) { runtime.Goexit(); return 0, nil }, is: errPanicked},
	} {
		t.Run(name, func(t *testing.T) {
			inEach(t, func(t *testing.T, q rawCopier) {
				var err error
				r := panics(func() { _, err = q.CopyFromReader(t.Context(), after(tc.fn), "copy t from stdin") })
				if r != tc.panic {
					t.Fatalf("panicked with %v", r)
				}
				if tc.panic != nil {
					return
				}
				var pg *providers.PGError
				var limit *providers.TimeoutError
				if !errors.Is(err, tc.is) || !errors.As(err, &pg) || errors.As(err, &limit) ||
					!strings.Contains(err.Error(), "the reader failed") || strings.Contains(pg.Message, tc.is.Error()) {
					t.Errorf("%v", err)
				}
				if providers.OutcomeOf(err) != providers.OutcomeRolledBack {
					t.Errorf("outcome %s", providers.OutcomeOf(err))
				}
			})
		})
	}
}

// blocked is a reader that yields data, and then nothing until it is freed.
func blocked(t *testing.T, data string) (r io.Reader, reached chan struct{}) {
	reached, free := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(free) })
	return io.MultiReader(strings.NewReader(data), readerFunc(func([]byte) (int, error) {
		close(reached)
		<-free
		return 0, io.EOF
	})), reached
}

func TestRawCopyDoesNotWaitForAReaderThatBlocks(t *testing.T) {
	t.Run("when the context ends", func(t *testing.T) {
		inEach(t, func(t *testing.T, q rawCopier) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, reached := blocked(t, "1\n")
			go func() { <-reached; cancel() }()
			_, err := q.CopyFromReader(ctx, r, "copy t from stdin")
			var limit *providers.TimeoutError
			if !errors.As(err, &limit) || !errors.Is(err, context.Canceled) || providers.OutcomeOf(err) != providers.OutcomeRolledBack {
				t.Errorf("%v", err)
			}
		})
	})
	t.Run("when the server refuses the data", func(t *testing.T) {
		inEach(t, func(t *testing.T, q rawCopier) {
			// More than a line, or the server would wait for the end of it.
			r, _ := blocked(t, "no number\n")
			_, err := q.CopyFromReader(t.Context(), r, "copy t from stdin")
			var pg *providers.PGError
			if !errors.As(err, &pg) || pg.Code != "22P02" || !strings.Contains(pg.Where, "line 1, column n") {
				t.Errorf("%v", err)
			}
		})
	})
	t.Run("when the backend is killed", func(t *testing.T) {
		p := balanced(t, providers.Config{})
		killer := openPool(t, providers.Config{DSN: p.cfg.DSN})
		mustExec(t, p, `create table t (n int)`)
		r, reached := blocked(t, "1\n")
		go func() {
			<-reached
			_, _ = killer.Exec(context.Background(), `select pg_terminate_backend(pid) from pg_stat_activity where query like 'copy t%'`)
		}()
		_, err := p.CopyFromReader(t.Context(), r, "copy t from stdin")
		if err == nil || providers.OutcomeOf(err) != providers.OutcomeUnknown {
			t.Errorf("%v, outcome %s", err, providers.OutcomeOf(err))
		}
		if n := rowsIn(t, p); n != 0 {
			t.Errorf("%d rows", n)
		}
	})
}

func TestRawCopyWriterFails(t *testing.T) {
	for name, tc := range map[string]struct {
		fn    func(b []byte) (int, error)
		is    error
		panic any
	}{
		"error": {fn: func([]byte) (int, error) { return 0, errOfCaller }, is: errOfCaller},
		"short": {fn: func(b []byte) (int, error) { return len(b) - 1, nil }, is: io.ErrShortWrite},
		"panic": {fn: func([]byte) (int, error) { panic("boom") }, panic: "boom"},
	} {
		t.Run(name, func(t *testing.T) {
			inEach(t, func(t *testing.T, q rawCopier) {
				written := 0
				w := writerFunc(func(b []byte) (int, error) {
					if written++; written == 10 {
						return tc.fn(b)
					}
					return len(b), nil
				})
				var err error
				// So many that the server is far from their end.
				r := panics(func() {
					_, err = q.CopyToWriter(t.Context(), w, `copy (select repeat('x', 1000), generate_series(1, 10000000)) to stdout`)
				})
				if r != tc.panic || written != 10 {
					t.Fatalf("panicked with %v, %d writes", r, written)
				}
				if tc.panic == nil && (!errors.Is(err, tc.is) || !strings.Contains(err.Error(), "the writer failed")) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

func TestRawCopyWriterFailsAtTheVeryEnd(t *testing.T) {
	p := balanced(t, providers.Config{})
	w := writerFunc(func([]byte) (int, error) { return 0, errOfCaller })
	_, err := p.CopyToWriter(t.Context(), w, `copy (select 1) to stdout`)
	if !errors.Is(err, errOfCaller) {
		t.Errorf("%v", err)
	}
	// Whether or not the request to stop came too late: the next statement is
	// none of its business.
	for range 20 {
		if n := value[int](t, p, `select 1`); n != 1 {
			t.Error(n)
		}
	}
}

func TestRawCopyWriterEndsItsGoroutine(t *testing.T) {
	p := balanced(t, providers.Config{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = p.CopyToWriter(context.Background(), writerFunc(func([]byte) (int, error) { runtime.Goexit(); return 0, nil }),
			`copy (select generate_series(1, 100000)) to stdout`)
	}()
	<-done
	if n := value[int](t, p, `select 1`); n != 1 {
		t.Error(n)
	}
}

func TestRawCopyToEndsWithItsContext(t *testing.T) {
	inEach(t, func(t *testing.T, q rawCopier) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil })
		_, err := q.CopyToWriter(ctx, w, `copy (select repeat('x', 1000), generate_series(1, 10000000)) to stdout`)
		var limit *providers.TimeoutError
		if !errors.As(err, &limit) || !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

func TestRawCopyThroughPgBouncerProfile(t *testing.T) {
	p := balanced(t, providers.Config{Profile: providers.ProfilePgBouncer})
	mustExec(t, p, `create table t (n int)`)
	_, err := p.CopyToWriter(t.Context(), writerFunc(func([]byte) (int, error) { return 0, errOfCaller }),
		`copy (select generate_series(1, 1000000)) to stdout`)
	if !errors.Is(err, errOfCaller) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r, _ := blocked(t, "1\n")
	if _, err = p.CopyFromReader(ctx, r, "copy t from stdin"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if n := rowsIn(t, p); n != 0 {
		t.Error(n)
	}
}

func TestRawCopySoilsTheSession(t *testing.T) {
	p := balanced(t, providers.Config{})
	_, err := p.CopyToWriter(t.Context(), io.Discard, `copy (select set_config('application_name', 'mine', false)) to stdout`)
	if err != nil {
		t.Fatal(err)
	}
	if name := value[string](t, p, `show application_name`); name == "mine" || p.Stats().Resets != 1 {
		t.Errorf("application_name is %q", name)
	}
}

func TestRawCopyKeepsTheUsersOnPgError(t *testing.T) {
	p := balanced(t, providers.Config{})
	heard := 0
	config := p.pool.Config().ConnConfig.Copy()
	config.OnPgError = func(*pgconn.PgConn, *pgconn.PgError) bool { heard++; return true }
	watchErrors(config)
	if !config.OnPgError(&pgconn.PgConn{}, nil) || heard != 1 {
		t.Error("the user's own was not asked")
	}
	config.OnPgError = nil
	watchErrors(config)
	if !config.OnPgError(&pgconn.PgConn{}, nil) {
		t.Error("the connection is given up without a reason")
	}
}

func TestRawCopyOfAReleasedConnection(t *testing.T) {
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 1}})
	mustExec(t, p, `create table t (n int)`)
	c := acquireN(t, p, 1)[0].(*Conn)
	r, reached := blocked(t, "1\n")
	go func() { <-reached; c.Release() }()
	if _, err := c.CopyFromReader(t.Context(), r, "copy t from stdin"); err == nil {
		t.Error("it was loaded over a connection that was given back")
	}
	if n := rowsIn(t, p); n != 0 {
		t.Error(n)
	}
}
