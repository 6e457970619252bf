package pgtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// binDirEnv names the folder with PostgreSQL's programs.
const binDirEnv = "PGKEEL_PG_BIN"

// errNoBinaries says what to install, since that is all its reader wants to know.
var errNoBinaries = errors.New(`pgtest: found no PostgreSQL binaries (initdb, postgres). Any of these helps:
  Debian, Ubuntu:  apt-get install postgresql
  Fedora:          dnf install postgresql-server
  macOS:           brew install postgresql
  npm:             npm i ` + npmPackage + `
  Go, downloads:   import _ "github.com/pgkeel/pgkeel/pgtest/embedded"
  elsewhere:       set ` + binDirEnv + ` to the folder that has them
  or set ` + outsideEnv + ` to use a server that is already running`)

// npmPackage is the one for this machine.
var npmPackage = npmPackageFor(runtime.GOOS, runtime.GOARCH)

// npmPackageFor names machines as npm does.
func npmPackageFor(system, processor string) string {
	known := map[string]string{"amd64": "x64", "386": "ia32"}
	return "@embedded-postgres/" + system + "-" + cmp.Or(known[processor], processor)
}

// A binarySource is a registered way of getting hold of binaries.
type binarySource struct {
	name string
	find func(ctx context.Context) (binDir string, err error)
}

var (
	sourcesMu sync.Mutex
	sources   []binarySource
)

// RegisterBinaries adds a last resort: find is called when the machine has no
// PostgreSQL, and returns a folder with initdb and postgres. Several are tried
// in the order of registration. It panics on an empty or taken name and on a
// nil function, like sql.Register. It is meant to be called from init.
func RegisterBinaries(name string, find func(ctx context.Context) (binDir string, err error)) {
	sourcesMu.Lock()
	defer sourcesMu.Unlock()
	taken := slices.ContainsFunc(sources, func(s binarySource) bool { return s.name == name })
	if name == "" || find == nil || taken {
		panic(fmt.Sprintf("pgtest: RegisterBinaries(%q): the name is empty or taken, or the function nil", name))
	}
	sources = append(sources, binarySource{name, find})
}

// findBinaries returns the folder with initdb and postgres; see the package
// documentation for the order.
func findBinaries(ctx context.Context, binDir string) (string, error) {
	if binDir != "" {
		return chosenBinaries("Options.BinDir", binDir)
	}
	if dir := os.Getenv(binDirEnv); dir != "" {
		return chosenBinaries(binDirEnv, dir)
	}
	for _, look := range []func(context.Context) string{binariesInPath, binariesOfDebian, binariesOfNPM} {
		if dir := look(ctx); dir != "" {
			return filepath.Abs(dir)
		}
	}
	return registeredBinaries(ctx)
}

// chosenBinaries never falls through to another place: a user who names a
// folder wants that version and no other.
func chosenBinaries(what, dir string) (string, error) {
	if !hasServer(dir) {
		return "", fmt.Errorf("pgtest: %s: no initdb and postgres in %s", what, dir)
	}
	return filepath.Abs(dir)
}

func binariesInPath(ctx context.Context) string {
	if path, err := exec.LookPath("postgres"); err == nil {
		// A link in /usr/local/bin leads to the folder with the other programs.
		if real, err := filepath.EvalSymlinks(path); err == nil && hasServer(filepath.Dir(real)) {
			return filepath.Dir(real)
		}
		if hasServer(filepath.Dir(path)) {
			return filepath.Dir(path)
		}
	}
	// The client's development package has pg_config too, so its word is checked.
	out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output()
	if dir := strings.TrimSpace(string(out)); err == nil && hasServer(dir) {
		return dir
	}
	return ""
}

func binariesOfDebian(context.Context) string {
	return newestServer("/usr/lib/postgresql")
}

// newestServer returns the bin folder of the highest major version below root.
func newestServer(root string) string {
	dirs, _ := filepath.Glob(filepath.Join(root, "*", "bin"))
	best, bestMajor := "", -1.0
	for _, dir := range dirs {
		major, err := strconv.ParseFloat(filepath.Base(filepath.Dir(dir)), 64)
		if err == nil && major > bestMajor && hasServer(dir) {
			best, bestMajor = dir, major
		}
	}
	return best
}

func binariesOfNPM(context.Context) string {
	var roots []string
	if cwd, err := os.Getwd(); err == nil {
		for dir := cwd; ; dir = filepath.Dir(dir) {
			roots = append(roots, filepath.Join(dir, "node_modules"))
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	roots = append(roots, filepath.SplitList(os.Getenv("NODE_PATH"))...)
	for _, root := range roots {
		dir := filepath.Join(root, filepath.FromSlash(npmPackage), "native", "bin")
		if hasServer(dir) {
			return dir
		}
	}
	return ""
}

func registeredBinaries(ctx context.Context) (string, error) {
	sourcesMu.Lock()
	list := slices.Clone(sources)
	sourcesMu.Unlock()
	errs := []error{errNoBinaries}
	for _, s := range list {
		dir, err := s.find(ctx)
		if err == nil {
			return chosenBinaries(s.name, dir)
		}
		errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
	}
	return "", errors.Join(errs...)
}

// findProgram returns a program that is not PostgreSQL's: the one that the
// environment variable env names, which is final, else the one in PATH, else the
// one where Debian puts what ordinary users do not look for. hint is the error
// where there is none.
func findProgram(name, env string, hint error) (string, error) {
	if path := os.Getenv(env); path != "" {
		if !isProgram(path) {
			return "", fmt.Errorf("pgtest: %s: %s is no program", env, path)
		}
		return filepath.Abs(path)
	}
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	if path := filepath.Join("/usr/sbin", name); isProgram(path) {
		return path, nil
	}
	return "", hint
}

func hasServer(dir string) bool {
	return isProgram(filepath.Join(dir, "initdb")) && isProgram(filepath.Join(dir, "postgres"))
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
