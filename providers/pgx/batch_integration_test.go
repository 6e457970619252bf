package pgx

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// sender is what sends batches.
type sender interface {
	runner
	providers.Batcher
}

func TestBatch(t *testing.T) {
	onEach(t, providers.Config{}, "create table t (n int)", func(t *testing.T, p *Pool, q runner) {
		b := &pgx.Batch{}
		b.Queue("insert into t values ($1)", 1)
		b.Queue("select n from t")
		b.Queue("select generate_series(1, 3)")
		b.Queue("select 1 where false")
		results := q.(sender).SendBatch(t.Context(), b)
		tag, err := results.Exec()
		if err != nil || tag.RowsAffected() != 1 {
			t.Errorf("%s %v", tag, err)
		}
		var n int
		if err := results.QueryRow().Scan(&n); err != nil || n != 1 {
			t.Errorf("%d %v", n, err)
		}
		rows, err := results.Query()
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err != nil || len(got) != 3 {
			t.Errorf("%v %v", got, err)
		}
		if err := results.QueryRow().Scan(&n); !errors.Is(err, pgx.ErrNoRows) {
			t.Error(err)
		}
		if rows.Err() != nil {
			t.Error(rows.Err())
		}
		if results.Tx() != nil {
			t.Error("a transaction that nobody began")
		}
		for range 2 {
			if err := results.Close(); err != nil {
				t.Error(err)
			}
		}
		if q == runner(p) && p.Stats().InUse != 0 {
			t.Error("the connection is not back")
		}
		mustExec(t, q, "select 1")
	})
}

func TestBatchErrorsAreMapped(t *testing.T) {
	p := balanced(t, providers.Config{})
	failing := func() pgx.BatchResults {
		b := &pgx.Batch{}
		b.Queue("select 1/$1::int", 0)
		b.Queue("select 2")
		return p.SendBatch(t.Context(), b)
	}
	for name, read := range map[string]func(pgx.BatchResults) error{
		"exec":      func(r pgx.BatchResults) error { _, err := r.Exec(); return err },
		"query row": func(r pgx.BatchResults) error { var n int; return r.QueryRow().Scan(&n) },
		"query": func(r pgx.BatchResults) error {
			rows, err := r.Query()
			if err != nil {
				return err
			}
			rows.Next()
			return rows.Err()
		},
		"close": func(r pgx.BatchResults) error { return r.Close() },
	} {
		results := failing()
		err := read(results)
		var pg *providers.PGError
		if !errors.As(err, &pg) || pg.Code != "22012" {
			t.Errorf("%s: %v", name, err)
		}
		closed := results.Close()
		if !errors.As(closed, &pg) || !errors.Is(results.Close(), closed) {
			t.Errorf("%s, closed: %v", name, closed)
		}
	}
}

// Rows of a batch are read as a statement's are: by values, up to an error, which
// closes them, and a row once only.
func TestBatchRowsAreReadLikeOthers(t *testing.T) {
	p := balanced(t, providers.Config{})
	b := &pgx.Batch{}
	for range 2 {
		b.Queue("select n, 'x' from generate_series(1, 3) n")
	}
	results := p.SendBatch(t.Context(), b)
	rows, err := results.Query()
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	values, err := rows.Values()
	if err != nil || len(values) != 2 || values[0] != int32(1) || values[1] != "x" {
		t.Errorf("%v, %v", values, err)
	}
	rows.Close()
	if _, err := rows.Values(); err == nil || rows.Next() || rows.Conn() != nil {
		t.Errorf("read behind the end: %v", err)
	}
	if rows, err = results.Query(); err != nil || !rows.Next() {
		t.Fatal(err)
	}
	var n, wrong int
	scan := rows.Scan(&n, &wrong)
	if scan == nil || rows.Next() || !errors.Is(rows.Err(), scan) {
		t.Errorf("after an error the rows go on: %v, %v", scan, rows.Err())
	}
	if err := results.Close(); !errors.Is(err, scan) { // as in pgx
		t.Error(err)
	}
	b = &pgx.Batch{}
	b.Queue("select 1")
	results = p.SendBatch(t.Context(), b)
	row := results.QueryRow()
	if err := row.Scan(&n); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if err := row.Scan(&n); !errors.Is(err, errScannedTwice) {
		t.Error(err)
	}
	if err := results.Close(); err != nil {
		t.Error(err)
	}
	mustExec(t, p, "select 1")
}

