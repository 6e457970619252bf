package pgx

import (
	"slices"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

var aLongTimeAgo = time.Unix(1, 0)

func TestSettingsSQL(t *testing.T) {
	sql, args := settingsSQL([]providers.Setting{{Name: "a", Value: "1"}, {Name: "b", Value: "'"}}, []string{"c"})
	const want = "select pg_catalog.set_config($1, $2, true), pg_catalog.set_config($3, $4, true), pg_catalog.set_config($5, $6, true)"
	// What goes back to its default comes first: it may be the same parameter.
	if sql != want || !slices.Equal(args, []any{"c", nil, "a", "1", "b", "'"}) {
		t.Errorf("%s %v", sql, args)
	}
}

func TestRowSourceNeverHandsOutTwice(t *testing.T) {
	var s rowSource
	seen := map[*rows]bool{}
	for range 100 {
		r := s.next()
		if seen[r] {
			t.Fatal("a caller may keep the first for long")
		}
		seen[r] = true
	}
}

func TestUseRunsAfterFreely(t *testing.T) {
	var u use
	ran := 0
	u.after = func() {
		ran++
		if err := u.enter(); err != nil {
			t.Error("the next use may begin")
		}
		u.busy.Store(false)
	}
	if err := u.enter(); err != nil {
		t.Fatal(err)
	}
	if u.enter() == nil {
		t.Error("two at once")
	}
	u.leave()
	if ran != 1 {
		t.Errorf("ran %d times", ran)
	}
}
