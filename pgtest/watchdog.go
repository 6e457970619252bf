package pgtest

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
)

//go:embed watchdog.sh
var watchdogScript string

// A watchdog ends a cluster if this process dies without having done so. It
// blocks on a pipe that only this process holds open: the descriptor is
// close-on-exec, so no child keeps it open by accident.
type watchdog struct {
	cmd  *exec.Cmd
	pipe *os.File
}

// watch guards dir: the processes listed in dir/run, and dir itself.
func watch(dir string) (*watchdog, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pgtest: pipe of the watchdog: %w", err)
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "pgtest-watchdog", dir)
	cmd.Stdin = r
	// A session of its own, and our user: it must survive an interrupt at the
	// terminal, and may have to end processes of any account we can use.
	var self *account
	cmd.SysProcAttr = self.attributes()
	if err := cmd.Start(); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("pgtest: start of the watchdog: %w", err)
	}
	return &watchdog{cmd: cmd, pipe: w}, nil
}

// release lets the watchdog do what is left, and returns when it has.
func (w *watchdog) release() error {
	_ = w.pipe.Close()
	if err := w.cmd.Wait(); err != nil {
		return fmt.Errorf("pgtest: watchdog: %w", err)
	}
	return nil
}
