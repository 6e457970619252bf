package pgkeel_test

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/pgkeel/pgkeel/pgtest"
)

// What a DSN leaves out comes from the environment: here it is empty, but for
// what a test sets itself.
func TestMain(m *testing.M) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "PGKEEL_") {
			if err := os.Unsetenv(name); err != nil {
				panic(err)
			}
		}
	}
	pgtest.Main(m, func() error { return goleak.Find() })
}
