package pgx

import (
	"context"
	"errors"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/providers"
)

func TestTrap13QueryRowWithoutScan(t *testing.T) {
	p := balanced(t, providers.Config{})
	func() { _ = p.QueryRow(t.Context(), "select 1") }()
	eventually(t, "the forgotten connection is back", func() bool {
		runtime.GC()
		return p.Stats().InUse == 0
	})
	if s := p.Stats(); s.Reclaimed != 1 {
		t.Errorf("%+v", s)
	}
	mustExec(t, p, "select 1")
}

func TestTrap13RowsClosedEarly(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, p *Pool, q runner) {
		rows, err := q.Query(t.Context(), "select generate_series(1, 1000)")
		if err != nil || !rows.Next() {
			t.Fatal(err)
		}
		rows.Close()
		rows.Close()
		if rows.Err() != nil || rows.Next() || rows.CommandTag().RowsAffected() != 1000 {
			t.Errorf("%s %v", rows.CommandTag(), rows.Err())
		}
		mustExec(t, q, "select 1")
		if q == runner(p) && p.Stats().InUse != 0 {
			t.Error("the connection is not back")
		}
	})
}

const manyRows = "select g, repeat('x', 1000) from generate_series(1, 3000000) g"

func TestTrap13AbandonStopsTheServer(t *testing.T) {
	for name, query := range map[string]func(t *testing.T, q runner) pgx.Rows{
		"plain": func(t *testing.T, q runner) pgx.Rows {
			rows, err := q.Query(t.Context(), manyRows)
			if err != nil {
				t.Fatal(err)
			}
			return rows
		},
		"scoped": func(t *testing.T, q runner) pgx.Rows {
			call := scoped(providers.CallQuery, manyRows, nil, "app.x", "1")
			if err := q.Run(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			return call.Rows
		},
	} {
		t.Run(name, func(t *testing.T) {
			hooks, seen := watched(t)
			p := balanced(t, providers.Config{Hooks: hooks})
			for _, acquired := range []bool{false, true} {
				var q runner = p
				if acquired {
					c := acquireN(t, p, 1)[0]
					defer c.Release()
					q = c
				}
				rows := query(t, q)
				if !rows.Next() {
					t.Fatal(rows.Err())
				}
				start := time.Now()
				rows.(*rowsType).Abandon()
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("it took %s", took)
				}
				if rows.Err() != nil || rows.Next() {
					t.Errorf("its end is as asked: %v", rows.Err())
				}
				rows.(*rowsType).Abandon()
				rows.Close()
				mustExec(t, q, "select 1")
			}
			if n := len(seen.of(providers.EventError)); n != 0 {
				t.Errorf("%d errors reported of what was asked for", n)
			}
		})
	}
}

type rowsType = rows

func TestTrap13AbandonKeepsTheConnection(t *testing.T) {
	p := balanced(t, providers.Config{})
	for range 3 {
		rows, err := p.Query(t.Context(), manyRows)
		if err != nil || !rows.Next() {
			t.Fatal(err)
		}
		rows.(*rowsType).Abandon()
	}
	if s := p.Stats(); s.Connects != 1 || s.Closed != 0 {
		t.Errorf("%d connections made: the server said that it stopped, so there is nothing that could hit the next", s.Connects)
	}
}

func TestTrap13AbandonOfAResultThatIsOver(t *testing.T) {
	p := balanced(t, providers.Config{})
	for range 20 {
		rows, err := p.Query(t.Context(), "select 1")
		if err != nil || !rows.Next() {
			t.Fatal(err)
		}
		rows.(*rowsType).Abandon()
		if rows.Err() != nil {
			t.Error(rows.Err())
		}
		mustExec(t, p, "select 1")
	}
	// On a busy machine some can take longer than the grace.
	if s := p.Stats(); s.Connects > 10 {
		t.Errorf("%d connections made: there was nothing to stop", s.Connects)
	}
}

func TestTrap13AbandonInATransactionReadsOn(t *testing.T) {
	p := balanced(t, providers.Config{})
	tx := begin(t, p, providers.TxOptions{})
	rows, err := tx.Query(t.Context(), "select generate_series(1, 1000)")
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	rows.(*rowsType).Abandon()
	if n := value[int](t, tx, "select 1"); n != 1 || rows.CommandTag().RowsAffected() != 1000 {
		t.Error("the transaction must go on")
	}
	mustCommit(t, tx)
}

func TestTrap13AbandonBehindPgBouncerCloses(t *testing.T) {
	p := balanced(t, providers.Config{Profile: providers.ProfilePgBouncer})
	rows, err := p.Query(t.Context(), manyRows)
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	rows.(*rowsType).Abandon()
	if rows.Err() != nil {
		t.Error(rows.Err())
	}
	mustExec(t, p, "select 1")
	eventually(t, "no cancel request, so the connection is closed", func() bool { return p.Stats().Closed == 1 })
}

func TestTrap13AbandonThatCannotAsk(t *testing.T) {
	p := balanced(t, providers.Config{})
	rows, err := p.Query(t.Context(), manyRows)
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	inner := rows.(*rowsType)
	inner.lease.s.config.DialFunc = func(context.Context, string, string) (net.Conn, error) { return nil, errBlackHole }
	inner.Abandon()
	if rows.Err() != nil {
		t.Error(rows.Err())
	}
	mustExec(t, p, "select 1")
}

// grenade is a destination that panics.
type grenade struct{}

func (*grenade) Scan(any) error { panic("boom") }

