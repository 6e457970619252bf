//go:build unix

package pgtest

import "testing"

func TestParseStat(t *testing.T) {
	for line, want := range map[string]struct {
		state  string
		parent int
	}{
		"12 (postgres) S 7 12 12":        {"S", 7},
		"12 (a) Z 3 (b) c) T 8 12 12 0 ": {"T", 8},
		"":                               {"", 0},
	} {
		if state, parent := parseStat(line); state != want.state || parent != want.parent {
			t.Errorf("%q: got %s %d", line, state, parent)
		}
	}
}
