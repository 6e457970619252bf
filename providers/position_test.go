package providers_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

func row(columns ...string) [][]byte {
	var r [][]byte
	for _, c := range columns {
		r = append(r, bytes.Clone([]byte(c)))
	}
	return r
}

func TestReadPosition(t *testing.T) {
	const mb = 1 << 20
	cases := map[string]struct {
		row  [][]byte
		want providers.Position
	}{
		"primary": {row("false", "0000000A0000000000000003", "0/3000060", "", "8192", "7"), providers.Position{System: 7, Timeline: 10, LSN: 0x3000060}},
		// No standby gets behind a page's header before something follows it.
		"behind a page's header": {row("false", "000000010000000000000003", "0/3002018", "", "8192", "7"), providers.Position{System: 7, Timeline: 1, LSN: 0x3002000}},
		"in a large page":        {row("false", "000000010000000000000003", "0/3002018", "", "16384", "7"), providers.Position{System: 7, Timeline: 1, LSN: 0x3002018}},
		"idle standby":           {row("true", "", "0/3000060", "0/3000060", "8192", "7"), providers.Position{System: 7, Standby: true, LSN: 0x3000060, Replayed: 0x3000060}},
		"replaying":              {row("true", "", "0/3000080", "0/3000060", "8192", "7"), providers.Position{System: 7, Standby: true, LSN: 0x3000080, Replayed: 0x3000060}},
		"far behind":             {row("true", "", "1/0", "0/3000060", "8192", "7"), providers.Position{System: 7, Standby: true, LSN: 0x3000060 + mb, Replayed: 0x3000060}},
		// A walreceiver that begins says where its segment does.
		"has just connected": {row("true", "", "0/3000000", "0/3000060", "8192", "7"), providers.Position{System: 7, Standby: true, LSN: 0x3000060, Replayed: 0x3000060}},
		"reads an archive":   {row("true", "", "", "0/3000060", "8192", "7"), providers.Position{System: 7, Standby: true, LSN: 0x3000060, Replayed: 0x3000060}},
	}
	for name, c := range cases {
		if got, err := providers.ReadPosition(c.row); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, r := range map[string][][]byte{
		"too few":            row("true"),
		"no place":           row("false", "000000010000000000000003", "", "", "8192", "7"),
		"no file":            row("false", "", "0/3000060", "", "8192", "7"),
		"has not replayed":   row("true", "", "0/3000060", "", "8192", "7"),
		"a place of nothing": row("true", "", "0/3000060", "x", "8192", "7"),
		"of no cluster":      row("true", "", "0/3000060", "0/3000060", "8192", ""),
	} {
		if p, err := providers.ReadPosition(r); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestBehind(t *testing.T) {
	if err := providers.Behind(nil); err != nil {
		t.Error(err)
	}
	if err := providers.Behind(&pgconn.PgError{Code: "22P02", Severity: "ERROR"}); !errors.Is(err, providers.ErrBehind) {
		t.Error(err)
	}
	other := &pgconn.PgError{Code: "57014", Severity: "ERROR"}
	if err := providers.Behind(other); !errors.Is(err, other) {
		t.Error(err)
	}
}