func TestPanicOfAScanner(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, p *Pool, q runner) {
		if r := panics(func() { _ = q.QueryRow(t.Context(), "select 1 union all select 2").Scan(&grenade{}) }); r != "boom" {
			t.Errorf("the panic is the caller's to see: %v", r)
		}
		mustExec(t, q, "select 1")
		if q == runner(p) && p.Stats().InUse != 0 {
			t.Error("the connection is not back")
		}
	})
}

func TestRowsScanErrors(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, _ *Pool, q runner) {
		for name, fail := range map[string]func(pgx.Rows) error{
			"type":   func(r pgx.Rows) error { var n int; return r.Scan(&n) },
			"count":  func(r pgx.Rows) error { var s string; return r.Scan(&s, &s) },
			"values": func(r pgx.Rows) error { r.Close(); _, err := r.Values(); return err },
		} {
			rows, err := q.Query(t.Context(), "select 'x' from generate_series(1, 3)")
			if err != nil || !rows.Next() {
				t.Fatal(err)
			}
			if err := fail(rows); err == nil {
				t.Errorf("%s: no error", name)
			} else if name != "values" && (rows.Err() == nil || rows.Next()) {
				t.Errorf("%s: the rows go on after %v", name, err)
			}
			mustExec(t, q, "select 1") // the rows are closed
		}
		row := q.QueryRow(t.Context(), "select 'x'")
		var n int
		var scan pgx.ScanArgError
		if err := row.Scan(&n); !errors.As(err, &scan) {
			t.Errorf("%v", err)
		}
		if err := row.Scan(&n); !errors.As(err, &scan) {
			t.Errorf("the second time: %v", err)
		}
	})
}

func TestRowScan(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, _ *Pool, q runner) {
		var n int
		row := q.QueryRow(t.Context(), "select generate_series(5, 7)")
		if err := row.Scan(&n); err != nil || n != 5 {
			t.Errorf("%d %v", n, err)
		}
		if err := row.Scan(&n); !errors.Is(err, errScannedTwice) {
			t.Errorf("%v", err)
		}
		if err := q.QueryRow(t.Context(), "select 1 where false").Scan(&n); !errors.Is(err, pgx.ErrNoRows) {
			t.Errorf("%v", err)
		}
		var raw pgtype.DriverBytes
		if err := q.QueryRow(t.Context(), "select 'x'::bytea").Scan(&raw); err == nil {
			t.Error("the bytes belong to a connection that is back in the pool")
		}
		// The first row is fine, a later one fails the statement.
		err := q.QueryRow(t.Context(), "select 1/(2 - g) from generate_series(1, 2) g").Scan(&n)
		var pg *providers.PGError
		if !errors.As(err, &pg) || pg.Code != "22012" {
			t.Errorf("%v", err)
		}
	})
}

func TestRowsValuesAndDescriptions(t *testing.T) {
	p := balanced(t, providers.Config{})
	rows, err := p.Query(t.Context(), "select 1::int4 as n, 'x' as s")
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	values, err := rows.Values()
	if err != nil || len(values) != 2 || values[0] != int32(1) || rows.FieldDescriptions()[1].Name != "s" || len(rows.RawValues()) != 2 {
		t.Errorf("%v %v", values, err)
	}
	if rows.Err() != nil {
		t.Error(rows.Err())
	}
	rows.Close()
}

func TestRowsConnIsNotReused(t *testing.T) {
	p := balanced(t, providers.Config{})
	rows, err := p.Query(t.Context(), "select 1")
	if err != nil {
		t.Fatal(err)
	}
	raw := rows.Conn()
	if raw == nil {
		t.Fatal("no connection")
	}
	rows.Close()
	mustExec(t, p, "select 1")
	if s := p.Stats(); s.Connects != 2 {
		t.Errorf("the connection was handed out raw and then reused: %+v", s)
	}
	if !raw.IsClosed() || rows.Conn() != nil {
		t.Error("not closed")
	}
	if c := failedRows(errScannedTwice).Conn(); c != nil {
		t.Error("a connection of a query that was not sent")
	}
}

func TestRowsKeepNothingOfTheQuery(t *testing.T) {
	p := balanced(t, providers.Config{})
	type key struct{}
	rows, err := p.Query(context.WithValue(t.Context(), key{}, "of the request"), "select 1")
	if err != nil {
		t.Fatal(err)
	}
	rows.Close()
	if r := rows.(*rowsType); r.ctx != nil || r.use != nil || r.lease != (lease{}) {
		t.Errorf("%+v", r)
	}
}

func TestContextEndsWhileRowsAreOpen(t *testing.T) {
	onEach(t, providers.Config{}, "", func(t *testing.T, p *Pool, q runner) {
		mustExec(t, q, "select 1") // connects
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		rows, _ := q.Query(ctx, "select repeat('x', 10000), pg_sleep(case when g = 3 then 60 else 0 end) from generate_series(1, 3) g")
		for rows.Next() {
		}
		var limit *providers.TimeoutError
		if err := rows.Err(); !errors.As(err, &limit) || limit.Limit != "context cancelled" || limit.Timeout() || !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		if tx, ok := q.(*Tx); ok {
			mustRollback(t, tx)
			return
		}
		mustExec(t, q, "select 1")
		if p.Stats().Connects != 1 {
			t.Error("the connection was not kept")
		}
	})
}

// A failure that the context did not cause is not blamed on it.
func TestScanErrorAfterTheContextEnded(t *testing.T) {
	p := balanced(t, providers.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	rows, err := p.Query(ctx, "select 'x'")
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	var n int
	if err := rows.Scan(&n); err == nil {
		t.Fatal("scanned")
	}
	cancel()
	var scan pgx.ScanArgError
	if err := rows.Err(); !errors.As(err, &scan) || errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
