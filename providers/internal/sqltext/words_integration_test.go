package sqltext

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/pgtest"
)

// What literals, names and comments are made of, and what gives away where they end.
var pieces = []string{
	"'", "'", "E'", "e'", `\`, `\'`, "''", "$$", "$a$", `"`, "--", "/*", "*/", "\n", "\r", " ", "\f", "\t", ";",
	"select 1", "; select 2", "a", "b", "x", "e", "U&'", "N'", "B'", "1", "$1", "'a'", `E'\''`,
}

var (
	beginnings = []string{"'", "E'", "1 ", "$$", "E'a'", "'a' "}
	endings    = []string{"'", "", "$$", "\n", "; select 2", "'; select 2"}
)

// TestServerFindsTheSameStatements has the server tell whether random texts hold one
// statement or several, where it can read them at all, by either of its two ways to.
func TestServerFindsTheSameStatements(t *testing.T) {
	t.Run("standard", func(t *testing.T) { compareWithServer(t, false) })
	t.Run("backslashes escape", func(t *testing.T) { compareWithServer(t, true) })
}

func compareWithServer(t *testing.T, escapes bool) {
	conn, err := pgx.Connect(t.Context(), pgtest.NewDB(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if escapes {
		if _, err := conn.Exec(t.Context(), "set standard_conforming_strings = off; set escape_string_warning = off"); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(from []string) string { return from[r.IntN(len(from))] }
	read := 0
	for range 20_000 {
		var text strings.Builder
		text.WriteString("select " + pick(beginnings))
		for range 1 + r.IntN(9) {
			text.WriteString(pick(pieces))
		}
		text.WriteString(pick(endings))
		sql := text.String()
		_, err := conn.PgConn().Prepare(t.Context(), "", sql, nil)
		var pg *pgconn.PgError
		if err != nil && !errors.As(err, &pg) {
			t.Fatalf("%q: %v", sql, err)
		}
		several := pg != nil && strings.Contains(pg.Message, "multiple commands")
		if pg != nil && !several && (pg.Code == "42601" || !strings.HasPrefix(pg.Code, "42")) {
			continue // it is no SQL
		}
		read++
		if got := isSeveral(sql, escapes); got != several {
			t.Errorf("%q: several statements: %v; the server: %v (%v)", sql, got, several, err)
		}
	}
	if read < 1000 {
		t.Errorf("it proved little: the server could read %d texts", read)
	}
}
