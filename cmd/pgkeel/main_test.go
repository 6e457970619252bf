package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExitStatus(t *testing.T) {
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	commands["failing"] = func(context.Context, []string, io.Writer, io.Writer) error { return errors.New("it broke") }
	defer delete(commands, "failing")
	for _, tc := range []struct {
		ctx            context.Context
		args           string
		code           int
		stdout, stderr string
	}{
		{t.Context(), "", exitUsage, "", "usage: pgkeel"},
		{t.Context(), "help", 0, "usage: pgkeel", ""},
		{t.Context(), "-h", 0, "usage: pgkeel", ""},
		{t.Context(), "--help", 0, "usage: pgkeel", ""},
		{t.Context(), "bench -h", 0, "scenarios:", ""},
		{t.Context(), "demo -h", 0, "usage: pgkeel demo", ""},
		{t.Context(), "nosuch", exitUsage, "", `unknown command "nosuch"`},
		{t.Context(), "bench -nosuch", exitUsage, "", "see pgkeel bench -h"},
		{t.Context(), "bench -rounds 0", exitUsage, "", "-rounds 0: at least 1"},
		{t.Context(), "demo -color pink", exitUsage, "", `-color "pink"`},
		{t.Context(), "failing", exitFailed, "", "pgkeel failing: it broke"},
		{t.Context(), "bench -dsn postgres://127.0.0.1:1/x", exitFailed, "", "connect"},
		{interrupted, "failing", exitInterrupted, "", "it broke"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(tc.ctx, strings.Fields(tc.args), &stdout, &stderr); code != tc.code {
			t.Errorf("%q: status %d instead of %d", tc.args, code, tc.code)
		}
		if !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) || (tc.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("%q: stdout %q, stderr %q", tc.args, stdout.String(), stderr.String())
		}
	}
}