func TestBatchRowsConnIsNotReused(t *testing.T) {
	p := balanced(t, providers.Config{})
	b := &pgx.Batch{}
	b.Queue("select 1")
	results := p.SendBatch(t.Context(), b)
	rows, err := results.Query()
	if err != nil {
		t.Fatal(err)
	}
	raw := rows.Conn()
	rows.Close()
	_ = results.Close()
	mustExec(t, p, "select 1")
	if !raw.IsClosed() {
		t.Error("the connection was handed out raw and then reused")
	}
}

func TestBatchRowsAbandonLeavesTheRestAlone(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create table t (n int)")
	b := &pgx.Batch{}
	b.Queue("insert into t values (1)")
	b.Queue("select generate_series(1, 100000)")
	b.Queue("insert into t values (2)")
	results := p.SendBatch(t.Context(), b)
	if _, err := results.Exec(); err != nil {
		t.Fatal(err)
	}
	rows, err := results.Query()
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	rows.(interface{ Abandon() }).Abandon()
	if err := results.Close(); err != nil {
		t.Error(err)
	}
	if n := rowsIn(t, p); n != 2 {
		t.Errorf("%d rows", n)
	}
}

func TestBatchCallbacks(t *testing.T) {
	onEach(t, providers.Config{}, "create table t (n int)", func(t *testing.T, _ *Pool, q runner) {
		stop := errors.New("the caller's own")
		b := &pgx.Batch{}
		ran := 0
		b.Queue("insert into t values (1)").Exec(func(pgconn.CommandTag) error { ran++; return nil })
		b.Queue("select 2").QueryRow(func(row pgx.Row) error { ran++; return stop })
		b.Queue("insert into t values (3)").Exec(func(pgconn.CommandTag) error { ran++; return nil })
		if err := q.(sender).SendBatch(t.Context(), b).Close(); !errors.Is(err, stop) || ran != 2 {
			t.Errorf("%d ran, %v", ran, err)
		}
		// All was synced before the callback ran, so all of it happened: trap 25.
		if n := value[int](t, q, "select count(*) from t"); n != 2 {
			t.Errorf("%d rows", n)
		}
	})
}

// An error of a callback that has a deadline of its own is not the batch's.
func TestBatchCallbackWithADeadlineOfItsOwn(t *testing.T) {
	p := balanced(t, providers.Config{})
	b := &pgx.Batch{}
	b.Queue("select 1").QueryRow(func(pgx.Row) error { return context.DeadlineExceeded })
	err := p.SendBatch(t.Context(), b).Close()
	var limit *providers.TimeoutError
	if errors.As(err, &limit) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no limit of the batch fired: %v", err)
	}
}

func TestBatchCallbackPanics(t *testing.T) {
	hooks, seen := watched(t)
	onEach(t, providers.Config{Hooks: hooks}, "create table t (n int)", func(t *testing.T, p *Pool, q runner) {
		seen.forget()
		b := &pgx.Batch{}
		b.Queue("insert into t values (1)").Exec(func(pgconn.CommandTag) error { panic("boom") })
		b.Queue("select 2").QueryRow(func(pgx.Row) error { t.Error("ran behind a panic"); return nil })
		results := q.(sender).SendBatch(t.Context(), b)
		if r := panics(func() { _ = results.Close() }); r != "boom" {
			t.Errorf("the panic is the caller's to see: %v", r)
		}
		if err := results.Close(); !errors.Is(err, errPanicked) {
			t.Errorf("%v", err)
		}
		if got := seen.of(providers.EventBatch); len(got) != 1 || !errors.Is(got[0].Err, errPanicked) || got[0].Rows != 2 {
			t.Errorf("%+v", got)
		}
		mustExec(t, q, "select 1")
		if p.Stats().Connects != 1 {
			t.Error("the connection can go on")
		}
	})
}

