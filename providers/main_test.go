package providers_test

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// The tests read DSNs, and what a DSN leaves out comes from the environment:
// here it is empty.
func TestMain(m *testing.M) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "PG") {
			if err := os.Unsetenv(name); err != nil {
				panic(err)
			}
		}
	}
	goleak.VerifyTestMain(m)
}
