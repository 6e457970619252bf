package bulk

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/pgkeel/pgkeel/pgtest"
)

func TestMain(m *testing.M) {
	if dsn := os.Getenv(victimEnv); dsn != "" {
		victim(dsn)
		return
	}
	pgtest.Main(m, func() error { return goleak.Find() })
}
