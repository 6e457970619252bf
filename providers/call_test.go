package providers_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/providers"
)

func TestCallKindString(t *testing.T) {
	for kind, want := range map[providers.CallKind]string{
		providers.CallQuery: "query",
		providers.CallExec:  "exec",
	} {
		if got := kind.String(); got != want {
			t.Errorf("%d.String() = %q, want %q", kind, got, want)
		}
	}
}

// fakeRows are n rows. Like those of a driver, they may fail when they are
// started, scanned, or read to their end.
type fakeRows struct {
	pgx.Rows
	n                        int
	startErr, scanErr, atEnd error
	scanPanics               bool
	read, scanned, closed    int
}

func (r *fakeRows) Next() bool {
	if r.startErr != nil || r.read == r.n {
		return false
	}
	r.read++
	return true
}

func (r *fakeRows) Err() error {
	if r.startErr != nil {
		return r.startErr
	}
	if r.closed > 0 {
		return r.atEnd
	}
	return nil
}

func (r *fakeRows) Scan(dest ...any) error {
	if r.scanPanics {
		panic("scan")
	}
	r.scanned++
	if r.scanErr == nil && len(dest) > 0 {
		*dest[0].(*int) = 42
	}
	return r.scanErr
}

func (r *fakeRows) Close() { r.closed++ }

func TestFirstRow(t *testing.T) {
	errStart, errScan, errEnd := errors.New("start"), errors.New("scan"), errors.New("end")
	for name, tc := range map[string]struct {
		rows *fakeRows
		want error
	}{
		"one row":                  {&fakeRows{n: 1}, nil},
		"more rows":                {&fakeRows{n: 3}, nil},
		"no row":                   {&fakeRows{}, pgx.ErrNoRows},
		"the query failed":         {&fakeRows{startErr: errStart}, errStart},
		"the scan fails":           {&fakeRows{n: 1, scanErr: errScan}, errScan},
		"the statement ends badly": {&fakeRows{n: 1, atEnd: errEnd}, errEnd},
	} {
		t.Run(name, func(t *testing.T) {
			var got int
			if err := providers.FirstRow(tc.rows).Scan(&got); !errors.Is(err, tc.want) {
				t.Errorf("Scan: %v, want %v", err, tc.want)
			}
			if tc.want == nil && (got != 42 || tc.rows.read != 1) {
				t.Errorf("scanned %d after %d rows, want 42 of the first", got, tc.rows.read)
			}
			if tc.rows.closed == 0 {
				t.Error("the rows were left open")
			}
		})
	}
}

func TestFirstRowClosesWhenScanPanics(t *testing.T) {
	rows := &fakeRows{n: 1, scanPanics: true}
	func() {
		defer func() { _ = recover() }()
		_ = providers.FirstRow(rows).Scan(new(int))
		t.Error("the panic was swallowed")
	}()
	if rows.closed == 0 {
		t.Error("the rows were left open")
	}
}

// DriverBytes are a window into the connection's buffer, which the next
// borrower overwrites once the row is closed. pgx refuses them as well.
func TestFirstRowRefusesDriverBytes(t *testing.T) {
	rows := &fakeRows{n: 1}
	if err := providers.FirstRow(rows).Scan(new(int), new(pgtype.DriverBytes)); err == nil {
		t.Error("scanned into *pgtype.DriverBytes")
	}
	if rows.scanned != 0 || rows.closed == 0 {
		t.Errorf("scanned %d times, closed %d times; want no scan and closed rows", rows.scanned, rows.closed)
	}
}
