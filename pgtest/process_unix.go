//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// An account is the user that servers run as, when it is another than ours.
type account struct{ cred *syscall.Credential }

// serverAccount returns nil for an ordinary user, who runs servers as himself.
// initdb and postgres refuse root.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			return accountOf(u)
		}
	}
	return nil, errors.New("pgtest: PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

func accountOf(u *user.User) (*account, error) {
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("pgtest: groups of user %s: %w", u.Username, err)
	}
	cred := &syscall.Credential{}
	for _, id := range ids {
		if gid, err := strconv.ParseUint(id, 10, 32); err == nil {
			cred.Groups = append(cred.Groups, uint32(gid))
		}
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("pgtest: ids of user %s: %w", u.Username, err)
	}
	cred.Uid, cred.Gid = uint32(uid), uint32(gid)
	return &account{cred}, nil
}

// own hands path over to the account.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Lchown(path, int(a.cred.Uid), int(a.cred.Gid))
}

// reaches reports whether the account may read path: being careful rather than
// exact, it looks at the rights of everybody.
func (a *account) reaches(path string) bool {
	if a == nil {
		return true
	}
	for dir := path; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// attributes gives a child a session of its own, so that an interrupt typed at
// the terminal reaches the test process alone and the order of the end is ours.
func (a *account) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if a != nil {
		attr.Credential = a.cred
	}
	return attr
}

// A process is a child that was started and is reaped by us, without a waiting
// goroutine: tests that look for leaked goroutines see none of ours. Until it
// is reaped its pid cannot become somebody else's, so signals never stray.
type process struct {
	pid    int
	marker string // the watchdog's file, removed with the process
	gone   bool
	status syscall.WaitStatus
}

func newProcess(cmd *exec.Cmd, marker string) *process {
	pid := cmd.Process.Pid
	_ = cmd.Process.Release() // we reap it by ourselves
	return &process{pid: pid, marker: marker}
}

// exited reaps the process if it has ended.
func (p *process) exited() bool { return p.wait(syscall.WNOHANG) }

// wait returns true when the process has ended, and false when it was stopped
// or, with WNOHANG, when it runs.
func (p *process) wait(flags int) bool {
	for !p.gone {
		pid, err := syscall.Wait4(p.pid, &p.status, flags, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err == nil && (pid == 0 || p.status.Stopped()) {
			return false
		}
		// Any error is ECHILD: somebody else has reaped it.
		p.gone = true
		_ = os.Remove(p.marker)
	}
	return true
}

func (p *process) signal(sig syscall.Signal) {
	if !p.exited() {
		_ = syscall.Kill(p.pid, sig)
	}
}

func (p *process) interrupt() { p.signal(syscall.SIGINT) }
func (p *process) quit()      { p.signal(syscall.SIGQUIT) }

// freeze stops the process and everything below it, the parent first: a
// stopped postmaster neither starts new children nor reaps dead ones, so what
// processTable says stays true. It returns the pids below.
func (p *process) freeze() []int {
	p.signal(syscall.SIGSTOP)
	if p.wait(syscall.WUNTRACED) {
		return nil
	}
	below := descendants(p.pid)
	for _, pid := range below {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	return below
}

// thaw is the opposite of freeze.
func (p *process) thaw() {
	if p.gone {
		return
	}
	for _, pid := range descendants(p.pid) {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	p.signal(syscall.SIGCONT)
}

// kill ends a frozen process and those below it, and returns when it is reaped.
func (p *process) kill(below []int) {
	for _, pid := range below {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	p.signal(syscall.SIGKILL)
	p.wait(0)
}

// freezeServers stops the servers of a data folder, whoever's children they are,
// and everything below them, until there is nothing more of it that runs. It
// returns their pids.
func freezeServers(ctx context.Context, data string) []int {
	var stopped []int
	for {
		var found []int
		for _, pid := range servers(data) {
			found = append(append(found, pid), descendants(pid)...)
		}
		found = slices.DeleteFunc(found, func(pid int) bool { return slices.Contains(stopped, pid) })
		if len(found) == 0 {
			return stopped
		}
		signalAll(found, syscall.SIGSTOP)
		// One that has not stopped yet may still have children.
		_ = poll(ctx, "", func() (bool, error) { return !slices.ContainsFunc(found, running), nil })
		stopped = append(stopped, found...)
	}
}

func signalAll(pids []int, sig syscall.Signal) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, sig)
	}
}

func killAll(pids []int) { signalAll(pids, syscall.SIGKILL) }
func wakeAll(pids []int) { signalAll(pids, syscall.SIGCONT) }

// servers returns the pids of the postmasters of a data folder. Their children
// have titles of their own.
func servers(data string) []int {
	var pids []int
	for pid, args := range commandLines() {
		if filepath.Base(args[0]) == "postgres" && slices.Contains(args, data) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// commandLines returns the words of every process that has any, from /proc where
// it is there and from ps elsewhere.
func commandLines() map[int][]string {
	lines := map[int][]string{}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range files {
		if text, err := os.ReadFile(path); err == nil && len(text) > 0 {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			lines[pid] = strings.Split(string(text), "\x00")
		}
	}
	if len(files) > 0 {
		return lines
	}
	out, _ := exec.Command("ps", "-A", "-o", "pid=,args=").Output()
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) > 1 {
			pid, _ := strconv.Atoi(words[0])
			lines[pid] = words[1:]
		}
	}
	return lines
}

// running reports whether a process has neither stopped nor ended, as far as
// /proc tells.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	state, _ := parseStat(string(stat))
	return !slices.Contains([]string{"T", "t", "Z", "X"}, state)
}

// dead reports whether a process that is not our child has ended. A zombie has:
// in a container nobody may ever reap it.
func dead(pid int) bool {
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		state, _ := parseStat(string(stat))
		return state == "Z" || state == "X"
	}
	return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// descendants returns the pids below pid.
func descendants(pid int) []int {
	children := processTable()
	var all []int
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		all = append(all, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return all
}

// processTable maps each process to its children, from /proc where it is there
// and from ps elsewhere.
func processTable() map[int][]int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		if stat, err := os.ReadFile(path); err == nil {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			_, parent := parseStat(string(stat))
			children[parent] = append(children[parent], pid)
		}
	}
	if len(stats) > 0 {
		return children
	}
	out, _ := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
	for line := range strings.Lines(string(out)) {
		var pid, parent int
		if n, _ := fmt.Sscan(line, &pid, &parent); n == 2 {
			children[parent] = append(children[parent], pid)
		}
	}
	return children
}

// parseStat reads state and parent from a line of /proc/PID/stat. The name
// before them is in brackets and may contain anything, so the last one counts.
func parseStat(line string) (state string, parent int) {
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(fields) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}

// removeSharedMemory removes the System V segment that a killed postmaster left
// behind; its id is in the seventh line of postmaster.pid, which a clean stop
// removes.
func removeSharedMemory(pidFile []string) {
	if len(pidFile) < 7 {
		return
	}
	if f := strings.Fields(pidFile[6]); len(f) == 2 {
		_ = exec.Command("ipcrm", "-m", f[1]).Run()
	}
}
