//go:build unix

package pgtest

import (
	"errors"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(victimEnv) != "" {
		victim()
		return
	}
	Main(m, func() error { return goleak.Find() })
}

func TestFinishCallsEveryCheckAndKeepsTheWorstStatus(t *testing.T) {
	// In a process of its own Main also closes the clusters left open; here
	// that would be the shared one of the tests that follow.
	fail := func() error { return errors.New("a check that fails on purpose") }
	called := 0
	ok := func() error { called++; return nil }
	for _, tc := range []struct {
		code  int
		after []func() error
		want  int
	}{
		{0, []func() error{ok}, 0},
		{0, []func() error{fail, ok}, 1},
		{1, []func() error{ok}, 1},
		{2, []func() error{fail}, 2},
	} {
		if got := runChecks(tc.code, tc.after); got != tc.want {
			t.Errorf("status %d, want %d", got, tc.want)
		}
	}
	if called != 3 {
		t.Errorf("checks behind one that fails must run too: %d calls", called)
	}
}
