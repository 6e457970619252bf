package pgx

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

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

// Whatever was read on the same memory before is nobody else's to see.
func TestPipelinedRowsBeforeTheFirst(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	for range 20 { // in turns, as what is used again is kept for each processor
		_ = value[string](t, p, "select 'the secret of ' || $1::text", "another")
		rows, err := p.Query(t.Context(), "select 'mine'")
		if err != nil {
			t.Fatal(err)
		}
		if raw := rows.RawValues(); len(raw) > 0 {
			t.Errorf("raw values before the first row: %q", raw)
		}
		var s string
		if err := rows.Scan(&s); err == nil {
			t.Errorf("read before the first row: %q", s)
		}
		rows, _ = p.Query(t.Context(), "select 'mine'")
		if values, err := rows.Values(); err == nil {
			t.Errorf("values before the first row: %q", values)
		}
	}
}

// Where values are copied to is the caller's, whoever gets the memory next.
func TestPipelinedValuesAreCopies(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	const sql = `select $1::bytea, $1::bytea::text, '{"a": "b"}'::json, '{"a": "b"}'::jsonb, '<a/>'::xml, array[$1::bytea], '1.50'::numeric, 'ok'::name`
	rows, err := p.Query(t.Context(), sql, []byte("mine"))
	if err != nil {
		t.Fatal(err)
	}
	rows.Next()
	values, err := rows.Values()
	if err != nil {
		t.Fatal(err)
	}
	var raw, js, jb, x []byte
	var message json.RawMessage
	if err := rows.Scan(&raw, nil, &js, &message, &x, nil, nil, &jb); err != nil {
		t.Fatal(err)
	}
	all := func() string { return fmt.Sprintf("%s %s %s %s %s %s", values, raw, js, message, x, jb) }
	before := all()
	rows.Close()
	for range 20 {
		_ = value[string](t, p, "select repeat($1, 500)", "z")
	}
	if after := all(); after != before {
		t.Errorf("%s became %s", before, after)
	}
}

func TestPipelinedRowScannedTwice(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	for sql, want := range map[string]string{
		"select 1":             "scanned already",
		"select 1 where false": "scanned already",
		"select 1 / 0":         "division by zero",
		"select 'x'":           "can't scan",
	} {
		row := p.QueryRow(t.Context(), sql)
		var n int
		first := row.Scan(&n)
		if second := row.Scan(&n); second == nil || !strings.Contains(second.Error(), want) {
			t.Errorf("%s: %v, and then %v", sql, first, second)
		}
	}
}

// inner is a Scanner that reads the row that it is part of.
type inner struct{ closing }

func (s inner) Scan(any) error {
	if err := (*s.rows).Scan(nil, new(string)); err != nil {
		return err
	}
	return s.closing.Scan(nil)
}

func TestPipelinedRowsClosedByAScanInside(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	for range 5 {
		var rows pgx.Rows
		rows, err := p.Query(t.Context(), "select 1, repeat('x', $1)", 20)
		if err != nil {
			t.Fatal(err)
		}
		rows.Next()
		var rest string
		if err := rows.Scan(inner{closing{t, p, &rows}}, &rest); err != nil || rest != strings.Repeat("x", 20) {
			t.Errorf("the rest of the row is %q, %v", rest, err)
		}
	}
}

// The same statement is read into ever other destinations, by many at once.
func TestPipelinedDestinationsInTurns(t *testing.T) {
	p := pipelinedPool(t, providers.Config{})
	type row struct {
		N    int64
		Name *string
	}
	const sql = "select $1::int as n, $2::text as name"
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 60 {
				n, name := w*1000+i, fmt.Sprintf("%d/%d", w, i)
				ctx := t.Context()
				if i%2 == 0 {
					ctx = providers.WithReadOnly(ctx)
				}
				rows, err := p.Query(ctx, sql, n, name)
				if err != nil {
					t.Error(err)
					return
				}
				var got string
				switch i % 4 {
				case 0:
					r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[row])
					if err == nil {
						got = fmt.Sprint(r.N, *r.Name)
					}
				case 1:
					m, _ := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
					got = fmt.Sprint(m["n"], m["name"])
				case 2:
					var digits string
					var text pgtype.Text
					_, _ = pgx.ForEachRow(rows, []any{&digits, &text}, func() error { got = digits + text.String; return nil })
				default:
					var f float64
					var bytes []byte
					_, _ = pgx.ForEachRow(rows, []any{&f, &bytes}, func() error { got = fmt.Sprint(f, string(bytes)); return nil })
				}
				if strings.ReplaceAll(got, " ", "") != fmt.Sprint(n)+name {
					t.Errorf("%q instead of %d and %s", got, n, name)
				}
			}
		})
	}
	all.Wait()
}
