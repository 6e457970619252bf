package providers_test

import (
	"testing"

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