func TestBatchBeginTx(t *testing.T) {
	send := func(t *testing.T, on sender, second string) pgx.BatchResults {
		b := &pgx.Batch{}
		b.BeginTx(pgx.TxOptions{})
		b.Queue("insert into t values (1)")
		b.Queue(second)
		return on.SendBatch(t.Context(), b)
	}
	for _, where := range []string{"pool", "conn"} {
		t.Run(where, func(t *testing.T) {
			p := balanced(t, providers.Config{})
			mustExec(t, p, "create table t (n int)")
			var on sender = p
			if where == "conn" {
				c := acquireN(t, p, 1)[0].(*Conn)
				defer c.Release()
				on = c
			}
			back := func() {
				t.Helper()
				if p.Stats().InUse != 0 && on == sender(p) {
					t.Error("the connection is not back")
				}
				mustExec(t, on, "truncate t")
			}
			ctx := t.Context()
			results := send(t, on, "insert into t values (2)")
			tx := results.Tx()
			if _, err := tx.Exec(ctx, "select 1"); !errors.Is(err, providers.ErrConcurrentUse) {
				t.Errorf("the results are open: %v", err)
			}
			if err := results.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(ctx, "insert into t values (3)"); err != nil {
				t.Error(err)
			}
			if err := tx.Commit(ctx); err != nil {
				t.Error(err)
			}
			if n := value[int](t, on, "select count(*) from t"); n != 3 {
				t.Errorf("%d rows", n)
			}
			back()

			results = send(t, on, "insert into t values (2)")
			_ = results.Close()
			if err := results.Tx().Rollback(ctx); err != nil {
				t.Error(err)
			}
			if n := value[int](t, on, "select count(*) from t"); n != 0 {
				t.Errorf("%d rows", n)
			}
			back()

			// A statement fails behind BEGIN: the transaction is there to be rolled back.
			results = send(t, on, "select 1/0")
			if err := results.Close(); err == nil {
				t.Error("no error")
			}
			if err := results.Tx().Rollback(ctx); err != nil {
				t.Error(err)
			}
			back()

			// It never begins: nothing is left to end.
			results = send(t, on, "no SQL")
			if err := results.Close(); err == nil {
				t.Error("no error")
			}
			back()
			if err := results.Tx().Rollback(ctx); !errors.Is(err, pgx.ErrTxClosed) {
				t.Errorf("%v", err)
			}

			// The batch ends it itself.
			results = send(t, on, "commit")
			if err := results.Close(); err != nil {
				t.Error(err)
			}
			if err := results.Tx().Commit(ctx); !errors.Is(err, pgx.ErrTxClosed) {
				t.Errorf("%v", err)
			}
			back()
			if p.Stats().Connects != 1 {
				t.Errorf("%d connections made", p.Stats().Connects)
			}

			// Nobody closes the results: a deferred rollback ends it all.
			results = send(t, on, "insert into t values (2)")
			if err := results.Tx().Rollback(ctx); err != nil {
				t.Error(err)
			}
			_ = results.Close()
			eventually(t, "the server rolled back", func() bool {
				return p.Stats().InUse == 0 && rowsIn(t, p) == 0
			})
		})
	}
}

func TestBatchHooks(t *testing.T) {
	hooks, seen := watched(t)
	p := balanced(t, providers.Config{Hooks: hooks})
	b := &pgx.Batch{}
	b.Queue("select 1")
	b.Queue("select 2")
	results := p.SendBatch(t.Context(), b)
	if n := len(seen.of(providers.EventBatch)); n != 0 {
		t.Error("it ends when the results are closed")
	}
	_ = results.Close()
	if got := seen.of(providers.EventBatch); len(got) != 1 || got[0].Rows != 2 || got[0].PID == 0 || got[0].Err != nil {
		t.Errorf("%+v", got)
	}
}
