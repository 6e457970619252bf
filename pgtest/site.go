package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A site is where a cluster lives: its folder, the programs it runs, and the
// account that runs them.
//
//	run/     a file per child, named by its pid, for the watchdog
//	socket/  the unix sockets
//	node0/   the data of the first node, node0.log its log
//	pg/      the binaries, if the account cannot read them where they are
//
// A PgBouncer has a folder and a log as well, pgbouncer0 and so on. Under
// Patroni a node has its configuration in node0.json, and its log is Patroni's
// as well.
type site struct {
	dir  string
	bin  string
	user *account
}

// maxSocketPath is what sockaddr_un leaves on the system with the least room.
const maxSocketPath = 103

func newSite(bin, dir string) (_ *site, err error) {
	user, err := serverAccount()
	if err != nil {
		return nil, err
	}
	parent, err := siteParent(user, bin, dir)
	if err != nil {
		return nil, err
	}
	s := &site{bin: bin, user: user}
	if s.dir, err = os.MkdirTemp(parent, "pgtest-"); err != nil {
		return nil, fmt.Errorf("pgtest: folder of the cluster: %w", err)
	}
	for _, dir := range []string{s.dir, s.runDir(), s.socketDir()} {
		if err := s.makeDir(dir); err != nil {
			return nil, errors.Join(err, os.RemoveAll(s.dir))
		}
	}
	return s, nil
}

// siteParent picks the folder for a site: the one that was asked for, else the
// best that the account can enter and whose name leaves room for a socket's.
func siteParent(user *account, bin, asked string) (string, error) {
	candidates := []string{asked}
	if asked == "" {
		candidates = []string{os.TempDir(), "/tmp"}
		// Memory makes a copy of a database, some 300 files, up to 20 times
		// faster. It is often mounted noexec, so not for copied binaries; and a
		// user who sets TMPDIR means it.
		if os.Getenv("TMPDIR") == "" && user.reaches(bin) && hasRoom(memoryDir) {
			candidates = slices.Insert(candidates, 0, memoryDir)
		}
	}
	for _, dir := range candidates {
		longest := filepath.Join(dir, "pgtest-4294967295", "socket", ".s.PGSQL.65535.lock")
		if user.reaches(dir) && len(longest) <= maxSocketPath {
			return filepath.Abs(dir)
		}
	}
	return "", fmt.Errorf("pgtest: none of %q exists, is open to the server's user and has a name short enough for a socket: set Options.Dir or TMPDIR", candidates)
}

func (s *site) runDir() string    { return filepath.Join(s.dir, "run") }
func (s *site) socketDir() string { return filepath.Join(s.dir, "socket") }

// program returns the path of one of PostgreSQL's programs.
func (s *site) program(name string) string { return filepath.Join(s.bin, name) }

func (s *site) makeDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return s.user.own(path)
}

func (s *site) writeFile(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return s.user.own(path)
}

// adoptBinaries copies the binaries into the site if its account cannot reach
// them, as it is with anything below /root.
func (s *site) adoptBinaries() error {
	if s.user.reaches(s.bin) {
		return nil
	}
	for _, name := range []string{"bin", "lib", "share"} {
		from := filepath.Join(filepath.Dir(s.bin), name)
		if err := s.copyTree(from, filepath.Join(s.dir, "pg", name), nil); err != nil {
			return err
		}
	}
	if err := s.user.own(filepath.Join(s.dir, "pg")); err != nil {
		return err
	}
	s.bin = filepath.Join(s.dir, "pg", "bin")
	return nil
}

// command prepares a child that lists itself in run/ before it becomes the
// program, so that there is no moment in which the watchdog does not know it.
// The folder being gone means that the watchdog was faster: then it must not run.
func (s *site) command(ctx context.Context, argv ...string) *exec.Cmd {
	const script = `: >"$0/$$" || exit 127; exec "$@"`
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", script, s.runDir()}, argv...)...)
	cmd.Dir = s.dir
	cmd.Env = s.environment()
	cmd.SysProcAttr = s.user.attributes()
	return cmd
}

// environment keeps what tells programs where things are, and drops what would
// make a server differ from machine to machine.
func (s *site) environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		for _, prefix := range []string{"PG", "PATRONI_", "ETCD_", "LC_", "LANG", "HOME=", "TZ="} {
			if strings.HasPrefix(kv, prefix) {
				return true
			}
		}
		return false
	})
	// etcd starts on a lesser-known processor only when told that we know.
	return append(env, "HOME="+s.dir, "LC_ALL=C", "ETCD_UNSUPPORTED_ARCH="+runtime.GOARCH)
}

func (s *site) marker(pid int) string { return filepath.Join(s.runDir(), fmt.Sprint(pid)) }

// run runs a program to its end; an error carries its output.
func (s *site) run(ctx context.Context, argv ...string) error {
	cmd := s.command(ctx, argv...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if cmd.Process != nil {
		_ = os.Remove(s.marker(cmd.Process.Pid))
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("pgtest: %s: %w\n%s", filepath.Base(argv[0]), err, lastLines(string(out)))
	}
	return nil
}

// spawn starts a program that stays, with its output in the file log.
func (s *site) spawn(log string, argv ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	defer out.Close()
	// Its end is nobody's context, but the node's or the watchdog's.
	cmd := s.command(context.Background(), argv...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("pgtest: %s: %w", filepath.Base(argv[0]), err)
	}
	return newProcess(cmd, s.marker(cmd.Process.Pid)), nil
}

// remove ends the folder. A server that was just killed may still be letting
// go of files, so it is tried a few times.
func (s *site) remove() (err error) {
	for range 10 {
		if err = os.RemoveAll(s.dir); err == nil {
			return nil
		}
		runtime.Gosched()
	}
	return fmt.Errorf("pgtest: folder of the cluster: %w", err)
}

// copyTree copies a folder, giving it to the account. skip, which may be nil,
// decides by the path below from. Files that vanish meanwhile are left out: in
// the folder of a running server that is normal, and the WAL makes up for it.
func (s *site) copyTree(from, to string, skip func(rel string) bool) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != from {
			return nil
		}
		if err != nil {
			return fmt.Errorf("pgtest: %w", err)
		}
		rel, _ := filepath.Rel(from, path)
		if skip != nil && skip(rel) {
			return nil
		}
		err = s.copyEntry(path, filepath.Join(to, rel), d)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func (s *site) copyEntry(from, to string, d fs.DirEntry) error {
	switch {
	case d.IsDir():
		return s.makeDir(to)
	case d.Type()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case d.Type().IsRegular():
		return s.copyFile(from, to)
	}
	return nil // a socket
}

func (s *site) copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = out.ReadFrom(in)
	return errors.Join(err, out.Close(), s.user.own(to))
}

// lastLines is what an error shows of a log: its end, where the reason is.
func lastLines(text string) string {
	const most = 12
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > most {
		lines = lines[len(lines)-most:]
	}
	return strings.Join(lines, "\n")
}
