package sqltext_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

func TestWords(t *testing.T) {
	for sql, want := range map[string]string{
		"":                                  "",
		"SELECT a_1, $1::Int;":              "select a_1 1 int ;",
		"select 'a b''c' d":                 "select 'a 'b 'c d",
		`select "a;b" c`:                    "select 'a 'b c",
		"select -- a\r\nb":                  "select 'a b",
		"select /* a /* ; */ b */ c":        "select 'a 'b c",
		"select $$a;$$, $q$ b $$ $q$ c":     "select 'a 'q 'b 'q c",
		"select a$b$ c":                     "select a$b$ c",
		"select a$$$ b, $$ c $$ d":          "select a$$$ b 'c d",
		"select $1$$a$$ b":                  "select 1 'a b",
		`select E'a\'b' c`:                  "select e 'a 'b c",
		`select E'a''\'b' c`:                "select e 'a 'b c",
		"select E'a'\n '\\'b' c":            "select e 'a 'b c",
		"select E'a' -- d\r --e\n '\\'b' c": "select e 'a 'd 'e 'b c",
		"select E'a' '\\' c '":              "select e 'a c",
		"select E'a' b '\n\\'c":             "select e 'a b c",
		`select e'\\' c`:                    "select e c",
		`select 'a\' c`:                     "select 'a c",
		"select 'é' ü":                      "select 'é ü",
		"'":                                 "",
		"e'\\":                              "e",
		"$":                                 "",
		"$a":                                "a",
		"$$a":                               "'a",
		"/* a":                              "'a",
		"--a":                               "'a",
		`"a`:                                "'a",
	} {
		var words []string
		for w := range sqltext.Words(sql) {
			text := w.Text
			if w.Quoted {
				text = "'" + text
			}
			words = append(words, text)
			if !strings.EqualFold(sql[w.End-len(w.Text):w.End], w.Text) {
				t.Errorf("%q: %q does not end at %d", sql, w.Text, w.End)
			}
		}
		if got := strings.Join(words, " "); got != want {
			t.Errorf("%q: %s, want %s", sql, got, want)
		}
	}
}

func TestWordsStop(t *testing.T) {
	for range sqltext.Words("a; b") {
		break
	}
	for w := range sqltext.Words("a; b") {
		if w.Text == ";" {
			break
		}
	}
}

func TestFirst(t *testing.T) {
	for sql, want := range map[string][]string{
		"":                                {"", ""},
		"/* a */ -- b\n Create":           {"create", ""},
		"; create -- x\n table t":         {"create", "table"},
		"(select 1)":                      {"select", "1"},
		`"a" b`:                           {"b", ""},
		"drop index concurrently if ever": {"drop", "index"},
	} {
		if first, second := sqltext.First(sql); !slices.Equal([]string{first, second}, want) {
			t.Errorf("%q: %q %q", sql, first, second)
		}
	}
}

func TestHas(t *testing.T) {
	for sql, want := range map[string]bool{
		"reindex index Concurrently i": true, "": false, "reindex index i": false,
		"reindex index concurrently_i": false, "comment on table t is 'concurrently'": false, "-- concurrently": false,
	} {
		if got := sqltext.Has(sql, "concurrently"); got != want {
			t.Errorf("%q: %v", sql, got)
		}
	}
}

func TestIsSeveral(t *testing.T) {
	for sql, want := range map[string]bool{
		"": false, "a": false, "a;": false, "a ; \n;": false, ";a": false, "a; -- b": false, "a; /* b */": false,
		"select ';'": false, "select 'a;b', $$c;d$$": false,
		`select 'a\''; b; --'`: true, // by standard strings it is one
		`select 'a\'; b`:       true, `select E'a\';b'`: false,
		"a; b": true, ";a;;b": true, "select ';'; b": true,
	} {
		if got := sqltext.IsSeveral(sql); got != want {
			t.Errorf("%q: %v", sql, got)
		}
	}
}
