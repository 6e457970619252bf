package faulttests

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/pgkeel/pgkeel/pgtest"
)

func TestMain(m *testing.M) {
	pgtest.Main(m, func() error { return goleak.Find() })
}
