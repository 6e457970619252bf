package pgx

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// closing is a Scanner that closes the rows that it is part of, and then has the
// pool run something else.
type closing struct {
	t    *testing.T
	p    *Pool
	rows *pgx.Rows
}

func (c closing) Scan(any) error {
	(*c.rows).Close()
	value[string](c.t, c.p, "select repeat('y', $1)", 20)
	return nil
}

func TestPipelinedRowsClosedWhileScanning(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	var rows pgx.Rows
	rows, err := p.Query(t.Context(), "select 1, repeat('x', $1)", 20)
	if err != nil {
		t.Fatal(err)
	}
	if !rows.Next() {
		t.Fatal(rows.Err())
	}
	var rest string
	if err := rows.Scan(closing{t, p, &rows}, &rest); err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat("x", 20); rest != want {
		t.Errorf("the rest of the row is %q, want %q: another statement's result", rest, want)
	}
}

func TestPipelinedPanickingScanner(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	for range 300 {
		func() {
			defer func() { _ = recover() }()
			_ = p.QueryRow(t.Context(), "select 1").Scan(panicking{})
		}()
	}
	if n := value[int](t, p, "select 2"); n != 2 {
		t.Error(n)
	}
}

type panicking struct{}

func (panicking) ScanRow(pgx.Rows) error { panic("mine") }

func TestPipelinedRowsAfterTheirEnd(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	rows, err := p.Query(t.Context(), "select n from generate_series(1, 3) n")
	if err != nil {
		t.Fatal(err)
	}
	if rows.Conn() != nil || rows.TypeMap() == nil || len(rows.FieldDescriptions()) != 1 {
		t.Error("what pipelined rows have")
	}
	var got []int
	for rows.Next() {
		var n int
		if err := rows.Scan(&n); err != nil || len(rows.RawValues()) != 1 {
			t.Fatal(err)
		}
		got = append(got, n)
	}
	if !slices.Equal(got, []int{1, 2, 3}) || rows.CommandTag().String() != "SELECT 3" || rows.Err() != nil {
		t.Errorf("%v %v %v", got, rows.CommandTag(), rows.Err())
	}
	rows.Close()
	if _, err := rows.Values(); err == nil {
		t.Error("Values of closed rows")
	}
	if err := rows.Scan(new(int)); err == nil || rows.Next() || rows.TypeMap() != nil {
		t.Error("closed rows can be read")
	}
	rows, _ = p.Query(t.Context(), "select 1, 2")
	rows.Next()
	if err := rows.Scan(new(int)); err == nil || rows.Err() == nil {
		t.Error("too few destinations")
	}
	rows, _ = p.Query(t.Context(), "select 'x'")
	rows.Next()
	if err := rows.Scan(new(int)); err == nil || !strings.Contains(err.Error(), "can't scan into dest[0]") {
		t.Errorf("a text into an int: %v", err)
	}
}

// TestTrap27PipelinedLargeBothWays has new connections prepare long statements
// that return much, all at once.
