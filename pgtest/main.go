package pgtest

import (
	"context"
	"fmt"
	"os"
	"testing"
)

// Main runs the tests of a package, then closes the shared cluster and every
// other that was left open, then calls the functions in after, and exits. An
// error of any of them makes the exit status 1. A check for leaked goroutines
// goes there, since by then all of the kit's own are gone:
//
//	func TestMain(m *testing.M) {
//		pgtest.Main(m, func() error { return goleak.Find() })
//	}
func Main(m *testing.M, after ...func() error) {
	closing := func() error { return closeAll(context.Background()) }
	os.Exit(runChecks(m.Run(), append([]func() error{closing}, after...)))
}

// runChecks runs them all, and returns the exit status.
func runChecks(code int, checks []func() error) int {
	for _, check := range checks {
		if err := check(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	return code
}
