package providers_test

import (
	"slices"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// Of the scope's limit of time and the call's the shorter one counts.
func TestShorterLimit(t *testing.T) {
	for _, tc := range []struct{ scope, call, want string }{
		{"50", "60000", "50"}, {"50", "20", "20"}, {"0", "60", "60"}, {"50", "0", "50"}, {"2s", "60", "60"}, {"50", "1min", "50"},
	} {
		got := providers.WithinScope([]providers.Setting{{Name: "a.b", Value: "c"}, {Name: "statement_timeout", Value: tc.scope}},
			[]providers.Setting{{Name: "statement_timeout", Value: tc.call}})
		if got[2].Value != tc.want {
			t.Errorf("%s within %s is %s, want %s", tc.call, tc.scope, got[2].Value, tc.want)
		}
	}
}

func TestMilliseconds(t *testing.T) {
	for limit, want := range map[time.Duration]int64{
		-time.Hour: 1, 0: 1, 1: 1, time.Microsecond: 1, time.Millisecond: 1, time.Millisecond + 1: 2,
		1500 * time.Microsecond: 2, time.Second: 1000, 25 * 24 * time.Hour: 1<<31 - 1, 1<<63 - 1: 1<<31 - 1,
	} {
		if got := providers.Milliseconds(limit); got != want {
			t.Errorf("%s: %d, want %d: a limit of 0 would be none", limit, got, want)
		}
	}
}

func TestStaleSettings(t *testing.T) {
	of := func(names ...string) []providers.Setting {
		var s []providers.Setting
		for _, n := range names {
			s = append(s, providers.Setting{Name: n})
		}
		return s
	}
	for _, tc := range []struct {
		applied, scope []providers.Setting
		want           []string
	}{
		{nil, of("a"), nil},
		{of("a"), nil, []string{"a"}},
		{of("a", "b", "a"), of("b"), []string{"a"}},
		{of("search_path"), of("Search_Path"), nil},
	} {
		if got := providers.StaleSettings(tc.applied, tc.scope); !slices.Equal(got, tc.want) {
			t.Errorf("%v, %v: %v", tc.applied, tc.scope, got)
		}
	}
}
