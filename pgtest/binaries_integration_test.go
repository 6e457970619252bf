//go:build unix

package pgtest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestBinariesThatTheAccountCannotReadAreCopied is about root, whose servers
// are another user's. For everybody else there is nothing to copy.
func TestBinariesThatTheAccountCannotReadAreCopied(t *testing.T) {
	full, prefix := filepath.Dir(installed(t)), t.TempDir()
	copier := &site{}
	must(t, copier.copyTree(filepath.Join(full, "bin"), filepath.Join(prefix, "bin"), nil))
	must(t, copier.copyTree(filepath.Join(full, "lib"), filepath.Join(prefix, "lib"), nil))
	must(t, os.MkdirAll(filepath.Join(prefix, "share"), 0o700))
	must(t, os.Symlink("nowhere", filepath.Join(prefix, "share", "link")))
	must(t, syscall.Mkfifo(filepath.Join(prefix, "share", "fifo"), 0o600)) // whoever opened it would hang
	must(t, os.Chmod(prefix, 0o700))

	c := New(t, Options{BinDir: filepath.Join(prefix, "bin")})
	if os.Geteuid() != 0 {
		if c.site.bin != filepath.Join(prefix, "bin") {
			t.Errorf("copied to %s without a need", c.site.bin)
		}
		return
	}
	share := filepath.Join(c.site.dir, "pg", "share")
	if target, err := os.Readlink(filepath.Join(share, "link")); err != nil || target != "nowhere" {
		t.Errorf("the link: %q, %v", target, err)
	}
	if _, err := os.Lstat(filepath.Join(share, "fifo")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pipe was copied: %v", err)
	}
	must(t, os.RemoveAll(filepath.Join(prefix, "lib")))
	if _, err := Start(t.Context(), Options{BinDir: filepath.Join(prefix, "bin")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half an installation: %v", err)
	}
}

func TestCopyTree(t *testing.T) {
	from, to, s := t.TempDir(), t.TempDir(), &site{}
	for _, name := range []string{"kept", "skipped", "vanishes"} {
		must(t, os.WriteFile(filepath.Join(from, name), []byte(name), 0o640))
	}
	must(t, os.Mkdir(filepath.Join(from, "vanishing"), 0o700))
	must(t, s.copyTree(from, filepath.Join(to, "copy"), func(rel string) bool {
		if strings.HasPrefix(rel, "vanish") { // as the server removes a file under our eyes
			must(t, os.Remove(filepath.Join(from, rel)))
		}
		return rel == "skipped"
	}))
	text, err := os.ReadFile(filepath.Join(to, "copy", "kept"))
	if err != nil || string(text) != "kept" {
		t.Errorf("kept: %q, %v", text, err)
	}
	for _, name := range []string{"skipped", "vanishes"} {
		if _, err := os.Stat(filepath.Join(to, "copy", name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.copyTree(from, filepath.Join(to, "copy"), nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over what is there: %v", err)
	}
	if err := s.copyTree(filepath.Join(from, "missing"), to, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}

func TestFindBinariesLooksInDebiansFolders(t *testing.T) {
	t.Setenv(binDirEnv, "")
	t.Setenv("NODE_PATH", "")
	t.Setenv("PATH", t.TempDir())
	t.Chdir(t.TempDir())
	got, err := findBinaries(t.Context(), "")
	if want := newestServer("/usr/lib/postgresql"); got != want || (want == "") != errors.Is(err, errNoBinaries) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestBinariesBesideALink(t *testing.T) {
	// A folder of links whose target has the server alone.
	target, links := t.TempDir(), fakeServer(t, t.TempDir())
	must(t, os.Rename(filepath.Join(links, "postgres"), filepath.Join(target, "postgres")))
	must(t, os.Symlink(filepath.Join(target, "postgres"), filepath.Join(links, "postgres")))
	t.Setenv("PATH", links)
	if got := binariesInPath(t.Context()); got != links {
		t.Errorf("got %q, want %q", got, links)
	}
}
