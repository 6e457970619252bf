//go:build unix

package pgtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// victimEnv makes the test binary start a cluster, say where, and wait to be
// killed.
const victimEnv = "PGTEST_VICTIM"

func victim() {
	if os.Getenv(victimEnv) == "patroni" {
		patroniVictim()
		return
	}
	c, err := Start(context.Background(), Options{Standbys: 1})
	if err == nil && os.Getenv(victimEnv) == "paused" {
		err = c.Primary().Pause()
	}
	var pooler *PgBouncer
	if err == nil && os.Getenv(victimEnv) == "pooled" {
		pooler, err = c.Primary().StartPgBouncer(context.Background(), nil)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Print(c.site.dir, " ", c.guard.cmd.Process.Pid)
	if pooler != nil {
		fmt.Print(" ", pooler.proc.pid)
	}
	for _, n := range c.Nodes() {
		fmt.Print(" ", n.proc.pid)
		for _, pid := range descendants(n.proc.pid) {
			fmt.Print(" ", pid)
		}
	}
	fmt.Println("", c.Primary().Port())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test kills us
}

func patroniVictim() {
	p, err := StartPatroni(context.Background(), Options{Standbys: 1})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Print(p.site.dir, " ", p.guard.cmd.Process.Pid, " ", p.etcd.proc.pid)
	for _, n := range p.Nodes() {
		for _, pid := range append(servers(n.data), n.proc.pid) {
			fmt.Print(" ", pid)
			for _, pid := range descendants(pid) {
				fmt.Print(" ", pid)
			}
		}
	}
	fmt.Println("", p.Nodes()[0].Port())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test kills us
}

func TestWatchdogCleansUpAfterADeadTest(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{
		"killed": syscall.SIGKILL, "interrupted": syscall.SIGINT, "terminated": syscall.SIGTERM, "paused": syscall.SIGKILL, "pooled": syscall.SIGKILL, "patroni": syscall.SIGKILL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), victimEnv+"="+name)
			// A terminal sends an interrupt to the whole group.
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			out, err := cmd.StdoutPipe()
			must(t, err)
			in, err := cmd.StdinPipe()
			must(t, err)
			defer in.Close()
			must(t, cmd.Start())
			line, err := bufio.NewReader(out).ReadString('\n')
			fields := strings.Fields(line)
			if err != nil || len(fields) < 10 {
				_ = cmd.Wait()
				t.Fatalf("the victim said %q, %v", line, err)
			}
			must(t, syscall.Kill(-cmd.Process.Pid, sig))
			if err := cmd.Wait(); err == nil {
				t.Error("the victim ended well")
			}
			begun := time.Now()
			awaitNothing(t, fields[0], fields[1:len(fields)-1], fields[len(fields)-1])
			t.Logf("all gone %v after it", time.Since(begun).Round(time.Millisecond))
		})
	}
}

// awaitNothing waits until a dead test's folder, processes and port are gone.
func awaitNothing(t *testing.T, dir string, pids []string, port string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	must(t, poll(ctx, "the end of the folder "+dir, func() (bool, error) {
		_, err := os.Stat(dir)
		return errors.Is(err, fs.ErrNotExist), nil
	}))
	for _, text := range pids {
		var pid int
		if _, err := fmt.Sscan(text, &pid); err != nil {
			t.Fatal(err)
		}
		awaitDeath(t, pid)
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	must(t, err)
	must(t, l.Close())
}
